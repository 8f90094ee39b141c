"""Keep the process that loads the libraries, which imports this first, from searching what it loads for garbage.

The searches take a quarter of the imports' time. A fork server runs nothing but imports, so this one module does its
work when it is imported. What was loaded is kept out of its forks' searches too, as the documentation of `gc.freeze`
advises: else each search of a step looks through a million objects of the libraries, for half a second.
"""

import gc
import os

SERVER = os.getpid()


def _freeze() -> None:
    if os.getpid() == SERVER:  # what a step has made is its own to collect
        gc.freeze()


gc.disable()
os.register_at_fork(before=_freeze, after_in_child=gc.enable)

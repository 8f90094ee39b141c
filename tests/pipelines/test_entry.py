"""The entry point of the command."""

import subprocess
import sys

INTERRUPTED = """
import sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from pipelines.entry import main
main()
"""


def test_an_interrupt_while_the_libraries_load_is_quiet() -> None:
    """Ctrl-C in the first half second ends the command as later on: status 130, and not a word."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

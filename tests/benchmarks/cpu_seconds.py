"""Run Python on some arguments, and print below its output the CPU seconds of all of its processes.

`python -m tests.benchmarks.cpu_seconds -m pipelines.cli run …`; the exit status is the command's. Processes that the
command leaves behind, such as a fork server, are waited for and count too.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36  # of Linux' prctl.h


def main() -> int:
    """Run the command, and return its exit status."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become this process's children
    status = subprocess.run([sys.executable, *sys.argv[1:]], check=False).returncode
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(f"\n{used.ru_utime + used.ru_stime}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

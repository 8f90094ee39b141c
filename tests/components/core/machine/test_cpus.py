"""How many CPUs a process may use."""

import os
import subprocess
import sys

from components.core.machine import cpus
from tests.support.command import ROOT


def test_threads_keep_to_the_affinity() -> None:
    """A process that may use one CPU counts one, and has libraries start one thread."""
    code = (
        "import os\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from components.core.machine import cpus\nfound = {}\n"
        "cpus.limit_threads(found)\nprint(cpus.available(), found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    always = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    limit = always | ({"OMP_NUM_THREADS": "1"} if (os.cpu_count() or 1) > 1 else {})
    assert done.stdout == f"1 {limit}\n"


def test_what_the_user_set_stays() -> None:
    """Variables that are set already are left as they are."""
    given = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "5", "OPENBLAS_NUM_THREADS": "3"}
    mine = dict(given)
    cpus.limit_threads(mine)
    assert mine == given

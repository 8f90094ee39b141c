"""The allocator's setting."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from components.core.compute.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(77)
for _ in range(24):  # until the blocks that the allocator takes by turns are there
    torch.empty(2**25).zero_()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.empty(2**25).zero_()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("the C library here is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow  # two processes that import torch
def test_a_freed_tensor_s_memory_is_used_again() -> None:
    """Eight tensors of 128 MB, one after the other, touch pages that are there, not new ones."""
    assert page_faults("kept") < page_faults("default") / 10

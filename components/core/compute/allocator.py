"""The C library's allocator, set for tensors: memory that one batch frees is taken by the next."""

import ctypes

# numbers of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
MAX_KEPT_BYTES = 2**30  # bytes; larger tensors still go back to the system at once


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors instead of returning it to the system.

    By default glibc maps every block over 32 MB anew, and the kernel clears each of its pages at first touch. An
    activation of 64 pictures is that large, so eager inference spends most of its time there: the networks' frozen
    pass runs two to four times as fast without. The most memory that a process ever held stays with it until it
    ends.

    Returns:
        Whether the C library could be told; others than glibc are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MAX_KEPT_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, MAX_KEPT_BYTES))

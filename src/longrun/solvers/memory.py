"""Memory of the process, which decides how fast solvers run on processors."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory for the next tensor; only has an effect on Linux.

    By default glibc returns every tensor of more than about a megabyte to the system, which must
    clear the pages of the next one: that takes more than half of the time of a step in two or three
    dimensions. With this the process never shrinks. For `main` functions.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries may lack it
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 1 << 30)
        mallopt(TRIM_THRESHOLD, (1 << 31) - 1)

"""Memory of the process, which decides how fast solvers run on processors."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory for the next tensor; does nothing but on Linux.

    By default glibc gives every tensor of more than about a megabyte back to the system, which
    must clear the pages of the next one: that takes more than half of the time of a step in two
    or three dimensions. The process then stays as large as it once was. For `main` functions.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library may have none
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 1 << 30)
        mallopt(TRIM_THRESHOLD, (1 << 31) - 1)

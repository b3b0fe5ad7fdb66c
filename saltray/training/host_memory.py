"""Memory of a process that computes on the CPU."""

import ctypes
import os

# Names in glibc's malloc.h; values are C ints.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
LARGEST = 2**31 - 1
HEAP = 64 * 2**20
"""What glibc reserves at once for a thread's memory."""


def keep_freed_memory() -> bool:
    """Let this process reuse the memory that it frees; False, without effect, where the C library is not glibc.

    By default glibc returns a large block to the kernel when it is freed, so each training step gets its tensors as new
    pages, and each page costs a fault. The price: memory stays with the process until it ends. A thread other than the
    main one still returns blocks of over 64 MiB.
    """
    try:
        is_glibc = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError, OSError):
        is_glibc = False
    if not is_glibc:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # A threshold of mmap would not do: glibc before 2.35 refuses one over 32 MiB.
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, LARGEST), mallopt(M_TOP_PAD, HEAP)])

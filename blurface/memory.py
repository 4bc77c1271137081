"""Memory of long-running processes."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
"""Numbers of malloc.h."""


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out: PyTorch's CPU allocator has no type of its own for it."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the next batch, instead of giving it back.

    Large tensors come from fresh pages of the kernel each time, which it clears: 10 to 15% of the
    time of large batches on the CPU, and up to half where pages are slow (virtual machines). For
    processes that compute for long, such as the commands ``train`` and ``restore``; a library must
    not decide this for its host. Anyone may call it; twice does no harm.

    Returns
    -------
    bool
        Whether the C library took it (glibc does; elsewhere nothing happens).
    """
    try:
        if not os.confstr("CS_GNU_LIBC_VERSION"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 1 << 30))

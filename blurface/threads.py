"""How many threads of the processor a computation takes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_LOCK = threading.Lock()
_inside = 0
_before = 1
_limit: Any = None
_own = threading.local()
"""How many are inside, PyTorch's number before the first came, the limit on the linear algebra, how deep
each thread is."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one processor thread inside; as before afterwards.

    For thousands of short steps, where threads would wait for each other for longer than they work. May be
    used in several threads at once: PyTorch keeps a number for each, which a new one takes from what it is
    elsewhere, the limit on the linear algebra is one for the process.
    """
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    global _inside, _before, _limit
    with _LOCK:
        if not _inside:
            _before, _limit = torch.get_num_threads(), threadpool_limits(1)
        _inside += 1
    depth = getattr(_own, "depth", 0)
    _own.depth = depth + 1
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _own.depth = depth
        if not depth:
            torch.set_num_threads(_before)
        with _LOCK:
            _inside -= 1
            if not _inside:
                _limit.restore_original_limits()

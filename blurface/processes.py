"""Many items computed by several processes, none of which is trusted to survive."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .errors import BlurfaceError
from .memory import keep_freed_memory

_RESTARTS = 2
_SMALL_SECONDS = 20.0

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def default_jobs(device: str, seconds: float) -> int:
    """Processes that suit the machine and the work.

    Parameters
    ----------
    device : str
        One process on a GPU.
    seconds : float
        Rough length of the work on one processor; starting processes takes seconds as well.
    """
    if device.partition(":")[0] != "cpu" or seconds < _SMALL_SECONDS:
        return 1
    return min(processors(), 32)


def stay_on_one_thread() -> None:
    """Compute on one processor thread from now on: for a process that :func:`run` starts."""
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(1)
    threadpool_limits(1)


def run(
    items: Sequence[Item],
    jobs: int,
    start: Callable[..., None],
    arguments: tuple[Any, ...],
    compute: Callable[[Item], Outcome],
    finished: Callable[[Item, Outcome], None],
) -> None:
    """Compute items in fresh processes, a few ahead of what is finished.

    Where a process dies (killed for memory, a crash in a library), the items it held are computed
    again by new processes, twice at most. The processes end with this one, however it ends.

    Parameters
    ----------
    items : sequence
    jobs : int
        Number of processes.
    start : callable
        Called with ``arguments`` in every new process; a function of a module, as ``compute``. It
        should call :func:`stay_on_one_thread` where it computes with torch or NumPy.
    compute : callable
        Of one item.
    finished : callable
        Called here with each item and its outcome, in no certain order.

    Raises
    ------
    BlurfaceError
        If processes keep dying; or what ``compute`` raises.
    """
    waiting = deque(items)
    for attempt in range(_RESTARTS + 1):
        running: dict[Future[Outcome], Item] = {}
        pool = ProcessPoolExecutor(
            max(1, min(jobs, len(waiting))),
            multiprocessing.get_context("spawn"),
            _begin,
            (start, arguments),
        )
        try:
            while waiting or running:
                while waiting and len(running) < 2 * jobs:
                    with _deaf_to_interrupts():
                        future = pool.submit(compute, waiting[0])
                    running[future] = waiting.popleft()
                ready, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    outcome = future.result()
                    finished(running.pop(future), outcome)
            return
        except BrokenProcessPool as error:
            waiting.extendleft(reversed(running.values()))
            if attempt == _RESTARTS:
                raise BlurfaceError(
                    "Worker processes keep dying, often for lack of memory.",
                    "Finished work is kept; run again with a smaller --jobs or --batch-size.",
                ) from error
        except KeyboardInterrupt:
            for child in list(pool._processes.values()):
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """For processes that start inside: until :func:`_begin` is reached they import for seconds."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

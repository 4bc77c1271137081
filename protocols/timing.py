"""Seconds per face of restorers (table 1): one machine, one run, all methods in turn.

Methods are timed in rounds, each in every round, so that whatever else the machine does falls on all
of them; every round takes the next kernel, because iterative methods take longer on some blurs. A
method's first call is a warm-up and does not count. The median is what is reported, with the
quartiles: a mean would count the interruptions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from blurface.errors import InputError
from blurface.restorers.base import Restorer


@dataclass
class Timing:
    """Times of one method at one batch size.

    Attributes
    ----------
    restorer : str
    batch : int
        Faces a call.
    wall, processor : list of float
        Seconds a face of each timed call: by the clock, and of all processor threads together.
    """

    restorer: str
    batch: int
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median wall seconds a face."""
        return float(np.median(self.wall))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the wall seconds a face."""
        low, high = np.quantile(self.wall, (0.25, 0.75))
        return float(low), float(high)

    @property
    def processor_median(self) -> float:
        """Median processor seconds a face."""
        return float(np.median(self.processor))


def time_restorers(
    restorers: Mapping[str, Restorer],
    probes: Sequence[tuple[Tensor, Tensor]],
    *,
    batches: Sequence[int] = (1,),
    rounds: int = 16,
    limit: float = 120.0,
    clock: Callable[[], float] = time.perf_counter,
    processor: Callable[[], float] = time.process_time,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> list[Timing]:
    """Time every method on the same faces.

    Parameters
    ----------
    restorers : mapping
        By name.
    probes : sequence of (Tensor, Tensor)
        For each kernel: (N, 3, H, W) float blurry faces in [0, 1], and the (K, K) kernel. Faces are
        repeated where a batch needs more.
    batches : sequence of int
    rounds : int
        Timed calls of each method and batch size; fewer where ``limit`` is spent.
    limit : float
        Seconds for one method and batch size, warm-up included. Of the smallest batch at least one timed
        call is made; of a larger one none where a method would outlast the limit by its time for a face.
    clock, processor : callable
        Wall and processor seconds.
    progress : callable
        Called with (phase, calls done, calls in all).

    Returns
    -------
    list of Timing
        By batch size, then in the order of ``restorers``.

    Raises
    ------
    InputError
        If there is nothing to time with.
    """
    if not probes or not all(len(faces) for faces, _ in probes):
        raise InputError("There are no faces to time with.", "Give at least one face and one kernel.")
    if rounds < 1 or min(batches, default=0) < 1:
        raise InputError(f"rounds={rounds}, batches={tuple(batches)}: both must be 1 or more.")
    timings = []
    done, total = 0, (rounds + 1) * len(restorers) * len(batches)
    single: dict[str, float] = {}
    for batch in sorted(set(batches)):
        chosen = {name: each for name, each in restorers.items() if single.get(name, 0.0) * batch < limit}
        inputs = [(_filled(faces, batch), psf) for faces, psf in probes]
        rows = {name: Timing(name, batch) for name in chosen}
        spent = dict.fromkeys(chosen, 0.0)
        for turn in range(rounds + 1):
            faces, psf = inputs[turn % len(inputs)]
            for name, restorer in chosen.items():
                done += 1
                if spent[name] >= limit and rows[name].wall:
                    continue
                # A warm-up that takes the time of all rounds is the only call that there can be.
                wall, used = _call(restorer, faces, psf, clock, processor)
                spent[name] += wall
                if turn > 0 or wall >= limit:
                    rows[name].wall.append(wall / batch)
                    rows[name].processor.append(used / batch)
                progress(name, done, total)
        timings += list(rows.values())
        single = {name: row.median for name, row in rows.items()} | single
    return timings


def _call(
    restorer: Restorer, faces: Tensor, psf: Tensor, clock: Callable[[], float], processor: Callable[[], float]
) -> tuple[float, float]:
    kernels = None if restorer.blind else psf[None]
    with torch.inference_mode():
        _wait(restorer.device)
        began, used = clock(), processor()
        restorer.restore(faces, kernels=kernels)
        _wait(restorer.device)
    return clock() - began, processor() - used


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _filled(faces: Tensor, batch: int) -> Tensor:
    repeats = -(-batch // len(faces))
    return faces.repeat(repeats, 1, 1, 1)[:batch].contiguous()

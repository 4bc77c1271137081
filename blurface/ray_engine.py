"""The same restoration on a Ray cluster: jobs are rows, actors hold the network.

Sources and targets must lie where every node sees them. Targets are written whole or not at all,
so a node that dies costs only what it was doing, and a run that was cut off is started again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors
from .collection import Job, Mend, Options, Outcome, restore_jobs
from .errors import BlurfaceError, InputError, MissingDependencyError
from .memory import keep_freed_memory


class _Actor:
    """Builds the network once and restores batch after batch of jobs."""

    def __init__(self, build: Callable[[], Mend], options: Options, batch_size: int) -> None:
        keep_freed_memory()
        self._error = ""
        try:
            self._mend = build()
        except BlurfaceError as error:
            # It travels as a row: of what stops an actor's making, Ray passes on the text alone.
            self._error = json.dumps([type(error).__name__, error.message, error.hint])
        self._options = options
        self._batch_size = batch_size

    def __call__(self, rows: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        pairs = zip(rows["source"], rows["target"], strict=True)
        jobs = [Job(Path(os.fsdecode(source)), Path(os.fsdecode(target))) for source, target in pairs]
        if self._error:
            outcomes = [Outcome("", "", "failed")]
        else:
            outcomes = list(restore_jobs(jobs, self._mend, self._options, batch_size=self._batch_size))
        columns: dict[str, NDArray[Any]] = {
            "source": np.array([os.fsencode(outcome.source) for outcome in outcomes], object),
            "target": np.array([os.fsencode(outcome.target) for outcome in outcomes], object),
            "status": np.array([outcome.status for outcome in outcomes]),
            "message": np.array([outcome.message for outcome in outcomes]),
            "error": np.array([self._error] * len(outcomes)),
        }
        scores = [np.nan if outcome.score is None else outcome.score for outcome in outcomes]
        return {**columns, "score": np.array(scores, np.float64)}


def restore_with_ray(
    jobs: Sequence[Job],
    build: Callable[[], Mend],
    options: Options | None = None,
    *,
    batch_size: int = 32,
    actors: int | None = None,
    cpus: float = 1,
    gpus: float | None = 0,
    address: str | None = None,
) -> Iterator[Outcome]:
    """Restore jobs with Ray Data.

    Parameters
    ----------
    jobs : sequence of Job
        Absolute paths are made of them, since actors work elsewhere.
    build : callable
        Makes what restores; called once in each actor (must pickle).
    options : Options, optional
    batch_size : int
        Jobs handed to an actor at once.
    actors : int, optional
        Size of the pool; default as many as the cluster has room for.
    cpus, gpus : float
        What one actor takes; ``gpus=None``: one where the cluster has any.
    address : str, optional
        Of a running cluster (``"auto"``, ``"ray://host:10001"``); without it the cluster that this
        process is connected to, else a local one.

    Yields
    ------
    Outcome
        One a job, as they are finished.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    InputError
        If the cluster cannot be reached or has no room for an actor.
    BlurfaceError
        What ``build`` raises in an actor.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"Ray cannot be imported ({error}).", "Install it with: pip install 'blurface[ray]'."
        ) from error
    started = False
    if not ray.is_initialized():
        try:
            ray.init(
                address=address, log_to_driver=False, include_dashboard=False if address is None else None
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The Ray cluster {address or 'on this machine'!r} cannot be reached: {error}",
                "Check its address, or leave --ray-address out for a local one.",
            ) from error
        started = True
    try:
        cluster: Any = ray  # its function is not typed
        total = cluster.cluster_resources()
        if gpus is None:
            gpus = 1 if total.get("GPU") else 0
        room = int(total.get("CPU", 0) // cpus) if cpus else len(jobs)
        if gpus:
            room = min(room, int(total.get("GPU", 0) // gpus))
        if room < 1:
            raise InputError(
                f"The Ray cluster has no room for an actor of {cpus:g} CPUs and {gpus:g} GPUs.",
                "Ask for less, or add nodes.",
            )
        batches = -(-len(jobs) // batch_size)
        size = max(1, min(actors or room, room, batches))
        # As bytes: a name need not be valid Unicode, and Arrow's strings are.
        rows = [
            {"source": os.fsencode(job.source.absolute()), "target": os.fsencode(job.target.absolute())}
            for job in jobs
        ]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # One block a batch, so that every actor has work and a lost one costs one batch.
        dataset = ray.data.from_items(rows, override_num_blocks=max(1, batches)).map_batches(
            _Actor,
            fn_constructor_args=(build, options or Options(), batch_size),
            batch_size=batch_size,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        for row in dataset.iter_rows():
            if row["error"]:
                kind, message, hint = json.loads(row["error"])
                raise getattr(errors, kind, BlurfaceError)(message, hint)
            score = None if np.isnan(row["score"]) else float(row["score"])
            source, target = os.fsdecode(row["source"]), os.fsdecode(row["target"])
            yield Outcome(source, target, row["status"], score, row["message"])
    finally:
        if started:
            ray.shutdown()

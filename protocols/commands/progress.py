"""Progress on standard error: bars with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import click

_LINE_SECONDS = 15.0

Item = TypeVar("Item")


class PhaseProgress:
    """A context manager to be called with (phase, done, total), as :data:`protocols.runner.Progress`.

    Parameters
    ----------
    quiet : bool
        Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._quiet = quiet
        self._bars: Progress | None = None
        if console.is_terminal and not quiet:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
        self._tasks: dict[str, object] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def __enter__(self) -> PhaseProgress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` faces of ``phase`` are finished."""
        if self._quiet:
            return
        if self._bars is not None:
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(phase, total=total)
            self._bars.update(self._tasks[phase], completed=done, total=total)  # type: ignore[arg-type]
            return
        now = time.monotonic()
        began, first = self._began.setdefault(phase, (now, done))
        if done < total and now - self._last < _LINE_SECONDS:
            return
        self._last = now
        rate = (done - first) / (now - began) if now > began else 0.0
        left = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
        click.echo(f"{phase}: {done:,} of {total:,} faces{left}", err=True)

    def track(self, items: Iterable[Item], phase: str, total: int) -> Iterator[Item]:
        """The items, each counted when the next one is asked for."""
        for done, item in enumerate(items):
            self(phase, done, total)
            yield item
        self(phase, total, total)


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

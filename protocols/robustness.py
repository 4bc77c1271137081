"""Noise, JPEG and size: does restoration still help on probes that are worse than blurred?

The grid crosses noise with JPEG at full size, and goes through sizes without either. Every condition
is an ordinary run, so that its cells are kept and its pairs, kernels and intervals are those of all
other tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blurface.errors import InputError

from .experiments import Experiment
from .kinds import require_alike, unreadable
from .results import MEAN, Summary, slug
from .run_folder import Run
from .runner import CONTROL
from .tables import Column, Table, shown_interval, shown_p, shown_restorer

NOISES = (0.0, 0.01, 0.02, 0.05)
"""Standard deviations on the scale of [0, 1]; 0.01 is a well-lit sensor, 0.05 a dark one."""

JPEGS: tuple[int | None, ...] = (None, 90, 70, 50, 30)
"""Qualities; None: no compression."""

SIZES = (1.0, 0.75, 0.5, 0.35)
"""Shares of the photograph's width and height."""


@dataclass(frozen=True)
class Condition:
    """What is done to a probe besides blur.

    Attributes
    ----------
    noise : float
    jpeg : int or None
    size : float
    """

    noise: float = 0.0
    jpeg: int | None = None
    size: float = 1.0

    @property
    def name(self) -> str:
        """As part of a folder's name."""
        return f"noise{self.noise:g}-jpeg{self.jpeg or 'none'}-size{self.size:g}"

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment under this condition."""
        return experiment.replace(noise=self.noise, jpeg=self.jpeg, size=self.size)

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Condition:
        """The condition of a finished run, from the options in its ``run.json``."""
        return cls(float(options["noise"]), options["jpeg"], float(options.get("size", 1.0)))


def conditions(
    noises: Sequence[float] = NOISES,
    jpegs: Sequence[int | None] = JPEGS,
    sizes: Sequence[float] = SIZES,
) -> list[Condition]:
    """All conditions, each once: noise x JPEG at full size, then the sizes."""
    grid = [Condition(noise, jpeg) for noise in noises for jpeg in jpegs]
    return list(dict.fromkeys([*grid, *(Condition(size=size) for size in sizes)]))


def conditions_of(runs: Sequence[Run], where: str) -> list[tuple[Condition, Summary]]:
    """Finished runs by their conditions.

    Parameters
    ----------
    runs : sequence of Run
    where : str
        What they are to stand in, e.g. ``"Table robustness"``.

    Raises
    ------
    InputError
        If they differ in more than their conditions, or two are under the same one.
    """
    require_alike(runs, where, {"noise", "jpeg", "size"})
    found: dict[Condition, Run] = {}
    for run in runs:
        condition = Condition.from_options(run.record["options"])
        if (other := found.setdefault(condition, run)) is not run:
            raise InputError(
                f"{where} cannot hold two runs under {condition.name}: {other.name} and {run.name}.",
                "Name one of them.",
            )
    return [(condition, run.summary) for condition, run in found.items()]


def robustness_table(measured: Sequence[tuple[Condition, Summary]], verifier: str) -> Table:
    """Mean accuracy over the kernels under every condition, for every restorer.

    Parameters
    ----------
    measured : sequence of (Condition, Summary)
        Summaries of the same pairs, kernels and restorers.
    verifier : str
    """
    columns = [
        Column("Noise", 2),
        Column("JPEG"),
        Column("Size", 2),
        Column("Restorer"),
        Column("accuracy", 2, 100, unit="%"),
        Column("95% interval"),
        Column("against blurry", 2, 100, unit="points"),
        Column("p"),
        Column("PSNR", 2, 1, unit="dB"),
    ]
    about = measured[0][1].about
    title = f"Noise, JPEG and size: {about['protocol']}, {about['pairs']:,} pairs, {verifier}"
    table = Table(f"robustness-{slug(verifier)}", title, columns)
    for condition, summary in measured:
        blurry = summary.value(verifier, CONTROL, MEAN, "accuracy")
        for restorer in summary.restorers:
            row = summary.row(verifier, restorer, MEAN, "accuracy")
            if row is None:
                continue
            table.add(
                condition.noise,
                "none" if condition.jpeg is None else str(condition.jpeg),
                condition.size,
                shown_restorer(restorer),
                row.value,
                shown_interval(row.ci_low, row.ci_high),
                None if restorer == CONTROL else row.value - blurry,
                shown_p(summary.value(verifier, restorer, MEAN, "mcnemar_p")),
                summary.value(verifier, restorer, MEAN, "psnr"),
            )
    table.notes.append(
        f"Means over the kernels of {about['kernel_set']}. Noise: standard deviation on the scale of [0, 1]. "
        "Size: share of the photograph's width and height to which the probe was reduced. p: McNemar's test "
        "against none on the same pairs, over all kernels."
    )
    table.notes += unreadable(summary for _, summary in measured)
    return table


def grid_of(
    measured: Sequence[tuple[Condition, Summary]], verifier: str, restorer: str
) -> tuple[NDArray[np.float64], list[float], list[int | None]]:
    """Mean accuracy of a restorer over noise (rows) and JPEG (columns) at full size; NaN where unknown."""
    flat = [(condition, summary) for condition, summary in measured if condition.size == 1]
    noises = sorted({condition.noise for condition, _ in flat})
    jpegs = sorted({condition.jpeg for condition, _ in flat}, key=lambda q: -(q or 101))
    values = np.full((len(noises), len(jpegs)), np.nan)
    for condition, summary in flat:
        place = noises.index(condition.noise), jpegs.index(condition.jpeg)
        values[place] = summary.value(verifier, restorer, MEAN, "accuracy")
    return values, noises, jpegs

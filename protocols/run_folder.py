"""A finished run, read back from its folder.

What ``blurface verify --out`` wrote is enough to make its tables, figures and page again: the rows of
``results.json``, the scores of every pair, and ``run.json``. Pictures are not kept; see
:mod:`protocols.pictures`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from blurface.errors import DataError

from .record import read_places
from .results import COLUMNS, MEAN, Row, Summary, slug
from .runner import CONTROL, SHARP

SCORE_COLUMNS = (
    "pair",
    "reference",
    "probe",
    "genuine",
    "fold",
    "restorer",
    "kernel",
    "score",
    "sharp_score",
    "score_fixed",
    "decision",
    "decision_fixed",
    "failed",
)
"""Columns of ``scores/*.parquet`` that are used here; others may be there."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    folder : Path
    record : dict
        ``run.json``: command, options, versions, machine, fingerprints; and as ``places`` where the
        folders lie that it names.
    summary : Summary
        Rows, scores and conditions, as when the run had just finished.
    label : str
        Instead of the folder's name, where several runs have the same.
    """

    folder: Path
    record: dict[str, Any]
    summary: Summary
    label: str = ""

    @property
    def name(self) -> str:
        """The folder's name, or its label."""
        return self.label or self.folder.resolve().name

    @property
    def protocol(self) -> str:
        """Name of the protocol, e.g. ``"lfw"``."""
        return str(self.summary.about.get("protocol", ""))

    @property
    def restored(self) -> list[str]:
        """Restorers besides the control."""
        return [name for name in self.summary.restorers if name != CONTROL]

    def has_scores(self, verifier: str) -> bool:
        """Whether the scores of every pair lie beside the results; they may have been left out."""
        return verifier in self.summary.scores


def scores_of(summary: Summary, verifier: str) -> pd.DataFrame:
    """Scores of every pair under a verifier.

    Raises
    ------
    DataError
        If they are not at hand: a run's folder may be kept without ``scores/``.
    """
    if verifier not in summary.scores:
        raise DataError(
            f"The scores of the pairs under {verifier} are not in the run's folder.",
            "Run the same blurface verify command again; what is in the cache is used.",
        )
    return summary.scores[verifier]


def cell(scores: pd.DataFrame, restorer: str, kernel: str) -> pd.DataFrame:
    """The lines of one restorer and kernel, by pair."""
    chosen = scores[(scores["restorer"] == restorer) & (scores["kernel"] == kernel)]
    return chosen.sort_values("pair").reset_index(drop=True)


def read_run(folder: Path) -> Run:
    """Read a finished run. The scores of the pairs may be missing (:func:`scores_of`).

    Parameters
    ----------
    folder : Path
        What ``blurface verify --out`` wrote.

    Raises
    ------
    DataError
        If a file is missing or is not what a run writes; the message names it.
    """
    results = _read_json(folder / "results.json")
    record = _read_json(folder / "run.json")
    about = results.get("about")
    listed = results.get("results")
    if not isinstance(about, dict) or not isinstance(listed, list) or not listed:
        raise _malformed(folder / "results.json", "it holds no results")
    try:
        rows = [_row(entry) for entry in listed]
    except (TypeError, KeyError, ValueError) as error:
        raise _malformed(folder / "results.json", f"a row cannot be read ({error!r})") from error
    for part in ("options", "fingerprints"):
        if not isinstance(record.get(part), dict):
            raise _malformed(folder / "run.json", f"it holds no {part}")
    verifiers = _in_order(row.verifier for row in rows)
    paths = {verifier: folder / "scores" / f"{slug(verifier)}.parquet" for verifier in verifiers}
    scores = {verifier: _read_scores(path) for verifier, path in paths.items() if path.exists()}
    kernels = [name for name in _in_order(row.kernel for row in rows) if name not in (SHARP, MEAN)]
    summary = Summary(rows, scores, about, verifiers, _in_order(row.restorer for row in rows), kernels)
    return Run(folder, {**record, "places": read_places(folder)}, summary)


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read finished runs, each once, and give them names of their own.

    Raises
    ------
    DataError
        As :func:`read_run`.
    """
    runs = [read_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    names = [run.name for run in runs]
    named: dict[str, Run] = {}
    for run in runs:
        name = run.name
        if names.count(name) > 1:
            name = f"{run.folder.resolve().parent.name}-{name}"
        number, label = 2, name
        while label in named:
            number, label = number + 1, f"{name}-{number}"
        named[label] = dataclasses.replace(run, label=label)
    return list(named.values())


def _row(entry: dict[str, Any]) -> Row:
    values = {name: entry[name] for name in COLUMNS}
    for name in ("value", "ci_low", "ci_high"):
        values[name] = math.nan if values[name] is None else float(values[name])
    for name in ("protocol", "verifier", "restorer", "kernel_set", "kernel", "metric"):
        values[name] = str(values[name])
    return Row(**values, note=entry.get("note"))


def _in_order(names: Any) -> list[str]:
    return list(dict.fromkeys(names))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} is not the folder of a finished run: it has no {path.name}.",
            "Make one with: blurface verify --out FOLDER.",
        ) from None
    except (OSError, ValueError) as error:
        raise _malformed(path, str(error)) from error
    if not isinstance(content, dict):
        raise _malformed(path, "it is no JSON object")
    return content


def _read_scores(path: Path) -> pd.DataFrame:
    import pyarrow

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise _malformed(path, str(error).splitlines()[0]) from error
    if missing := [name for name in SCORE_COLUMNS if name not in frame.columns]:
        raise _malformed(path, f"it lacks the columns {', '.join(missing)}")
    return frame


def _malformed(path: Path, why: str) -> DataError:
    return DataError(f"{path} cannot be used: {why}.", "Run the same blurface verify command again.")

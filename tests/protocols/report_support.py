"""A whole run without data: drawn crops, a small verifier, an oracle that really restores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runner_support import Thumbnails, draw_crops

from blurface.restorers import restorers
from protocols.experiments import Experiment
from protocols.run_folder import Run, read_run
from protocols.runner import Choice
from verification import embedders

HOSTILE = "<img src=x onerror=alert(1)>&\"'"
"""A folder name that would run as code if it were not escaped."""


def register_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier ``thumbnails``, for one test."""
    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    monkeypatch.setattr(embedders, "_entries", dict(embedders._entries))
    embedders.register(Thumbnails.name, Thumbnails)


def kernel_files(folder: Path) -> Path:
    """Two kernels: a line and a box."""
    folder.mkdir(parents=True)
    line = np.zeros((15, 15), np.float32)
    line[7] = 1
    np.save(folder / "line.npy", line)
    np.save(folder / "box.npy", np.ones((9, 9), np.float32))
    return folder


def toy_experiment(root: Path, **changes: object) -> Experiment:
    """Eight people, one with a hostile name; about 40 pairs in ten folds."""
    crops = draw_crops(root / "crops", people=8)
    # A double quote cannot stand in a pair list, and a slash in no name.
    (crops / "Person_7").rename(crops / HOSTILE.replace('"', ""))
    options: dict[str, object] = {
        "pairs": f"folder-aligned:{crops}",
        "border": "replicate",
        "restorers": (Choice("none"), Choice("wiener")),
        "kernel_sets": (f"file:{kernel_files(root / 'kernels')}",),
        "verifiers": ("thumbnails",),
        "jobs": 1,
    }
    return Experiment(**{**options, **changes})  # type: ignore[arg-type]


def toy_run(root: Path, **changes: object) -> Run:
    """A finished run in ``root/run``; its cells are in ``root/cache``."""
    toy_experiment(root, **changes).run(root / "run", cache=root / "cache")
    return read_run(root / "run")

"""Where the real data lies, and what tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """Research data of the developers: ``BLURFACE_SHARED`` or ``shared`` beside the checkout."""
    return Path(os.environ.get("BLURFACE_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared research data; the test is skipped, saying so, where it is absent."""
    folder = shared_folder()
    if not (folder / "data").is_dir():
        pytest.skip(f"research data not found at {folder} (set BLURFACE_SHARED)")
    return folder


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """Outputs of the classical methods' authors."""
    folder = shared / "baselines" / "reference"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

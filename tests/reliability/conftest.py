"""The toys of the protocol tests serve here too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "protocols"))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restorers and a verifier that cost nothing, registered in this process only."""
    from reliability_support import Invert
    from runner_support import Brighter, Thumbnails

    from blurface.restorers import restorers
    from verification import embedders

    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    monkeypatch.setattr(embedders, "_entries", dict(embedders._entries))
    restorers.register(Invert.name, Invert)
    restorers.register(Brighter.name, Brighter)
    embedders.register(Thumbnails.name, Thumbnails)

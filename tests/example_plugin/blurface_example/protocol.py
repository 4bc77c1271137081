"""A protocol in one function."""

from __future__ import annotations

from pathlib import Path

from protocols.datasets import Pair, PairList, Protocol


def two_faces(folder: str = ".") -> Protocol:
    """Two pictures, a.png and b.png, said to be of one person and of two."""
    files = {name: Path(folder) / f"{name}.png" for name in ("a", "b")}
    pairs = PairList("two-faces", (Pair("a", "b", True, 0), Pair("b", "a", False, 0)), 1)
    return Protocol("two-faces", pairs, files, prealigned=True, description="an example")

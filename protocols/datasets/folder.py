"""Any collection with one folder a person: ``folder:PATH``."""

from __future__ import annotations

from pathlib import Path

from blurface.errors import DataError

from .base import Gallery, Protocol
from .pairs import generate_pairs, read_pairs, resolve


def folder(
    path: str | Path,
    *,
    pairs: str | Path | None = None,
    folds: int | None = None,
    per_fold: int | None = None,
    seed: int = 0,
) -> Protocol:
    """Photographs in ``PATH/Person/*.jpg`` or ``PATH/group/Person/*.jpg``.

    Parameters
    ----------
    path : path
    pairs : path, optional
        A pair list in LFW's format; by default ``pairs.txt`` in or ``<PATH>-pairs.txt`` beside the
        folder, else pairs are drawn.
    folds, per_fold, seed
        For drawn pairs; see :func:`~protocols.datasets.pairs.generate_pairs`.

    Raises
    ------
    DataError
        If the folder does not exist or cannot be read.
    PairsError
        If the list is malformed or names pictures that are missing, or if there are not enough
        pictures to draw pairs.
    """
    return build(f"folder:{Path(path).name}", _named(path), pairs, folds, per_fold, seed, False)


def aligned_folder(
    path: str | Path,
    *,
    pairs: str | Path | None = None,
    folds: int | None = None,
    per_fold: int | None = None,
    seed: int = 0,
) -> Protocol:
    """As :func:`folder`, for 112x112 crops that are aligned to the ArcFace template already."""
    return build(f"folder-aligned:{Path(path).name}", _named(path), pairs, folds, per_fold, seed, True)


def _named(path: str | Path) -> Path:
    if not str(path):
        raise DataError("No folder is named.", "Put it after the colon, e.g. folder:photographs.")
    return Path(path)


def build(
    name: str,
    root: Path,
    pairs: str | Path | None,
    folds: int | None,
    per_fold: int | None,
    seed: int,
    prealigned: bool,
    description: str = "",
) -> Protocol:
    """A protocol from a folder and, where there is one, its pair list; see :func:`folder`."""
    root = root.expanduser()
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist.", "Name one that holds a folder a person.")
    gallery = Gallery(root)
    source = Path(pairs).expanduser() if pairs is not None else beside(root)
    if source is not None:
        lines, folds = read_pairs(source)
        how = f"pairs of {source.name}"
    else:
        lines, folds = generate_pairs(gallery, folds, per_fold, seed)
        how = f"pairs drawn with seed {seed}"
    found, files = resolve(name, lines, folds, gallery, str(source or root))
    kind = "aligned 112x112 crops" if prealigned else "photographs"
    return Protocol(name, found, files, prealigned, f"{description or root.name}, {kind}, {how}")


def beside(root: Path) -> Path | None:
    """The pair list that lies in or beside a folder, if there is one."""
    places = (root / "pairs.txt", root.parent / f"{root.name}-pairs.txt")
    return next((path for path in places if path.is_file()), None)

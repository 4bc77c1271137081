"""Labeled Faces in the Wild, view 2: 6,000 pairs in ten folds (Huang et al. 2007)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from blurface import assets
from blurface.errors import DataError, ImageError, InputError

from .base import Gallery, Protocol
from .pairs import read_pairs, resolve

Crops = Literal["auto", "photographs", "aligned"]


def lfw(pairs: str | Path | None = None, *, data_root: Path | None = None, crops: Crops = "auto") -> Protocol:
    """LFW on disk, in any of its official layouts or as aligned crops.

    Parameters
    ----------
    pairs : path, optional
        A pair list in LFW's format; by default ``pairs.txt`` beside, in or above the pictures.
    data_root : Path, optional
        Searched first; see :func:`blurface.assets.data_roots`.
    crops : {"auto", "photographs", "aligned"}
        ``photographs``: 250x250, deep-funneled, funneled or original, in this order;
        ``aligned``: 112x112 crops; ``auto``: photographs where there are any, else crops.

    Raises
    ------
    DataError
        If pictures or list are not found; says what to place where.
    PairsError
        If the list is malformed or names pictures that are missing.
    """
    if crops not in ("auto", "photographs", "aligned"):
        raise InputError(f"crops={crops!r} is unknown.", "Use auto, photographs or aligned.")
    root, prealigned = _pictures(crops, data_root)
    source = Path(pairs).expanduser() if pairs is not None else pairs_file(root, data_root)
    lines, folds = read_pairs(source)
    name = "lfw" if pairs is None else f"lfw:{source.stem}"
    found, files = resolve(name, lines, folds, Gallery(root), str(source))
    kind = "aligned 112x112 crops" if prealigned else "photographs"
    return Protocol(name, found, files, prealigned, f"Labeled Faces in the Wild, {kind} ({root.name})")


def _pictures(crops: Crops, data_root: Path | None) -> tuple[Path, bool]:
    order = {"photographs": ("lfw",), "aligned": ("lfw-aligned",)}.get(crops, ("lfw", "lfw-aligned"))
    for asset in order:
        try:
            root = assets.find(asset, data_root)
        except DataError:
            continue
        # A data root may be the folder of pictures itself: their size tells which kind they are.
        aligned = _size(root) == (112, 112)
        if crops == "auto" or aligned == (crops == "aligned"):
            return root, aligned
        kind = "112x112 crops" if aligned else "photographs, not 112x112 crops"
        raise DataError(f"{root} holds {kind}, but crops={crops!r} was asked for.", "Use crops='auto'.")
    return assets.find(order[0], data_root), False  # raises: says what to place where


def _size(root: Path) -> tuple[int, int]:
    """Width and height of one of the pictures below a folder."""
    from blurface.images import open_image

    path = next(root.glob("*/*_0001.*"), None)
    try:
        if path is not None:
            return open_image(path).size
    except ImageError:
        pass  # reading it later names the file
    return 0, 0


def pairs_file(root: Path | None = None, data_root: Path | None = None) -> Path:
    """Where ``pairs.txt`` is: beside the pictures in ``root``, in them, else under a data root.

    Raises
    ------
    DataError
        If it is nowhere.
    """
    if root is not None:
        for folder in (root.parent, root):
            if (folder / "pairs.txt").is_file():
                return folder / "pairs.txt"
    return assets.find("lfw-pairs", data_root)


def lfw_people(data_root: Path | None = None) -> set[str]:
    """Names of everybody in LFW's ``pairs.txt`` (4,281 people): never to be trained on.

    Raises
    ------
    DataError
        If ``pairs.txt`` is not found.
    PairsError
        If it is malformed.
    """
    lines, _ = read_pairs(assets.find("lfw-pairs", data_root))
    return {person for line in lines for person, _ in (line.first, line.second)}

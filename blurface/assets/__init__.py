"""Data sets and foreign weights: where they are, what they should hash to, how to get them.

Nothing here is ours to ship. :func:`find` looks for a file or folder in the places where people
keep it; :func:`fetch` downloads what has a public address into the cache. Our own networks'
weights are the business of :mod:`blurface.weights`.

Downloads use HTTPS and are checked against SHA-256 where a checksum is published by a party we
can name (each file says where its checksum comes from). For the others, the checksum of the first
download is kept beside the file and every later download or check is compared with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DataError, UnknownNameError
from .catalogue import ASSETS, Asset, RemoteFile, get_asset
from .download import DOWNLOADS, download_file, is_complete, locked, read_receipt, sha256_file

__all__ = [
    "ASSETS",
    "CACHE_PARTS",
    "Asset",
    "CheckResult",
    "RemoteFile",
    "cache_folder",
    "check",
    "clear",
    "clear_cache",
    "data_roots",
    "fetch",
    "find",
    "get_asset",
    "sha256_file",
]


def cache_folder() -> Path:
    """Where downloads, landmarks and finished cells are kept: ``BLURFACE_CACHE`` or the user's cache."""
    given = os.environ.get("BLURFACE_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("blurface"))


def data_roots(data_root: Path | None = None) -> list[Path]:
    """Folders searched for data, in order: the argument, ``BLURFACE_DATA``, ``<cache>/data``.

    ``BLURFACE_DATA`` may hold several folders, separated as in ``PATH``.
    """
    roots = [Path(data_root).expanduser()] if data_root is not None else []
    roots += [Path(p).expanduser() for p in os.environ.get("BLURFACE_DATA", "").split(os.pathsep) if p]
    roots.append(cache_folder() / "data")
    return list(dict.fromkeys(roots))


def find(name: str, data_root: Path | None = None) -> Path:
    """Path of the file or folder of an asset.

    Parameters
    ----------
    name : str
        A key of :data:`ASSETS`.
    data_root : Path, optional
        Searched first; see :func:`data_roots`.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    DataError
        If it is in none of the places; the message says what to place where.
    """
    asset = get_asset(name)
    roots = data_roots(data_root)
    for path in _places(asset, roots):
        if _present(path, asset.marker):
            return path
    searched = ", ".join(str(root) for root in roots)
    hint = f"Place {asset.place} under one of them, or name another folder with --data-root or BLURFACE_DATA"
    if asset.files:
        hint += f"; with a network: blurface data get {name}"
    elif asset.home:
        hint += f" (source: {asset.home})"
    raise DataError(f"{name} ({asset.description}) is not in {searched}.", hint + ".")


def _places(asset: Asset, roots: list[Path]) -> Iterator[Path]:
    for root in roots:
        for candidate in asset.candidates:
            path = root / candidate
            yield path.resolve() if ".." in path.parts else path
    for place in asset.elsewhere:
        yield place()


def _present(path: Path, marker: str) -> bool:
    try:
        if not marker:
            return path.exists()
        return path.is_dir() and next(path.glob(marker), None) is not None
    except OSError:  # an unreadable folder is as good as absent
        return False


def fetch(name: str, progress: bool = True) -> Path:
    """Download an asset into ``<cache>/data`` and return its path.

    What is there already, complete, is not downloaded again; a download that was cut goes on
    where it stopped. Files appear under their names only when complete and checked.

    Parameters
    ----------
    name : str
        A key of :data:`ASSETS`.
    progress : bool
        Draw a progress bar on standard error.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    DataError
        If it has no public address, the network or the server fails, the checksum differs, or
        an archive is damaged or holds unsafe names.
    """
    asset = get_asset(name)
    root = cache_folder() / "data"
    if not asset.files:
        source = f"; source: {asset.home}." if asset.home else "."
        raise DataError(
            f"{name} ({asset.description}) has no public address to download from.",
            f"Place {asset.place} under a data root{source}",
        )
    for file in asset.files:
        with locked(root / DOWNLOADS / f"{file.name}.lock"):
            if not is_complete(file, root):
                download_file(asset, file, root, progress)
    for other in asset.also:
        fetch(other, progress)
    for path in _places(asset, [root]):
        if _present(path, asset.marker):
            return path
    raise DataError(
        f"{name} was downloaded to {root}, but holds nothing like {asset.place}.",
        f"Remove it with: blurface data clear {name}; then report the address {asset.files[0].url}.",
    )


@dataclass(frozen=True)
class CheckResult:
    """What :func:`check` found.

    Attributes
    ----------
    name : str
    status : {"ok", "unverified", "damaged", "missing"}
        ``unverified``: there, but no checksum is known to compare with.
    path : Path or None
    detail : str
        The reason, in a sentence.
    """

    name: str
    status: Literal["ok", "unverified", "damaged", "missing"]
    path: Path | None
    detail: str


def check(name: str, data_root: Path | None = None) -> CheckResult:
    """Compare an asset on disk with what is known about it.

    Single files are compared with their SHA-256 (published, or noted at their download); folders
    are looked at for the layout only.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    """
    asset = get_asset(name)
    try:
        path = find(name, data_root)
    except DataError as error:
        return CheckResult(name, "missing", None, str(error))
    if path.is_dir():
        return CheckResult(name, "ok", path, f"a folder laid out as {asset.place}")
    digest = sha256_file(path)
    root = cache_folder() / "data"
    expected, source = asset.checksum, "published"
    if expected is None and path.is_relative_to(root):
        noted = [read_receipt(file, root).get("sha256") for file in asset.files]
        expected, source = (noted[0] if noted else None), "noted at its download"
    if expected is None:
        why = asset.files[0].checksum_source if asset.files else "no checksum is published"
        return CheckResult(name, "unverified", path, f"SHA-256 {digest}; {why}")
    if digest != expected:
        detail = f"SHA-256 {digest}, {source}: {expected}; remove {path} and get it again"
        return CheckResult(name, "damaged", path, detail)
    return CheckResult(name, "ok", path, f"SHA-256 as {source}")


def clear(name: str) -> list[Path]:
    """Remove what :func:`fetch` put into the cache for an asset; return what was removed.

    Data that others placed under a data root is never touched.

    Raises
    ------
    UnknownNameError
        If no asset has this name.
    """
    root = cache_folder() / "data"
    removed: list[Path] = []
    downloads = root / DOWNLOADS
    for file in get_asset(name).files:
        # The lock's own file stays: who waits for it holds it open.
        lock = locked(downloads / f"{file.name}.lock") if downloads.is_dir() else contextlib.nullcontext()
        with lock:
            unpacked = read_receipt(file, root).get("unpacked", [])
            targets = (
                [root / file.target / part for part in unpacked] if file.archive else [root / file.target]
            )
            targets += [downloads / f"{file.name}{end}" for end in ("", ".json", ".part", ".part.json")]
            for target in targets:
                if target.is_dir():
                    shutil.rmtree(target)
                elif target.exists():
                    target.unlink()
                else:
                    continue
                removed.append(target)
    return removed


CACHE_PARTS = {
    "cells": "finished cells of runs: face embeddings and measurements",
    "faces": "aligned faces and where they lie in their photographs",
    "landmarks": "where faces lie in their photographs",
    "exports": "networks exported for other runtimes",
    "weights": "foreign weights in a form that loads without executing code",
    "data": "downloaded data sets and weights",
}
"""Folders that blurface makes in :func:`cache_folder` and can make again, and what they hold.

Runs of the training program are not among them.
"""


def clear_cache(part: str) -> Path | None:
    """Remove one of :data:`CACHE_PARTS`; return its path, or None where there was none.

    Raises
    ------
    UnknownNameError
        If the cache has no such part.
    """
    if part not in CACHE_PARTS:
        raise UnknownNameError(f"The cache has no part {part!r}.", f"Known: {', '.join(CACHE_PARTS)}.")
    folder = cache_folder() / part
    if folder.is_symlink():  # somebody moved it elsewhere: only the link is ours
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
    else:
        return None
    return folder

"""Finished cells on disk, keyed by what determines them.

A *cell* is a set of arrays that took work to compute: the embeddings of all probes of one
(restorer, kernel, verifier), the quality of one (restorer, kernel). Its key is a hash of everything
that determines its values, so a cell never goes stale: it is found or it is not. Work on a cell is cut
into *chunks* that are stored as they finish and merged when the last one is there; a run that is
killed loses at most the chunks it was computing.

Files are written under a temporary name and renamed, carry their own key, and are read without
executing code. A file that cannot be read, or carries another key, is removed with a warning and
computed again. Several runs may share one store.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import time
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blurface.files import write_atomic

Arrays = dict[str, NDArray[Any]]

_KEY = "_key"
_STALE_SECONDS = 24 * 3600


class CellWarning(UserWarning):
    """A stored cell was unusable and is computed again."""


def cell_key(parts: Mapping[str, Any]) -> str:
    """Hash of a nested mapping of JSON values: 32 hexadecimal digits.

    The order of mapping keys does not matter; every value does. Values that are not JSON (paths,
    dtypes) are refused rather than turned into text that may not determine them.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class CellStore:
    """Cells under one folder.

    Parameters
    ----------
    root : Path
        ``<cache>/cells``; created when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, key: str) -> Path:
        """File of a finished cell."""
        return self.root / key[:2] / f"{key}.npz"

    def chunk_path(self, key: str, start: int, stop: int) -> Path:
        """File of rows ``start`` to ``stop`` of a cell in the making."""
        return self.root / key[:2] / f"{key}.parts" / f"{start:07d}-{stop:07d}.npz"

    def load(self, key: str) -> Arrays | None:
        """Arrays of a finished cell, or None."""
        return self._read(self.path(key), key)

    def has(self, key: str) -> bool:
        """Whether a finished cell is there and readable."""
        return self.load(key) is not None

    def save(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a finished cell and drop its chunks."""
        self._write(self.path(key), key, arrays)
        shutil.rmtree(self.path(key).with_suffix(".parts"), ignore_errors=True)

    def load_chunk(self, key: str, start: int, stop: int) -> Arrays | None:
        """Arrays of a finished chunk, or None."""
        return self._read(self.chunk_path(key, start, stop), f"{key}:{start}:{stop}")

    def has_chunk(self, key: str, start: int, stop: int) -> bool:
        """Whether a finished chunk is there and readable."""
        return self.load_chunk(key, start, stop) is not None

    def save_chunk(self, key: str, start: int, stop: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a finished chunk."""
        self._write(self.chunk_path(key, start, stop), f"{key}:{start}:{stop}", arrays)

    def merge(self, key: str, chunks: list[tuple[int, int]]) -> Arrays | None:
        """Join the chunks to the finished cell, store it and return it.

        None where a chunk is missing. Another run may have merged the same cell meanwhile: its cell
        is then returned.
        """
        parts = []
        for start, stop in chunks:
            arrays = self.load_chunk(key, start, stop)
            if arrays is None:
                return self.load(key)
            parts.append(arrays)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.save(key, joined)
        return joined

    def sweep(self) -> None:
        """Remove temporary files that a killed run left a day ago or earlier."""
        now = time.time()
        for path in self.root.glob("??/**/.blurface-*.part"):
            try:
                if now - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except OSError:
                continue

    def _read(self, path: Path, key: str) -> Arrays | None:
        try:
            with zipfile.ZipFile(path) as archive:
                # Whole members: zipfile compares with their CRC-32 at their end alone, which a damaged
                # shape makes NumPy stop short of.
                arrays: Arrays = {
                    name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                    for name in archive.namelist()
                }
            if str(arrays.pop(_KEY)) != key:
                raise ValueError("it belongs to another cell")
        except FileNotFoundError:
            return None
        except MemoryError:
            raise
        except Exception as error:  # zipfile and NumPy raise anything on a damaged file
            warnings.warn(f"{path}: unusable ({error}); computed again.", CellWarning, stacklevel=3)
            path.unlink(missing_ok=True)
            return None
        return arrays

    def _write(self, path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        stream = io.BytesIO()
        content: dict[str, Any] = {**arrays, _KEY: np.array(key)}
        np.savez(stream, **content)
        # The folder of chunks may go in the middle of this: another run has merged the cell.
        try:
            write_atomic(path, stream.getvalue())
        except FileNotFoundError:
            write_atomic(path, stream.getvalue())

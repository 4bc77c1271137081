"""Faces in one file: a Parquet table of JPEG bytes, with where the 112x96 face lies in each.

Columns: ``name`` and ``identity`` (text), ``jpeg`` (bytes), ``top`` and ``left`` (pixels from the
picture's corner to the face's). The schema's metadata hold ``blurface`` (JSON: how the file was
made, counts of what was dropped and why).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, ImageError
from ..files import replacing
from ..images import read_rgb

FACE = (112, 96)


@dataclass(frozen=True)
class PackedFace:
    """One aligned face with its margin.

    Attributes
    ----------
    name, identity : str
    jpeg : bytes
        The encoded picture.
    top, left : int
        Corner of the 112x96 face in it.
    """

    name: str
    identity: str
    jpeg: bytes
    top: int
    left: int


@dataclass
class Faces:
    """Decoded faces in memory.

    Attributes
    ----------
    pictures : ndarray
        (M, H, W, 3) uint8 RGB, all of one size.
    corner : (int, int)
        Top and left of the 112x96 face, the same in every picture.
    names, identities : list of str
        N of each.
    note : dict
        The file's own account of how it was made.
    first : int, optional
        How many of them, the leading ones, came from the first of several sources; None: all.
    rows : ndarray, optional
        (N,) int: where in ``pictures`` they are; None: N = M, in that order. Parts share the pictures.
    """

    pictures: NDArray[np.uint8]
    corner: tuple[int, int]
    names: list[str]
    identities: list[str]
    note: dict[str, Any] = field(default_factory=dict)
    first: int | None = None
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def places(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in ``pictures`` the faces ``index`` are."""
        return index if self.rows is None else self.rows[index]

    def subset(self, keep: NDArray[np.bool_]) -> Faces:
        """The faces where ``keep`` is true."""
        index = np.flatnonzero(keep)
        return Faces(
            self.pictures,
            self.corner,
            [self.names[i] for i in index],
            [self.identities[i] for i in index],
            self.note,
            rows=self.places(index),
        )


class Gathering:
    """Faces as they are decoded, in one growing array, cut to the window that all of them have.

    Nothing is held twice: half a million faces fill a machine once.
    """

    _STEP = 4096
    """Pictures by which the array grows at most."""

    def __init__(self) -> None:
        self._pictures = np.empty((0, 0, 0, 3), np.uint8)
        # pixels above, left of, below and right of the face's corner
        self._reach = (0, 0, 0, 0)
        self._names: list[str] = []
        self._identities: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, identity: str, picture: NDArray[np.uint8], corner: tuple[int, int]) -> None:
        """Add a picture (H, W, 3) whose 112x96 face lies at ``corner`` (top, left)."""
        top, left = corner
        reach = (top, left, picture.shape[0] - top, picture.shape[1] - left)
        count = len(self)
        if not count:
            self._reach = reach
        elif any(new < old for new, old in zip(reach, self._reach, strict=True)):
            above, before, *_ = self._reach
            self._reach = reach = tuple(map(min, reach, self._reach))
            self._pictures = self._window(self._pictures[:count], (above, before)).copy()
        if count == len(self._pictures):
            above, before, below, after = self._reach
            room = count + min(max(count, 64), self._STEP)
            size = (room, above + below, before + after, 3)
            # Where the allocator moves pages, large arrays grow without a second copy.
            self._pictures.resize(size, refcheck=False)
        self._pictures[count] = self._window(picture, corner)
        self._names.append(name)
        self._identities.append(identity)

    def _window(self, pictures: NDArray[np.uint8], corner: tuple[int, int]) -> NDArray[np.uint8]:
        above, before, below, after = self._reach
        top, left = corner
        return pictures[..., top - above : top + below, left - before : left + after, :]

    def faces(self, note: dict[str, Any], first: int | None = None) -> Faces:
        """All that was added; nothing can be added afterwards."""
        pictures = self._pictures
        pictures.resize((len(self), *pictures.shape[1:]), refcheck=False)
        return Faces(pictures, self._reach[:2], self._names, self._identities, note, first)


def encode(pixels: NDArray[np.uint8], quality: int = 95) -> bytes:
    """JPEG bytes of (H, W, 3) uint8 RGB, without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def write_pack(path: Path, faces: Iterable[PackedFace], note: dict[str, Any]) -> int:
    """Write a packed file atomically; return the number of faces.

    Parameters
    ----------
    path : Path
    faces : iterable of PackedFace
    note : dict
        Kept in the file: sources, what was dropped and why.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows = list(faces)
    table = pa.table(
        {
            "name": [face.name for face in rows],
            "identity": [face.identity for face in rows],
            "jpeg": pa.array([face.jpeg for face in rows], pa.binary()),
            "top": pa.array([face.top for face in rows], pa.int16()),
            "left": pa.array([face.left for face in rows], pa.int16()),
        }
    ).replace_schema_metadata({"blurface": json.dumps(note)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, compression="none", row_group_size=1024)
    return len(rows)


def read_pack(path: Path) -> Faces:
    """Decode a packed file into memory.

    Pictures of different sizes or corners are cut to the largest window around the face that all
    of them have.

    Raises
    ------
    DataError
        If the file is not a packed file, or a picture in it cannot be decoded.
    """
    gathered = Gathering()
    note = add_pack(path, gathered)
    return gathered.faces(note)


def add_pack(path: Path, gathered: Gathering, prefix: str = "") -> dict[str, Any]:
    """Decode a packed file into a gathering; return its note.

    Raises
    ------
    DataError
        As :func:`read_pack`.
    """
    from pyarrow import ArrowException, parquet

    before = len(gathered)
    try:
        with parquet.ParquetFile(path) as file:
            note: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[b"blurface"])
            for part in file.iter_batches(1024, columns=list(_KINDS)):
                _add_rows(path, part.to_pydict(), gathered, prefix)
    except (ArrowException, KeyError, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not a file of packed faces: {error}.",
            "Make one with: blurface data pack FOLDER --out FILE.",
        ) from error
    if len(gathered) == before:
        raise DataError(f"{path} holds no face.", "Pack a folder that holds aligned faces.")
    return note


_KINDS = {"name": str, "identity": str, "jpeg": bytes, "top": int, "left": int}
"""Columns of a packed file."""


def _add_rows(path: Path, columns: dict[str, list[Any]], gathered: Gathering, prefix: str) -> None:
    for name, kind in _KINDS.items():
        if not all(isinstance(value, kind) for value in columns[name]):
            raise DataError(f"{path}: the column {name} holds other than {kind.__name__}.", "Pack it again.")
    for name, identity, data, top, left in zip(*(columns[name] for name in _KINDS), strict=True):
        if min(top, left) < 0:
            raise DataError(f"{path}: a face lies outside of its picture.", "Pack it again.")
        try:
            picture = read_rgb(io.BytesIO(data))
        except ImageError as error:
            raise DataError(
                f"{path}: the picture {name!r} cannot be decoded: {error.message}", "Pack it again."
            ) from error
        if picture.shape[0] - top < FACE[0] or picture.shape[1] - left < FACE[1]:
            raise DataError(f"{path}: {name!r} does not hold a whole 112x96 face.", "Pack it again.")
        gathered.add(name, prefix + identity, picture, (top, left))

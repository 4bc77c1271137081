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
        (N, H, W, 3) uint8 RGB, all of one size.
    corner : (int, int)
        Top and left of the 112x96 face, the same in every picture.
    names, identities : list of str
    note : dict
        The file's own account of how it was made.
    first : int, optional
        How many of them, the leading ones, came from the first of several sources; None: all.
    """

    pictures: NDArray[np.uint8]
    corner: tuple[int, int]
    names: list[str]
    identities: list[str]
    note: dict[str, Any] = field(default_factory=dict)
    first: int | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def subset(self, keep: NDArray[np.bool_]) -> Faces:
        """The faces where ``keep`` is true."""
        index = np.flatnonzero(keep)
        return Faces(
            self.pictures[index],
            self.corner,
            [self.names[i] for i in index],
            [self.identities[i] for i in index],
            self.note,
        )


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
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(path)
        note = json.loads((table.schema.metadata or {})[b"blurface"])
        columns = {
            name: table.column(name).to_pylist() for name in ("name", "identity", "jpeg", "top", "left")
        }
    except (ArrowException, KeyError, ValueError, OSError) as error:
        raise DataError(
            f"{path} is not a file of packed faces: {error}.",
            "Make one with: blurface data pack FOLDER --out FILE.",
        ) from error
    kinds = {"name": str, "identity": str, "jpeg": bytes, "top": int, "left": int}
    for name, kind in kinds.items():
        if not all(isinstance(value, kind) for value in columns[name]):
            raise DataError(f"{path}: the column {name} holds other than {kind.__name__}.", "Pack it again.")
    if any(corner < 0 for name in ("top", "left") for corner in columns[name]):
        raise DataError(f"{path}: a face lies outside of its picture.", "Pack it again.")
    pictures: list[NDArray[np.uint8]] = []
    for name, data in zip(columns["name"], columns["jpeg"]):
        try:
            pictures.append(read_rgb(io.BytesIO(data)))
        except ImageError as error:
            raise DataError(
                f"{path}: the picture {name!r} cannot be decoded: {error.message}", "Pack it again."
            ) from error
    if not pictures:
        raise DataError(f"{path} holds no face.", "Pack a folder that holds aligned faces.")
    tops, lefts = columns["top"], columns["left"]
    top, left = min(tops), min(lefts)
    below = min(picture.shape[0] - corner for picture, corner in zip(pictures, tops))
    right = min(picture.shape[1] - corner for picture, corner in zip(pictures, lefts))
    if below < FACE[0] or right < FACE[1]:
        raise DataError(f"{path}: a picture does not hold a whole 112x96 face.", "Pack it again.")
    window = np.stack(
        [picture[t - top : t + below, c - left : c + right] for picture, t, c in zip(pictures, tops, lefts)]
    )
    return Faces(window, (top, left), columns["name"], columns["identity"], note)

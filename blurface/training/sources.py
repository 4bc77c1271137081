"""Where training faces come from: packed files, folders, WebDataset tars, RecordIO files."""

from __future__ import annotations

import io
import math
import struct
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ImageError
from ..images import name_of, picture_suffixes, read_rgb
from .pack import FACE, Faces, Gathering, add_pack

RECORD_MAGIC = 0xCED7230A
"""First word of every RecordIO record."""


def read_faces(paths: Sequence[Path]) -> Faces:
    """Decode faces from one or more sources into memory, cut to the window that all of them have.

    Raises
    ------
    DataError
        If a source is of no known kind or holds no face, or a packed file or an archive is damaged.
    ImageError
        If a picture of a folder cannot be decoded.
    """
    if not paths:
        raise DataError("No training faces were named.", "Give --data or the configuration's data.")
    gathered = Gathering()
    notes: dict[str, Any] = {}
    counts = []
    for path in paths:
        # Two sources may call two people by the same name.
        prefix = f"{path.name}/" if len(paths) > 1 else ""
        notes[path.name] = _add(path, gathered, prefix)
        counts.append(len(gathered))
    return gathered.faces(notes, counts[0])


def _add(path: Path, gathered: Gathering, prefix: str) -> dict[str, Any]:
    if path.suffix == ".parquet" and not path.is_dir():
        return add_pack(path, gathered, prefix)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in picture_suffixes())
        _collect(path, ((p.name, p.parent.name, read_rgb(p)) for p in files), gathered, prefix)
    elif path.suffix == ".tar":
        _collect(path, read_webdataset(path), gathered, prefix)
    elif path.suffix == ".rec":
        _collect(path, read_recordio(path), gathered, prefix)
    else:
        raise DataError(f"{path} is no source of faces.", "Expected a folder, .parquet, .tar or .rec.")
    return {}


def _collect(
    path: Path, items: Iterator[tuple[str, str, NDArray[np.uint8]]], gathered: Gathering, prefix: str
) -> None:
    size: tuple[int, ...] | None = None
    for name, identity, pixels in items:
        # 112x112 crops of the ArcFace template hold the 112x96 face in columns 8 to 103.
        down, across = pixels.shape[0] - FACE[0], pixels.shape[1] - FACE[1]
        if down < 0 or across < 0:
            raise DataError(
                f"{path}: {name} is {pixels.shape[1]}x{pixels.shape[0]}.", "Faces are 96x112 or larger."
            )
        size = size or pixels.shape
        if pixels.shape != size:
            raise DataError(
                f"{path}: {name} has another size than the pictures before it.", "Align all alike."
            )
        gathered.add(name, prefix + identity, pixels, (down // 2, across // 2))
    if size is None:
        known = ", ".join(sorted(picture_suffixes()))
        raise DataError(f"{path} holds no face.", f"Expected pictures ({known}).")


def _decode(path: Path, name: str, data: bytes) -> NDArray[np.uint8]:
    try:
        return read_rgb(io.BytesIO(data))
    except ImageError as error:
        raise DataError(
            f"{path}: {name_of(name)} cannot be decoded: {error.message}", "Remove it from the archive."
        ) from error


def read_webdataset(path: Path) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    """Faces of a WebDataset shard: ``KEY.jpg`` with the identity in ``KEY.cls`` or in KEY's folder."""
    try:
        with tarfile.open(path) as archive:
            held: dict[str, dict[str, bytes]] = {}
            for member in archive:
                stem, dot, suffix = member.name.rpartition(".")
                stream = archive.extractfile(member) if member.isfile() and dot else None
                if stream is None:
                    continue
                # The parts of a sample follow each other: at a new key the last one is complete.
                if stem not in held and held:
                    yield from _sample(path, held)
                    held.clear()
                held.setdefault(stem, {})[suffix.lower()] = stream.read()
            yield from _sample(path, held)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is no complete tar file: {error}.", "Get it again.") from error


def _sample(path: Path, held: dict[str, dict[str, bytes]]) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    for stem, parts in held.items():
        for suffix, data in parts.items():
            if f".{suffix}" in picture_suffixes():
                named = parts["cls"].decode(errors="replace").strip() if "cls" in parts else ""
                identity = named or stem.rpartition("/")[0]
                yield stem, identity, _decode(path, stem, data)


def read_recordio(path: Path) -> Iterator[tuple[str, str, NDArray[np.uint8]]]:
    """Faces of an MXNet RecordIO file, in which CASIA-WebFace is passed around (``train.rec``).

    A record is a magic word, a length, then a header (flag, label, id, id2) and the picture's
    bytes; records without a picture (the identity index at the start and the end) are skipped.
    A record whose bytes hold the magic word is written in parts, cut where that stood.

    Raises
    ------
    DataError
        If the file does not begin with a record or ends inside one.
    """
    for number, data in enumerate(_records(path)):
        if len(data) < 24:
            raise DataError(f"{path} ends inside record {number}.", "Get it again.")
        flag, label = struct.unpack("<If", data[:8])
        payload = data[24:]
        if flag > 0:  # the label is an array of `flag` floats in front of the picture
            label = struct.unpack("<f", payload[:4])[0] if len(payload) >= 4 else label
            payload = payload[4 * flag :]
        if payload[:2] in (b"\xff\xd8", b"\x89P"):
            if not math.isfinite(label):
                raise DataError(f"{path}: the label of record {number} is {label}.", "Get it again.")
            yield f"record {number}", str(int(label)), _decode(path, f"record {number}", payload)


def _records(path: Path) -> Iterator[bytes]:
    """The bytes of each record, its parts joined by the magic word that they were cut at."""
    whole, first, last = 0, 1, 3
    with open(path, "rb") as file:
        number = 0
        parts: list[bytes] = []
        while head := file.read(8):
            if len(head) < 8:
                break
            magic, word = struct.unpack("<II", head)
            kind, length = word >> 29, word & 0x1FFFFFFF
            if magic != RECORD_MAGIC or (kind in (whole, first)) == bool(parts):
                raise DataError(f"{path}: record {number} does not begin as one.", "Is it a RecordIO file?")
            data = file.read(length)
            file.read(-length % 4)
            if len(data) < length:
                break
            parts.append(data)
            if kind in (whole, last):
                yield struct.pack("<I", RECORD_MAGIC).join(parts)
                parts.clear()
                number += 1
        else:
            if not parts:
                return
        raise DataError(f"{path} ends inside record {number}.", "Get it again.")

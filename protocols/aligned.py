"""Aligned faces of a protocol on disk, with a margin, read a window at a time.

Every photograph is aligned once, to the larger frame (112x112) with a margin of real pixels around it;
the smaller frame (112x96: the same points, 8 columns further left) is a window of the same picture. The
margin lets a blur be a convolution of what the camera saw; where the photograph itself ends, its edge is
repeated, and the share of such invented pixels is recorded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import verification.align
import verification.detect
from blurface.assets import sha256_file
from blurface.errors import DataError, ImageError, InputError
from blurface.files import replacing
from blurface.fingerprints import code_digest
from blurface.processes import default_jobs

from .datasets import Protocol
from .store import CellStore, CellWarning, cell_key

CANVAS = 112
"""Height and width of the frame that photographs are aligned to."""

OFFSETS = {"112x112": (0, 0), "112x96": (0, 8)}
"""Row and column of each frame's window in the 112x112 one."""

_CHUNK = 64
_DETECTION_SECONDS = 0.05

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FaceSet:
    """Aligned faces of a protocol.

    Attributes
    ----------
    key : str
        Hash of everything that determines the pixels.
    images : tuple of str
        Identifiers, in the order of the rows.
    margin : int
        Pixels around the frame on every side.
    path : Path
        ``.npy`` of (N, 112 + 2 margin, 112 + 2 margin, 3) uint8, mapped into memory when read.
    invented : mapping of str to ndarray
        For each frame (N,) float32: share of the pixels of face and margin that repeat an edge.
    fallback : ndarray
        (N,) bool: no face was found and the photograph's centre was taken.
    unread : ndarray
        (N,) bool: the picture could not be decoded; its pixels are zero.
    """

    key: str
    images: tuple[str, ...]
    margin: int
    path: Path
    invented: dict[str, NDArray[np.float32]] = field(repr=False)
    fallback: NDArray[np.bool_] = field(repr=False)
    unread: NDArray[np.bool_] = field(repr=False)

    @classmethod
    def empty(cls) -> FaceSet:
        """No faces."""
        none = np.zeros(0, bool)
        return cls("", (), 0, Path(), {}, none, none)

    def window(self, frame: str, images: Sequence[str]) -> NDArray[np.uint8]:
        """(n, H + 2 margin, W + 2 margin, 3) pixels of some faces in a frame.

        Raises
        ------
        InputError
            If the frame is not known.
        """
        if frame not in OFFSETS:
            raise InputError(f"There is no frame {frame!r}.", f"Frames are {', '.join(OFFSETS)}.")
        height, width = verification.align.frame_size(frame)
        top, left = OFFSETS[frame]
        rows = [self._place[image] for image in images]
        bottom, right = top + height + 2 * self.margin, left + width + 2 * self.margin
        return np.ascontiguousarray(self._pixels[rows, top:bottom, left:right])

    def readable(self, images: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) bool: whether the picture could be decoded."""
        flags: NDArray[np.bool_] = ~self.unread[[self._place[image] for image in images]]
        return flags

    @property
    def unreadable_images(self) -> list[str]:
        """Identifiers of pictures that could not be decoded."""
        return [image for image, unread in zip(self.images, self.unread, strict=True) if unread]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {image: i for i, image in enumerate(self.images)}

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        # The mapping is opened anew in every process.
        return {name: value for name, value in self.__dict__.items() if name != "_pixels"}


def align_faces(
    protocol: Protocol,
    margin: int,
    cache: Path,
    *,
    device: str = "cpu",
    jobs: int | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> FaceSet:
    """Align all faces of a protocol, or take them from the cache.

    Parameters
    ----------
    protocol : Protocol
    margin : int
        Pixels around the frame on every side.
    cache : Path
        ``faces/`` in it holds the pixels (62 KB a face at a margin of 16), ``landmarks/`` where the
        faces lie, by the content of the photographs.
    device, jobs
        For the face detector.
    progress : callable
        Called with (phase, faces done, faces in all).
    """
    key = cell_key(
        {
            "protocol": protocol.fingerprint(),
            "prealigned": protocol.prealigned,
            "margin": margin,
            "detector": "" if protocol.prealigned else verification.detect.DetectorSettings().fingerprint(),
            "code": code_digest(verification.align),
        }
    )
    folder = cache / "faces"
    CellStore(folder).sweep()
    found = _load(folder, key, protocol, margin)
    if found is None:
        points, unread = _locate(protocol, cache, device, jobs, progress)
        _build(folder, key, protocol, margin, points, unread, progress)
        found = _load(folder, key, protocol, margin)
    if found is None:
        raise DataError(f"Aligned faces went missing from {folder}.", "Run the same command again.")
    return found


def _load(folder: Path, key: str, protocol: Protocol, margin: int) -> FaceSet | None:
    notes = CellStore(folder).load(key)
    path = folder / key[:2] / f"{key}.npy"
    if notes is None or not path.exists():
        return None
    if sha256_file(path) != str(notes["sha256"]):
        warnings.warn(f"{path}: damaged; made again.", CellWarning, stacklevel=2)
        path.unlink(missing_ok=True)
        return None
    invented = {frame: notes[f"invented {frame}"] for frame in OFFSETS}
    return FaceSet(key, protocol.pairs.images, margin, path, invented, notes["fallback"], notes["unread"])


def _build(
    folder: Path,
    key: str,
    protocol: Protocol,
    margin: int,
    points: list[NDArray[np.float32] | None],
    unread: NDArray[np.bool_],
    progress: Progress,
) -> None:
    images = protocol.pairs.images
    side = CANVAS + 2 * margin
    path = folder / key[:2] / f"{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    invented = {frame: np.zeros(len(images), np.float32) for frame in OFFSETS}
    fallback = np.zeros(len(images), bool)
    with replacing(path) as temporary:
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(images), side, side, 3))
        _reserve(temporary)
        progress("aligning", 0, len(images))
        for i, image in enumerate(images):
            if not unread[i]:
                try:
                    photograph = protocol.read(image)
                except ImageError:
                    unread[i] = True
            if unread[i]:
                continue
            if protocol.prealigned:
                try:
                    pixels[i] = verification.align.crop_prealigned(photograph, "112x112", margin)
                except InputError as error:
                    raise InputError(f"{protocol.path(image)}: {error.message}", error.hint) from error
                outside = np.pad(np.zeros((CANVAS, CANVAS), bool), margin, constant_values=True)
            else:
                face = verification.align.align(photograph, points[i], "112x112", margin)
                pixels[i], fallback[i] = face.pixels, face.fallback
                outside = _outside(face.matrix, photograph.shape[:2], margin)
            for frame, (top, left) in OFFSETS.items():
                height, width = (length + 2 * margin for length in verification.align.frame_size(frame))
                invented[frame][i] = outside[top : top + height, left : left + width].mean()
            if (i + 1) % _CHUNK == 0 or i + 1 == len(images):
                progress("aligning", i + 1, len(images))
        pixels.flush()
        del pixels
        digest = sha256_file(temporary)
    notes: dict[str, NDArray[Any]] = {f"invented {frame}": share for frame, share in invented.items()}
    notes |= {"fallback": fallback, "unread": unread, "sha256": np.array(digest)}
    CellStore(folder).save(key, notes)


def _reserve(path: Path) -> None:
    """Take a file's space on the disk now: writing to a mapped file on a full disk ends the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error


def _outside(matrix: NDArray[np.float64], size: tuple[int, ...], margin: int) -> NDArray[np.bool_]:
    """Which pixels of face and margin lie beyond the photograph, as in :mod:`verification.align`."""
    axis = np.arange(-margin, CANVAS + margin, dtype=np.float64)
    frame = np.stack(np.meshgrid(axis, axis))
    at = np.tensordot(np.linalg.inv(matrix[:, :2]), frame - matrix[:, 2, None, None], 1)
    limit = np.array([size[1], size[0]])[:, None, None] - 0.5
    return np.asarray(((at < -0.5) | (at > limit)).any(axis=0))


def _locate(
    protocol: Protocol, cache: Path, device: str, jobs: int | None, progress: Progress
) -> tuple[list[NDArray[np.float32] | None], NDArray[np.bool_]]:
    """Landmarks of every image (None: no face found), and which cannot be decoded."""
    images = protocol.pairs.images
    unread = np.zeros(len(images), bool)
    if protocol.prealigned:
        return [None] * len(images), unread

    def note(index: int, error: ImageError | DataError) -> None:
        # A file that cannot be opened may be there the next time, and what is made of it is kept.
        if isinstance(error, DataError):
            raise error
        # Without an embedding it counts as a failure to enrol; it must not cost the others.
        unread[index] = True

    detections = verification.detect.locate(
        [protocol.path(image) for image in images],
        cache=verification.detect.LandmarkCache(cache / "landmarks"),
        device=device,
        jobs=jobs or default_jobs(device, len(images) * _DETECTION_SECONDS),
        progress=lambda done, total: progress("finding faces", done, total),
        unreadable=note,
    )
    return [None if detection is None else detection.points for detection in detections], unread

"""What is fuzzed, and what must hold: a result that can be used, or blurface's own error.

Each target takes bytes and raises ``AssertionError`` (or whatever the code under test lets through)
where a promise is broken. ``fuzz/run.py`` drives them with atheris; the tests replay the corpus
that was found.
"""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from blurface.collection import Mended, restore_stream
from blurface.errors import ImageError, KernelError, PairsError
from blurface.images import open_image, read_rgb, upright
from blurface.kernels.files import SUFFIXES, read_kernels
from blurface.stage import Decision
from protocols.datasets.base import carriable
from protocols.datasets.pairs import format_pairs, parse_pairs, read_pairs

MAX_PIXELS = 2**18
"""Keeps a fuzzed header from costing seconds of decoding; the true limit is tested elsewhere."""


def pairs(data: bytes) -> None:
    """A pair list is read, or refused by line; what was read is written and read again."""
    with tempfile.NamedTemporaryFile(dir=_SCRATCH) as file:
        Path(file.name).write_bytes(data)
        try:
            lines, folds = read_pairs(Path(file.name))
        except PairsError as error:
            assert Path(file.name).name in error.message
            assert error.hint
            return
    sides = [line.first for line in lines] + [line.second for line in lines]
    for person, key in sides:
        for name in (person, key):
            assert carriable(name)
            assert Path("/root", name).parent == Path("/root")
    assert len(lines) % (2 * folds) == 0
    again, count = parse_pairs(format_pairs(lines, folds), "again")
    assert count == folds
    assert [(x.first, x.second, x.fold) for x in again] == [(x.first, x.second, x.fold) for x in lines]


def kernels(data: bytes) -> None:
    """A kernel file holds kernels of unit sum, or is refused by name. The first byte says which kind."""
    if not data:
        return
    suffix = SUFFIXES[data[0] % len(SUFFIXES)]
    with tempfile.NamedTemporaryFile(dir=_SCRATCH, suffix=suffix) as file:
        Path(file.name).write_bytes(data[1:])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_kernels(file.name)
        except KernelError as error:
            assert Path(file.name).name in error.message
            return
    assert found
    for kernel in found:
        psf = kernel.psf
        assert psf.dtype == np.float32
        assert psf.ndim == 2
        assert psf.shape[0] == psf.shape[1]
        assert psf.shape[0] % 2 == 1
        assert np.isfinite(psf).all()
        assert (psf >= 0).all()
        assert abs(float(psf.sum(dtype=np.float64)) - 1) < 1e-3


def images(data: bytes) -> None:
    """A picture is decoded, turned and written again in its own format, or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            stored = open_image(io.BytesIO(data), max_pixels=MAX_PIXELS)
        except ImageError as error:
            assert error.message
            return
        # What was decoded whole can be used: from here on only a format that cannot hold it is an excuse.
        turned, undo = upright(stored)
        assert undo(turned).size == stored.size
        try:
            array = read_rgb(io.BytesIO(data), max_pixels=MAX_PIXELS)
        except ImageError as error:
            assert "corrupt" not in str(error), error
            return
        assert array.dtype == np.uint8
        assert array.shape == (turned.height, turned.width, 3)
        try:
            restored, *_ = restore_stream(data, _untouched)
        except ImageError as error:
            assert "cannot hold" in str(error) or "cannot write" in str(error), error
            return
        assert open_image(io.BytesIO(restored)).size in (stored.size, turned.size)


def _untouched(pictures: list[Image.Image]) -> list[Mended]:
    return [Mended(picture, Decision(None, 1.0, "restore")) for picture in pictures]


_SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None
TARGETS: dict[str, Callable[[bytes], None]] = {"pairs": pairs, "kernels": kernels, "images": images}

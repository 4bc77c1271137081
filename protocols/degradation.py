"""From a sharp face to the probe: y = x * k + n (eq. 1), eight-bit rounding, JPEG.

Blur is :func:`blurface.kernels.convolve.blur`; this module adds what comes after it. Every random
number derives from (seed, image, kernel) and nothing else, so a probe is the same whatever the order,
the batch size or the number of processes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blurface.errors import InputError
from blurface.kernels.convolve import Border, blur

_BLOCK = 16


@dataclass(frozen=True)
class Degradation:
    """What happens to a face besides blur.

    Attributes
    ----------
    noise : float
        Standard deviation of additive Gaussian noise, in units of the full scale ([0, 1]), drawn
        for each sample of each channel.
    jpeg : int or None
        Quality (1 to 100) of a JPEG round trip with Pillow's other settings (4:2:0); None for none.
    seed : int
        Seed of the noise.
    """

    noise: float = 0.0
    jpeg: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise InputError(
                f"Noise of {self.noise} is outside [0, 1].", "Give it on the scale of [0, 1]: 0.01."
            )
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise InputError(f"JPEG quality {self.jpeg} is outside 1 to 100.", "95 is light, 30 is heavy.")

    def fingerprint(self) -> dict[str, Any]:
        """What determines the result; the seed counts only where there is noise."""
        values = asdict(self)
        if not self.noise:
            del values["seed"]
        return values


def generator(seed: int, *item: str) -> np.random.Generator:
    """A random generator for one item: a function of the seed and the item's names only."""
    digest = hashlib.sha256("\x00".join((str(seed), *item)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype="<u4"))


def to_bytes(batch: Tensor) -> Tensor:
    """Round [0, 1] to 8 bits: uint8 of the same shape (half to even)."""
    return (batch.clamp(0, 1) * 255).round().to(torch.uint8)


def from_bytes(batch: Tensor) -> Tensor:
    """8 bits to float32 in [0, 1]."""
    return batch.to(torch.float32) / 255


def jpeg_round_trip(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode and decode one (H, W, 3) picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    stream.seek(0)
    return np.asarray(Image.open(stream).convert("RGB"))


def degrade(
    faces: Tensor,
    psf: Tensor,
    images: Sequence[str],
    kernel: str,
    degradation: Degradation,
    *,
    margin: int,
    border: Border = "valid",
) -> Tensor:
    """Blur, noise, rounding to 8 bits, JPEG: in this order.

    Parameters
    ----------
    faces : Tensor
        (N, 3, H + 2 margin, W + 2 margin) uint8 sharp faces.
    psf : Tensor
        (K, K).
    images : sequence of str
        Identifier of each face, for its noise.
    kernel : str
        Name of the kernel, for the noise.
    degradation : Degradation
    margin, border
        As in :func:`blurface.kernels.convolve.blur`.

    Returns
    -------
    Tensor
        (N, 3, H, W) uint8.
    """
    if len(faces) > _BLOCK:  # what fits the processor's cache is twice as fast
        starts = range(0, len(faces), _BLOCK)
        parts = [(faces[i : i + _BLOCK], images[i : i + _BLOCK]) for i in starts]
        blocks = [
            degrade(part, psf, names, kernel, degradation, margin=margin, border=border)
            for part, names in parts
        ]
        return torch.cat(blocks)
    blurred = blur(from_bytes(faces), psf.to(faces.device), margin=margin, border=border)
    if degradation.noise:
        shape = tuple(blurred.shape[1:])
        drawn = np.stack(
            [
                generator(degradation.seed, image, kernel, "noise").standard_normal(shape, np.float32)
                for image in images
            ]
        )
        blurred = blurred + degradation.noise * torch.from_numpy(drawn).to(blurred.device)
    pixels = to_bytes(blurred)
    if degradation.jpeg is not None:
        arrays = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        coded = np.stack([jpeg_round_trip(array, degradation.jpeg) for array in arrays])
        pixels = torch.from_numpy(coded).permute(0, 3, 1, 2).contiguous().to(blurred.device)
    return pixels

"""Pairs made online: a sharp face, its blurry image, the kernel (section 3.1, eq. 1).

Everything about batch ``step`` follows from (seed, step, rank), so a run that was stopped goes on
with exactly the pairs it would have seen.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..kernels.convolve import blur
from ..kernels.defocus import defocus_psf
from ..kernels.gaussian_process import add_tremor, render, sample_paths
from .pack import FACE, Faces

WINDOW = 44
"""Kernels are drawn on 45 x 45 and handed over as the 44 x 44 offsets -22 .. 21."""

RENDER = 45

LARGEST = RENDER - 2
"""Greatest extent of a kernel: a path may come to within a pixel of the border."""

TREMOR = 1.5
"""Largest standard deviation of a tremor in pixels."""

WIDE = (112, 112)
"""The face with 8 more columns on either side: the frame of most recognisers."""

CONTEXT = 20
"""Pixels around the face from which blur is drawn in."""

GROUP = 8
"""Pairs that share a random generator."""


@dataclass(frozen=True)
class Degradation:
    """What the pairs are made of.

    Attributes
    ----------
    valid_size : (float, float)
        Extent of a kernel in pixels.
    small : float
        Share of kernels whose extent is drawn from the lower half of the range.
    tremor : float
        Share of trajectories with a tremor of up to :data:`TREMOR` pixels on top.
    linear, defocus, sharp : float
        Shares of straight motion, defocus and no blur; the rest are trajectories.
    varying : float
        Share of faces with two kernels blended across the face.
    off_centre : float
        Share of kernels moved by up to half a pixel from their centre of mass.
    replicate : float
        Share of batches whose border is invented (edge pixels repeated) instead of real.
    wide : float
        Share of batches of 112x112 faces instead of 112x96.
    noise : float
        Largest standard deviation of the noise, in grey levels of 255.
    jpeg : float
        Share of faces compressed with a quality of 70 to 95.
    """

    valid_size: tuple[float, float] = (5.0, 31.0)
    small: float = 0.2
    tremor: float = 0.0
    linear: float = 0.06
    defocus: float = 0.04
    sharp: float = 0.08
    varying: float = 0.05
    off_centre: float = 0.25
    replicate: float = 0.3
    wide: float = 0.0
    noise: float = 2.0
    jpeg: float = 0.1


@dataclass
class Batch:
    """A training batch.

    Attributes
    ----------
    sharp, blurry : Tensor
        (N, 3, 112, 96) in [0, 1], or (N, 3, 112, 112).
    kernels : Tensor
        (N, 1, 44, 44), offsets -22 .. 21, unit sum (the mean kernel where blur varies).
    """

    sharp: Tensor
    blurry: Tensor
    kernels: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(self.sharp.to(device), self.blurry.to(device), self.kernels.to(device))


def is_evaluation_line(length: float, angle: float) -> bool:
    """Whether a straight motion is (nearly) the paper's test kernel: a path of 15 pixels at 45 degrees."""
    return abs(length - 15) < 2 and abs((angle - 45 + 90) % 180 - 90) < 6


def draw_kernels(count: int, rng: np.random.Generator, settings: Degradation) -> NDArray[np.float32]:
    """Random kernels (count, 45, 45) of unit sum; the evaluation kernels never come up.

    Levin's eight are measured kernels that no generator here can draw; the straight test kernel
    is kept out explicitly (:func:`is_evaluation_line`).
    """
    low, high = settings.valid_size
    half = RENDER // 2
    extent = rng.uniform(low, high, count)
    small = rng.random(count) < settings.small
    extent[small] = rng.uniform(low, (low + high) / 2, int(small.sum()))
    kind = rng.random(count)
    paths = sample_paths(count, rng, valid_size=(2, 2)) * (extent - 1)[:, None, None]
    if settings.tremor:  # kernels without are those of earlier runs, number by number
        amplitudes = rng.uniform(0, TREMOR, count) * (rng.random(count) < settings.tremor)
        paths = add_tremor(paths, amplitudes, rng)
    for index in np.flatnonzero(kind < settings.linear):
        angle = rng.uniform(0, 180)
        # A path is a pixel shorter than what it covers.
        while is_evaluation_line(extent[index] - 1, angle):
            angle = rng.uniform(0, 180)
        turn = np.deg2rad(angle)
        along = np.linspace(-0.5, 0.5, paths.shape[1]) * (extent[index] - 1)
        paths[index] = along[:, None] * np.array([-np.sin(turn), np.cos(turn)])
    moved = rng.random(count) < settings.off_centre
    paths += np.where(moved, 1, 0)[:, None, None] * rng.uniform(-0.5, 0.5, (count, 1, 2))
    # A long one-sided path can reach beyond the window: it is scaled down to fit.
    reach = np.abs(paths).max((1, 2))
    paths *= np.minimum(1, (half - 1.01) / np.maximum(reach, 1e-9))[:, None, None]
    kernels = render(paths, RENDER)
    bounds = settings.linear + np.array([settings.defocus, settings.defocus + settings.sharp])
    for index in np.flatnonzero((kind >= settings.linear) & (kind < bounds[0])):
        disc = defocus_psf(rng.uniform(1, max(1.5, high / 4)), oversampling=8)
        pad = half - disc.shape[0] // 2
        kernels[index] = np.pad(disc, pad)
    still = (kind >= bounds[0]) & (kind < bounds[1])
    kernels[still] = 0
    kernels[still, half, half] = 1
    return kernels


def _place(faces: Faces, frame: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top and left of a frame around the face, and how many real pixels surround it in rows and columns."""
    height, width = faces.pictures.shape[1:3]
    top = faces.corner[0] - (frame[0] - FACE[0]) // 2
    left = faces.corner[1] - (frame[1] - FACE[1]) // 2
    room = (min(top, height - top - frame[0]), min(left, width - left - frame[1]))
    if min(room) < 0:
        raise InputError(
            f"The pictures do not hold {frame[0]}x{frame[1]} pixels around each face.",
            "Pack faces with a larger margin, or set degradation.wide to 0.",
        )
    return (top, left), room


def _surrounded(context: Tensor, margins: tuple[int, int]) -> Tensor:
    """Pictures with ``margins`` real rows and columns around a frame, continued to ``CONTEXT`` of each."""
    down, across = (CONTEXT - margin for margin in margins)
    return functional.pad(context, (across, across, down, down), mode="replicate")


def _augment(
    faces: Faces, index: NDArray[np.int64], rng: np.random.Generator, frame: tuple[int, int]
) -> Tensor:
    """Faces with ``CONTEXT`` pixels around, turned, shifted and toned a little."""
    (top, left), room = _place(faces, frame)
    jitter = 2
    margins = (min(CONTEXT, max(0, room[0] - jitter)), min(CONTEXT, max(0, room[1] - jitter)))
    crops = np.empty((len(index), frame[0] + 2 * margins[0], frame[1] + 2 * margins[1], 3), np.uint8)
    reach = min(jitter, *(here - margin for here, margin in zip(room, margins)))
    for row, number in enumerate(faces.places(index)):
        down, across = rng.integers(-reach, reach + 1, 2)
        t, c = top - margins[0] + down, left - margins[1] + across
        crop = faces.pictures[number, t : t + crops.shape[1], c : c + crops.shape[2]]
        crops[row] = crop[:, ::-1] if rng.random() < 0.5 else crop
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    # Mild photometric changes, and for a third of the faces a change of scale by up to 5 per cent.
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (len(index), 1, 1, 1))).float()
    offset = torch.from_numpy(rng.uniform(-0.04, 0.04, (len(index), 1, 1, 1))).float()
    batch = (batch * gain + offset).clamp(0, 1)
    scaled = np.flatnonzero(rng.random(len(index)) < 1 / 3)
    if len(scaled):
        scale = torch.from_numpy(1 / rng.uniform(0.95, 1.05, len(scaled))).float()
        theta = torch.zeros(len(scaled), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = scale
        part = batch[scaled]
        grid = functional.affine_grid(theta, list(part.shape), align_corners=False)
        batch[scaled] = functional.grid_sample(
            part, grid, mode="bicubic", padding_mode="border", align_corners=False
        ).clamp(0, 1)
    return _surrounded(batch, margins)


def _jpeg(image: Tensor, quality: int) -> Tensor:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def part_of(batch_size: int, processes: int) -> int:
    """How many pairs of a global batch each process takes.

    Raises
    ------
    InputError
        If several processes cannot take equal parts of whole groups (:data:`GROUP`).
    """
    unit = GROUP * processes
    if processes > 1 and batch_size % unit:
        raise InputError(
            f"schedule.batch_size is {batch_size}, which {processes} processes cannot share in groups of "
            f"{GROUP} pairs.",
            f"Set it to a multiple of {unit}: --set schedule.batch_size={-(-batch_size // unit) * unit}.",
        )
    return batch_size // processes


class PairStream:
    """Batches of pairs, each a function of (seed, step, rank) alone.

    Parameters
    ----------
    faces : Faces
    settings : Degradation
    batch_size : int
        Per process.
    seed : int
    rank, world_size : int
        Process number and count: global batch ``step`` is cut into equal parts.
    """

    def __init__(
        self,
        faces: Faces,
        settings: Degradation,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        part_of(batch_size * world_size, world_size)
        self.faces, self.settings = faces, settings
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size

    def batch(self, step: int) -> Batch:
        """The pairs of one step."""
        total = self.batch_size * self.world_size
        part = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        # Epochs are permutations: every face comes up equally often.
        numbers = np.arange(step * total, (step + 1) * total)[part]
        index = np.empty(len(numbers), np.int64)
        for epoch in np.unique(numbers // len(self.faces)):
            order = np.random.default_rng([self.seed, 1, int(epoch)]).permutation(len(self.faces))
            here = numbers // len(self.faces) == epoch
            index[here] = order[numbers[here] % len(self.faces)]
        border = np.random.default_rng([self.seed, 2, step])
        replicate = border.random() < self.settings.replicate
        wide = border.random() < self.settings.wide
        # Random numbers belong to groups of pairs, so that a global batch is the same however many
        # processes share it.
        first = self.rank * self.batch_size // GROUP
        groups = [
            make_pairs(
                self.faces,
                index[start : start + GROUP],
                np.random.default_rng([self.seed, 3, step, first + start // GROUP]),
                self.settings,
                replicate=replicate,
                frame=WIDE if wide else FACE,
            )
            for start in range(0, len(index), GROUP)
        ]
        return Batch(
            *(torch.cat([getattr(g, name) for g in groups]) for name in ("sharp", "blurry", "kernels"))
        )


def make_pairs(
    faces: Faces,
    index: NDArray[np.int64],
    rng: np.random.Generator,
    settings: Degradation,
    *,
    replicate: bool = False,
    augment: bool = True,
    frame: tuple[int, int] = FACE,
) -> Batch:
    """Blur the faces ``index`` with random kernels.

    Parameters
    ----------
    faces : Faces
    index : ndarray of int
    rng : numpy.random.Generator
    settings : Degradation
    replicate : bool
        Invent the border instead of using real margins.
    augment : bool
        Flips, shifts, scale and tone.
    frame : (int, int)
        Height and width of the faces: 112x96, or what more of the picture around them.

    Raises
    ------
    InputError
        If the pictures are smaller than the frame.
    """
    count = len(index)
    if augment:
        context = _augment(faces, index, rng, frame)
    else:
        (top, left), room = _place(faces, frame)
        margins = (min(CONTEXT, room[0]), min(CONTEXT, room[1]))
        rows = slice(top - margins[0], top + frame[0] + margins[0])
        columns = slice(left - margins[1], left + frame[1] + margins[1])
        pixels = torch.from_numpy(faces.pictures[faces.places(index), rows, columns])
        context = _surrounded(pixels.permute(0, 3, 1, 2).float() / 255, margins)
    margin = CONTEXT
    sharp = context[..., margin : margin + frame[0], margin : margin + frame[1]].contiguous()
    if replicate:
        context, margin = sharp, 0
    kernels = draw_kernels(count, rng, settings)
    psf = torch.from_numpy(kernels)
    blurry = blur(context, psf, margin=margin, border="replicate")
    varying = np.flatnonzero(rng.random(count) < settings.varying)
    if len(varying):
        other = torch.from_numpy(draw_kernels(len(varying), rng, settings))
        second = blur(context[varying], other, margin=margin, border="replicate")
        weight = torch.linspace(0, 1, frame[1])[None, :]
        if rng.random() >= 0.5:
            weight = torch.linspace(0, 1, frame[0])[:, None]
        blurry[varying] += weight * (second - blurry[varying])
        psf[varying] = (psf[varying] + other) / 2
    deviation = torch.from_numpy(rng.uniform(0, settings.noise / 255, (count, 1, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(blurry.shape, dtype=np.float32))
    blurry = (blurry + deviation * noise).clamp(0, 1)
    for row in np.flatnonzero(rng.random(count) < settings.jpeg):
        blurry[row] = _jpeg(blurry[row], int(rng.integers(70, 96)))
    blurry = (blurry * 255).round() / 255
    window = psf[:, None, :WINDOW, :WINDOW]
    return Batch(sharp, blurry, window / window.sum((2, 3), keepdim=True))

"""Blocks that the classical methods share.

Everything works on torch tensors whose last two axes are rows and columns; leading axes are a
batch, and every picture of a batch is treated as if it were alone. Rows count downwards, columns
to the right. Kernels are in the convolution convention (see docs/architecture.md) unless a
function says otherwise. float64 is meant throughout: several methods divide by small numbers.

The interpolation, tapering and frequency conventions are those of the MATLAB functions that the
methods were published with, so that a method meets its authors' outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from ...errors import InputError

Interpolation = Literal["bilinear", "bicubic"]
Array = NDArray[np.float64]

# ITU-R BT.601 luma, with the digits that MATLAB's rgb2gray uses.
_GREY = (0.298936, 0.587043, 0.114021)
_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OFFSET = (16.0, 128.0, 128.0)


# Work in parts ----------------------------------------------------------------------------------

#: Pixels that are computed together. Beyond, the temporary arrays leave a core's cache and the
#: allocator hands every one of them back to the system: several times slower.
CHUNK_PIXELS = 65536


def chunks(count: int, pixels: int) -> Iterator[slice]:
    """Slices over ``count`` items of so many pixels each that are best computed together."""
    step = max(1, CHUNK_PIXELS // max(pixels, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


# Colour ---------------------------------------------------------------------------------------


def grey(rgb: Tensor, *, eight_bit: bool = False) -> Tensor:
    """Luma of RGB pictures.

    Parameters
    ----------
    rgb : Tensor
        (..., 3, H, W) in [0, 1].
    eight_bit : bool
        Round to multiples of 1/255, as a method does that turns 8-bit pictures grey.

    Returns
    -------
    Tensor
        (..., H, W).
    """
    red, green, blue = rgb.unbind(-3)
    luma = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    # Half away from zero, as MATLAB rounds.
    return torch.floor(luma * 255 + 0.5) / 255 if eight_bit else luma


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Studio-range YCbCr in [0, 1] of (..., 3, H, W) RGB in [0, 1] (ITU-R BT.601)."""
    matrix = rgb.new_tensor(_YCBCR) / 255
    offset = rgb.new_tensor(_YCBCR_OFFSET)[:, None, None] / 255
    return torch.einsum("ij,...jhw->...ihw", matrix, rgb) + offset


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Inverse of :func:`rgb_to_ycbcr`, clipped to [0, 1]."""
    matrix = torch.linalg.inv(ycbcr.new_tensor(_YCBCR) / 255)
    offset = ycbcr.new_tensor(_YCBCR_OFFSET)[:, None, None] / 255
    return torch.einsum("ij,...jhw->...ihw", matrix, ycbcr - offset).clamp(0, 1)


# Derivatives ----------------------------------------------------------------------------------


def derivatives(images: Tensor) -> Tensor:
    """First differences on one common grid (the 2x2 filters of Krishnan, Levin and Pan).

    Parameters
    ----------
    images : Tensor
        (..., H, W).

    Returns
    -------
    Tensor
        (..., 2, H - 1, W - 1): u(i+1, j) - u(i+1, j+1) and u(i, j+1) - u(i+1, j+1).
    """
    corner = images[..., 1:, 1:]
    return torch.stack((images[..., 1:, :-1] - corner, images[..., :-1, 1:] - corner), dim=-3)


# Resizing -------------------------------------------------------------------------------------


def _triangle(x: Array) -> Array:
    value: Array = np.maximum(1 - np.abs(x), 0.0)
    return value


def _keys(x: Array) -> Array:
    a = np.abs(x)
    near = 1.5 * a**3 - 2.5 * a**2 + 1
    far = -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    value: Array = np.where(a <= 1, near, np.where(a < 2, far, 0.0))
    return value


@lru_cache(maxsize=256)
def _resize_matrix(length: int, out: int, scale: float, method: Interpolation) -> Array:
    function, width = (_triangle, 2.0) if method == "bilinear" else (_keys, 4.0)
    shrink = min(scale, 1.0)
    width /= shrink
    centre = np.arange(1, out + 1) / scale + (1 - 1 / scale) / 2
    index = np.floor(centre - width / 2)[:, None] + np.arange(math.ceil(width) + 2)
    weight = shrink * function(shrink * (centre[:, None] - index))
    weight /= weight.sum(1, keepdims=True)
    # Beyond the edge: mirrored, the edge sample repeated.
    mirror = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    source = mirror[(index.astype(np.int64) - 1) % (2 * length)]
    matrix = np.zeros((out, length))
    np.add.at(matrix, (np.arange(out)[:, None], source), weight)
    return matrix


def _separable(images: Tensor, rows: Array, columns: Array) -> Tensor:
    return torch.as_tensor(rows).to(images) @ images @ torch.as_tensor(columns).to(images).T


def resize(
    images: Tensor,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    method: Interpolation = "bicubic",
) -> Tensor:
    """Resize with antialiasing, as MATLAB's ``imresize`` does.

    Parameters
    ----------
    images : Tensor
        (..., H, W).
    scale : float, optional
        Both sides; the output is ceil(side x scale) long.
    size : (int, int), optional
        Rows and columns wanted. Give this or ``scale``.
    method : {"bilinear", "bicubic"}
        Triangle, or Keys' cubic with a = -1/2; widened when shrinking.

    Returns
    -------
    Tensor
        (..., rows, columns).
    """
    height, width = images.shape[-2:]
    if size is None:
        if scale is None:
            raise InputError("Nothing says how to resize.", "Give scale= or size=.")
        size, scales = (math.ceil(height * scale), math.ceil(width * scale)), (scale, scale)
    else:
        scales = (size[0] / height, size[1] / width)
    return _separable(
        images,
        _resize_matrix(height, size[0], scales[0], method),
        _resize_matrix(width, size[1], scales[1], method),
    )


@lru_cache(maxsize=128)
def _pyramid_matrix(length: int, ratio: float) -> Array:
    sigma = 1 / (2 * ratio)
    taps = np.exp(-0.5 * (np.arange(-50, 51) / sigma) ** 2)
    taps /= taps.sum()
    running = np.cumsum(taps)
    taps = taps[np.minimum(running, np.cumsum(taps[::-1])[::-1]) > 0.05]
    filtered = length - len(taps) + 1
    if filtered < 1:
        return np.zeros((0, length))
    low_pass = np.zeros((filtered, length))
    for row in range(filtered):
        low_pass[row, row : row + len(taps)] = taps
    position = np.arange(math.floor((filtered - 1) * ratio * (1 + 1e-12)) + 1) / ratio
    left = np.minimum(np.floor(position).astype(np.int64), max(filtered - 2, 0))
    part = position - left
    right = np.minimum(left + 1, filtered - 1)
    sampled: Array = (1 - part)[:, None] * low_pass[left] + part[:, None] * low_pass[right]
    return sampled


def pyramid_step(images: Tensor, ratio: float) -> Tensor:
    """Low-pass and sample to ``ratio`` of the size (Levin et al. 2011; Pan et al. 2014).

    A Gaussian of standard deviation 1 / (2 ratio), its tails of 5% cut off without renormalising,
    'valid', then bilinear sampling every 1 / ratio pixels from the first one on.

    Parameters
    ----------
    images : Tensor
        (..., H, W).
    ratio : float
        In (0, 1]; at 1 the pictures are returned as they are.

    Returns
    -------
    Tensor
        (..., H', W'), smaller than ratio x size by the filter's border.
    """
    if ratio >= 1:
        return images
    return _separable(
        images, _pyramid_matrix(images.shape[-2], ratio), _pyramid_matrix(images.shape[-1], ratio)
    )


def pyramid_sizes(kernel_size: int) -> list[tuple[int, float]]:
    """Kernel size and picture ratio of every level, coarsest first (Levin 2011, Pan 2014)."""
    count = max(math.floor(math.log(5 / kernel_size) / math.log(math.sqrt(0.5))), 0) + 1
    levels = []
    for level in reversed(range(count)):
        ratio = math.sqrt(0.5) ** level
        size = math.ceil(kernel_size * ratio * (1 - 1e-12))
        levels.append((size + 1 - size % 2, ratio))
    return levels


# Frequency ------------------------------------------------------------------------------------


def to_frequency(images: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
    """Half-plane transform (``rfft2``) over the last two axes, padded with zeros after to ``shape``."""
    half: Tensor = torch.fft.rfft2(images, s=shape)
    return half


def from_frequency(half: Tensor, shape: tuple[int, int]) -> Tensor:
    """Inverse of :func:`to_frequency` for pictures of ``shape``."""
    images: Tensor = torch.fft.irfft2(half, s=shape)
    return images


def psf_to_otf(kernels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Half-plane transform of kernels whose middle is the origin.

    Parameters
    ----------
    kernels : Tensor
        (..., K, L).
    shape : (int, int)
        Rows and columns of the picture, at least K and L.

    Returns
    -------
    Tensor
        (..., H, W // 2 + 1) complex.
    """
    rows, columns = kernels.shape[-2:]
    padded = functional.pad(kernels, (0, shape[1] - columns, 0, shape[0] - rows))
    return to_frequency(padded.roll((-(rows // 2), -(columns // 2)), (-2, -1)))


def otf_to_psf(otf: Tensor, size: int, shape: tuple[int, int]) -> Tensor:
    """The ``size`` x ``size`` kernel around the origin of a half-plane transform of ``shape``."""
    full = from_frequency(otf, shape)
    return full.roll((size // 2, size // 2), (-2, -1))[..., :size, :size]


def circular_convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve with wrap-around; ``kernels`` (..., K, K) broadcast over the leading axes."""
    shape = (images.shape[-2], images.shape[-1])
    return from_frequency(to_frequency(images) * psf_to_otf(kernels, shape), shape)


def difference_power(shape: tuple[int, int], like: Tensor) -> Tensor:
    """|transform of the circular differences|^2, summed over both, on the half plane."""
    rows = torch.arange(shape[0], dtype=like.dtype, device=like.device) / shape[0]
    columns = torch.arange(shape[1] // 2 + 1, dtype=like.dtype, device=like.device) / shape[1]
    return (2 - 2 * torch.cos(2 * math.pi * rows))[:, None] + (2 - 2 * torch.cos(2 * math.pi * columns))


class ValidConvolution:
    """x -> (x * k) on the pixels where the kernel lies inside x, and its adjoint.

    No boundary condition is invented: a picture of H x W pixels comes from one of
    (H + K - 1) x (W + K - 1).

    Parameters
    ----------
    kernels : Tensor
        (..., K, K), convolution convention; leading axes broadcast with those of the pictures.
    shape : (int, int)
        H and W of the *large* picture x.
    """

    def __init__(self, kernels: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.size = kernels.shape[-1]
        if min(shape) < self.size:
            raise InputError(
                f"A kernel of {self.size}x{self.size} does not fit into {shape[0]}x{shape[1]} pixels.",
                "Choose a smaller kernel_size.",
            )
        # Any circular convolution that is not smaller than x is right on the valid part; lengths
        # with small factors make it fast.
        self.fft = (next_fast_len(shape[0], real=True), next_fast_len(shape[1], real=True))
        self.otf = to_frequency(kernels, self.fft)
        self._conjugate = self.otf.conj().resolve_conj()
        self._full: tuple[Tensor, Tensor] | None = None
        self._inside = kernels.new_zeros((2, *self.fft))
        self._inside[0, self.size - 1 : shape[0], self.size - 1 : shape[1]] = 1
        self._inside[1, : shape[0], : shape[1]] = 1

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W) -> (..., H - K + 1, W - K + 1)."""
        full = from_frequency(to_frequency(x, self.fft) * self.otf, self.fft)
        return full[..., self.size - 1 : self.shape[0], self.size - 1 : self.shape[1]]

    def adjoint(self, y: Tensor) -> Tensor:
        """(..., H - K + 1, W - K + 1) -> (..., H, W): correlation with the kernel, full."""
        padded = functional.pad(y, (self.size - 1, 0, self.size - 1, 0))
        full = from_frequency(to_frequency(padded, self.fft) * self.otf.conj(), self.fft)
        return full[..., : self.shape[0], : self.shape[1]]

    def normal(self, x: Tensor) -> Tensor:
        """Adjoint of forward: (..., H, W) -> (..., H, W)."""
        return self.crop(self.padded_normal(self.pad(x)))

    def pad(self, x: Tensor) -> Tensor:
        """Zeros after (..., H, W) up to the size of the transforms."""
        return functional.pad(x, (0, self.fft[1] - self.shape[1], 0, self.fft[0] - self.shape[0]))

    def crop(self, x: Tensor) -> Tensor:
        """What :meth:`pad` added, cut off."""
        return x[..., : self.shape[0], : self.shape[1]]

    def padded_normal(self, x: Tensor) -> Tensor:
        """:meth:`normal` of a picture that :meth:`pad` has brought to the size of the transforms.

        An iteration that keeps its pictures at that size saves the copies.
        """
        full = from_frequency(to_frequency(x).mul_(self.otf), self.fft)
        full.mul_(self._inside[0])
        full = from_frequency(to_frequency(full).mul_(self._conjugate), self.fft)
        return full if self.fft == self.shape else full.mul_(self._inside[1])

    def padded_normal_pairs(self, x: Tensor) -> Tensor:
        """:meth:`padded_normal` of (N, 2, ...) pairs that share a kernel: one complex picture each."""
        if self._full is None:
            # The whole plane of the transfer function, from its half.
            whole = torch.fft.fft2(from_frequency(self.otf, self.fft))
            self._full = (whole, whole.conj().resolve_conj())
        full = torch.fft.ifft2(torch.fft.fft2(torch.complex(x[:, :1], x[:, 1:])).mul_(self._full[0]))
        full.mul_(self._inside[0])
        full = torch.fft.ifft2(torch.fft.fft2(full).mul_(self._full[1]))
        pairs = torch.cat((full.real, full.imag), 1)
        return pairs if self.fft == self.shape else pairs.mul_(self._inside[1])


# Borders --------------------------------------------------------------------------------------


def pad_edge(images: Tensor, margin: int) -> Tensor:
    """Repeat the edge values ``margin`` times on every side of (..., H, W)."""
    if margin == 0:
        return images
    height, width = images.shape[-2:]
    rows = torch.arange(-margin, height + margin, device=images.device).clamp(0, height - 1)
    columns = torch.arange(-margin, width + margin, device=images.device).clamp(0, width - 1)
    return images[..., rows[:, None], columns[None, :]]


def crop(images: Tensor, margin: int) -> Tensor:
    """Cut ``margin`` pixels on every side."""
    return images if margin == 0 else images[..., margin:-margin, margin:-margin]


def edgetaper(images: Tensor, kernels: Tensor, times: int = 4) -> Tensor:
    """Blend the border with a blurred, wrapped version, as MATLAB's ``edgetaper`` does.

    Parameters
    ----------
    images : Tensor
        (..., H, W).
    kernels : Tensor
        (..., K, K); leading axes broadcast with those of the pictures.
    times : int
        Applied this often in a row.

    Returns
    -------
    Tensor
        (..., H, W), within the range of each picture.
    """
    height, width = images.shape[-2:]
    kernels = kernels / kernels.sum((-2, -1), keepdim=True)

    def ramp(projection: Tensor, length: int) -> Tensor:
        energy = torch.fft.rfft(projection, n=length - 1).abs() ** 2
        wave = torch.fft.irfft(energy, n=length - 1)
        wave = torch.cat((wave, wave[..., :1]), -1)
        return 1 - wave / wave.amax(-1, keepdim=True)

    alpha = ramp(kernels.sum(-1), height)[..., :, None] * ramp(kernels.sum(-2), width)[..., None, :]
    otf = psf_to_otf(kernels, (height, width))
    for _ in range(times):
        low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
        blurred = from_frequency(to_frequency(images) * otf, (height, width))
        images = torch.minimum(torch.maximum(alpha * images + (1 - alpha) * blurred, low), high)
    return images


@lru_cache(maxsize=1)
def _smooth_lengths() -> tuple[int, ...]:
    lengths = set()
    for special in (1, 11, 13):
        for exponents in np.ndindex(13, 9, 7, 6):
            value = special * math.prod(p**e for p, e in zip((2, 3, 5, 7), exponents, strict=True))
            if value <= 8192:
                lengths.add(value)
    return tuple(sorted(lengths))


def smooth_length(length: int) -> int:
    """Smallest integer 2^a 3^b 5^c 7^d times 1, 11 or 13 that is not below ``length``."""
    for value in _smooth_lengths():
        if value >= length:
            return value
    raise InputError(f"A side of {length} pixels is too long.", "Restore faces, not photographs.")


@lru_cache(maxsize=64)
def _sines(length: int) -> tuple[Array, Array]:
    index = np.arange(1, length + 1)
    basis = np.sqrt(2 / (length + 1)) * np.sin(np.pi * np.outer(index, index) / (length + 1))
    return basis, 2 - 2 * np.cos(np.pi * index / (length + 1))


def _membrane(block: Tensor) -> Tensor:
    """Fill the interior of (..., P, Q) so that its 5-point Laplacian is zero, from the border."""
    rows, columns = block.shape[-2] - 2, block.shape[-1] - 2
    if rows < 1 or columns < 1:
        return block
    right_hand = torch.zeros_like(block[..., 1:-1, 1:-1])
    right_hand[..., 0, :] += block[..., 0, 1:-1]
    right_hand[..., -1, :] += block[..., -1, 1:-1]
    right_hand[..., :, 0] += block[..., 1:-1, 0]
    right_hand[..., :, -1] += block[..., 1:-1, -1]
    (left, left_values), (right, right_values) = _sines(rows), _sines(columns)
    down, across = torch.as_tensor(left).to(block), torch.as_tensor(right).to(block)
    values = torch.as_tensor(left_values[:, None] + right_values[None, :]).to(block)
    block[..., 1:-1, 1:-1] = down @ ((down @ right_hand @ across) / values) @ across
    return block


def pad_circular(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Extend below and to the right so that the picture continues smoothly around (Pan 2014).

    The new parts are membranes: solutions of the discrete Laplace equation between the picture's
    opposite edges.

    Parameters
    ----------
    images : Tensor
        (..., H, W).
    shape : (int, int)
        Rows and columns wanted, not below H and W.

    Returns
    -------
    Tensor
        (..., rows, columns).
    """
    height, width = images.shape[-2:]
    down, across = shape[0] - height, shape[1] - width
    leading = images.shape[:-2]

    def between(first: Tensor, last: Tensor, count: int) -> Tensor:
        part = torch.arange(count, dtype=images.dtype, device=images.device) / max(count - 1, 1)
        return first[..., None] * (1 - part) + last[..., None] * part

    def lower(picture: Tensor, count: int) -> Tensor:
        block = picture.new_zeros((*leading, count + 2, picture.shape[-1]))
        block[..., 0, :], block[..., -1, :] = picture[..., -1, :], picture[..., 0, :]
        for column in (0, -1):
            block[..., 1:-1, column] = between(block[..., 0, column], block[..., -1, column], count)
        return _membrane(block)

    below = lower(images, down)
    beside = lower(images.mT, across).mT
    corner = images.new_zeros((*leading, down + 2, across + 2))
    corner[..., 0, :], corner[..., -1, :] = beside[..., -1, :], beside[..., 0, :]
    corner[..., :, 0], corner[..., :, -1] = below[..., :, -1], below[..., :, 0]
    corner = _membrane(corner)
    top = torch.cat((images, beside[..., :, 1:-1]), -1)
    # The lower block enters with its first row, which repeats the picture's last one: as published.
    bottom = torch.cat((below[..., :down, :], corner[..., 1:-1, 1:-1]), -1)
    return torch.cat((top, bottom), -2)


# Kernels --------------------------------------------------------------------------------------


def delta_kernels(count: int, size: int, like: Tensor) -> Tensor:
    """(count, size, size) kernels with a one in the middle."""
    kernels = like.new_zeros((count, size, size))
    kernels[:, size // 2, size // 2] = 1
    return kernels


def two_pixel_kernels(count: int, size: int, like: Tensor) -> Tensor:
    """Start of Krishnan and Pan: two halves side by side, up and left of the middle by one."""
    kernels = like.new_zeros((count, size, size))
    kernels[:, (size - 3) // 2, (size - 3) // 2 : (size + 1) // 2] = 0.5
    return kernels


def project_kernels(kernels: Tensor, threshold: float = 0.0) -> Tensor:
    """Set negative values, and values below ``threshold`` x peak, to 0; bring to unit sum.

    Parameters
    ----------
    kernels : Tensor
        (N, K, K).
    threshold : float
        Part of each kernel's largest value.

    Returns
    -------
    Tensor
        (N, K, K). A kernel without a positive value becomes a one in the middle.
    """
    peak = kernels.amax((-2, -1), keepdim=True)
    kept = torch.where(kernels < threshold * peak, torch.zeros_like(kernels), kernels).clamp_min(0)
    total = kept.sum((-2, -1), keepdim=True)
    usable = torch.isfinite(total) & (total > 0)
    middle = delta_kernels(1, kernels.shape[-1], kernels)
    return torch.where(usable, kept / torch.where(usable, total, 1.0), middle)


def remove_small_components(kernels: Tensor, least: float = 0.1) -> Tensor:
    """Set 8-connected parts of the support whose sum is below ``least`` to 0 (not renormalised)."""
    array = kernels.detach().cpu().numpy().copy()
    for kernel in array:
        labels, count = ndimage.label(kernel, structure=np.ones((3, 3)))
        if count:
            sums = ndimage.sum_labels(kernel, labels, np.arange(count + 1))
            kernel[(sums < least)[labels] & (labels > 0)] = 0
    return torch.as_tensor(array).to(kernels)


def centre_shifts(kernels: Tensor) -> Tensor:
    """Whole-pixel moves (N, 2: rows, columns) that bring each centre of mass to the middle."""
    size = kernels.shape[-1]
    axis = torch.arange(size, dtype=kernels.dtype, device=kernels.device)
    total = kernels.sum((-2, -1))
    rows = (kernels.sum(-1) @ axis) / total
    columns = (kernels.sum(-2) @ axis) / total
    offset = (size - 1) / 2 - torch.stack((rows, columns), -1)
    # Half away from zero, as MATLAB rounds.
    return (torch.sign(offset) * torch.floor(offset.abs() + 0.5)).nan_to_num(0).to(torch.int64)


def shift(images: Tensor, moves: Tensor) -> Tensor:
    """Move every picture by whole pixels, zeros coming in.

    Parameters
    ----------
    images : Tensor
        (N, ..., H, W).
    moves : Tensor
        (N, 2) int64: rows downwards, columns to the right.
    """
    out = torch.zeros_like(images)
    height, width = images.shape[-2:]
    for source, target, (down, across) in zip(images, out, moves.tolist(), strict=True):
        if abs(down) >= height or abs(across) >= width:
            continue
        target[..., max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)] = source[
            ..., max(-down, 0) : height + min(-down, 0), max(-across, 0) : width + min(-across, 0)
        ]
    return out


def _fit_rows(kernel: Array, size: int) -> Array:
    """Bring the number of rows one step nearer to ``size``, sparing the heavier outer row."""
    first_lighter = kernel[0].sum() < kernel[-1].sum()
    if len(kernel) > size:
        return kernel[1:] if first_lighter else kernel[:-1]
    if len(kernel) < size:
        return np.pad(kernel, ((0, 1), (0, 0)) if first_lighter else ((1, 0), (0, 0)))
    return kernel


def resize_kernels(kernels: Tensor, scale: float, size: int) -> Tensor:
    """Bring kernels to another pyramid level (Levin 2011, Pan 2014).

    Bicubic resizing by ``scale``; negative values to 0; light outer rows and columns dropped, or
    zero ones added, until the size is met; unit sum.

    Parameters
    ----------
    kernels : Tensor
        (N, K, K).
    scale : float
        sqrt(2) between neighbouring levels.
    size : int
        Side wanted, odd.

    Returns
    -------
    Tensor
        (N, size, size).
    """
    resized = resize(kernels, scale=scale, method="bicubic").clamp_min(0)
    fitted = np.zeros((len(kernels), size, size))
    for index, kernel in enumerate(resized.detach().cpu().numpy().astype(np.float64)):
        while kernel.shape != (size, size):
            kernel = _fit_rows(kernel, size)
            kernel = _fit_rows(kernel.T, size).T
        fitted[index] = kernel
    return project_kernels(torch.as_tensor(fitted).to(kernels))


# Edges ----------------------------------------------------------------------------------------


def edge_threshold(gradient: Tensor, kernel_size: int) -> Tensor:
    """Threshold on the squared gradient that keeps enough strong edges in every direction.

    Cho and Lee 2009, as used by Pan et al. 2014: over four ranges of direction of an eighth of a
    turn each, the largest multiple of 6e-5 up to 2 that leaves max(20 kernel_size, 10) pixels in
    each.

    Parameters
    ----------
    gradient : Tensor
        (N, 2, H, W) from :func:`derivatives`.
    kernel_size : int
        Of the level.

    Returns
    -------
    Tensor
        (N,); 0 where no value does.
    """
    step, count = 6e-5, max(20 * kernel_size, 10)
    horizontal, vertical = gradient.unbind(1)
    squared = (horizontal**2 + vertical**2).flatten(1)
    angle = torch.atan(vertical / horizontal).flatten(1)
    if squared.shape[1] < count:
        return squared.new_zeros(len(squared))
    smallest = squared.new_full((len(squared),), math.inf)
    for quarter in range(-2, 2):
        low, high = quarter * math.pi / 4, (quarter + 1) * math.pi / 4
        inside = (angle >= low) & (angle < high) & (squared <= 2)
        ranked = torch.where(inside, squared, squared.new_tensor(-1.0)).topk(count, dim=1).values[:, -1]
        smallest = torch.minimum(smallest, ranked)
    return torch.floor(smallest.clamp_min(0) / step) * step


def select_edges(gradient: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the gradients whose square reaches the threshold.

    Parameters
    ----------
    gradient : Tensor
        (N, 2, H, W).
    threshold : Tensor
        (N,); lowered by factors of 0.81, per picture, until some gradient reaches it.

    Returns
    -------
    (Tensor, Tensor)
        The gradients with the others set to 0, and the threshold for the next call (/ 1.1).
    """
    squared = (gradient**2).sum(1)
    peak = squared.amax((-2, -1))
    threshold = threshold.clone()
    for _ in range(400):  # 0.81^400 is 1e-37: a flat picture ends here
        high = (peak < threshold) & (peak > 0)
        if not high.any():
            break
        threshold = torch.where(high, threshold * 0.81, threshold)
    kept = (squared >= threshold[:, None, None])[:, None]
    return torch.where(kept, gradient, 0.0), threshold / 1.1


# Solvers --------------------------------------------------------------------------------------


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Scalar product of every picture (the last two axes), shaped to broadcast against it."""
    if a is b:
        norm: Tensor = torch.linalg.vector_norm(a, dim=(-2, -1), keepdim=True)
        return norm.square()
    return (a * b).sum((-2, -1), keepdim=True)


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    start: Tensor,
    iterations: int,
    tolerance: float = 0.0,
    image: Tensor | None = None,
) -> Tensor:
    """Solve A x = b for every picture (the last two axes) of a batch by conjugate gradients.

    Parameters
    ----------
    apply : callable
        A, symmetric and positive definite per picture, on a tensor shaped like ``start``. What it
        returns may be overwritten.
    right, start : Tensor
        b and the first x, (..., H, W).
    iterations : int
        Upper limit.
    tolerance : float
        A picture stops once its *squared* residual norm is not above this, whatever the others do.
    image : Tensor, optional
        What A makes of ``start``, where it is known.

    Returns
    -------
    Tensor
        x.
    """
    x = start.clone(memory_format=torch.contiguous_format)
    residual = right - (apply(x) if image is None else image)
    direction = residual.clone()
    energy = inner(residual, residual)
    for _ in range(iterations):
        active = energy > tolerance
        if not active.any():
            break
        image = apply(direction)
        curvature = inner(direction, image)
        usable = active & (curvature > 0)
        # A picture that has stopped takes steps of length zero.
        step = torch.where(usable, energy / torch.where(usable, curvature, 1.0), 0.0)
        x.addcmul_(direction, step)
        residual.addcmul_(image, step, value=-1)
        new_energy = torch.where(usable, inner(residual, residual), 0.0)
        ratio = torch.where(usable, new_energy / torch.where(usable, energy, 1.0), 0.0)
        torch.addcmul(residual, direction, ratio, out=direction)
        energy = new_energy
    return x

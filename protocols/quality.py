"""How near a restored face is to the sharp one: PSNR and SSIM, plain and at the best shift.

Both are computed on RGB after rounding to 8 bits, image by image; tables give the mean over images.
SSIM is scikit-image's ``structural_similarity(x, y, channel_axis=..., data_range=...)`` with its
defaults (Wang et al. 2004: 7 x 7 uniform window, sample covariance, K1 = 0.01, K2 = 0.03, mean over
channels and over the pixels whose window lies inside), here for a whole batch at once.

A blur kernel whose centre of mass is off the middle moves the face, and a blind method may return it
moved by a few pixels; neither changes who it is. The figures *at the best shift* therefore compare the
interior of the sharp face (cut by the kernel's half width on every side) with the restored face moved
by the whole number of pixels, at most that half width, that gives the smallest squared error.

Window sums and squared errors of 8-bit samples are whole numbers and are computed as such, without
rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from blurface.errors import InputError

PSNR_CAP = 100.0
"""dB given to identical pictures; two 8-bit 112 x 96 faces that differ stay below 94 dB."""

DEFINITIONS = {
    "psnr": "peak signal-to-noise ratio in dB on RGB in [0, 1] after rounding to 8 bits, the mean over "
    f"images of each image's value; identical pictures count as {PSNR_CAP:g} dB",
    "ssim": "structural similarity with scikit-image's defaults (7x7 uniform window, sample covariance) on "
    "RGB in [0, 1] after rounding to 8 bits, mean over channels, then over images",
    "psnr_shift": "psnr on the interior (cut by the kernel's half width) at the whole-pixel shift, within "
    "that half width, of smallest squared error",
    "ssim_shift": "ssim on the same interior at the shift of psnr_shift",
}

_WINDOW = 7
_BLOCK = 16


@dataclass(frozen=True)
class Quality:
    """Per image, (N,) each.

    Attributes
    ----------
    psnr, ssim : Tensor
        float64.
    psnr_shift, ssim_shift : Tensor
        float64, at the best shift.
    shift : Tensor
        (N, 2) int64: rows and columns by which the restored face lies off the sharp one.
    """

    psnr: Tensor
    ssim: Tensor
    psnr_shift: Tensor
    ssim_shift: Tensor
    shift: Tensor


def measure(restored: Tensor, sharp: Tensor, reach: int = 0) -> Quality:
    """PSNR and SSIM of a batch, plain and at the best shift.

    Parameters
    ----------
    restored, sharp : Tensor
        (N, C, H, W) uint8.
    reach : int
        Largest shift in pixels: the kernel's half width.
    """
    _check(restored, sharp)
    if len(sharp) > _BLOCK:  # what fits the processor's cache is twice as fast
        blocks = [
            measure(restored[i : i + _BLOCK], sharp[i : i + _BLOCK], reach)
            for i in range(0, len(sharp), _BLOCK)
        ]
        return Quality(*(torch.cat([getattr(block, f.name) for block in blocks]) for f in fields(Quality)))
    plain, similarity = psnr(restored, sharp), ssim(restored, sharp)
    if reach == 0:
        return Quality(plain, similarity, plain, similarity, torch.zeros((len(sharp), 2), dtype=torch.int64))
    shift = best_shift(restored, sharp, reach)
    height, width = sharp.shape[-2] - 2 * reach, sharp.shape[-1] - 2 * reach
    interior = sharp[..., reach : reach + height, reach : reach + width]
    moved = torch.stack(
        [
            image[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            for image, (dy, dx) in zip(restored, shift.tolist(), strict=True)
        ]
    )
    return Quality(plain, similarity, psnr(moved, interior), ssim(moved, interior), shift)


def psnr(restored: Tensor, sharp: Tensor) -> Tensor:
    """(N,) float64 dB of (N, C, H, W) uint8 pictures; :data:`PSNR_CAP` where they are identical."""
    _check(restored, sharp)
    difference = restored.to(torch.int32) - sharp.to(torch.int32)
    squared = (difference * difference).sum((1, 2, 3)).double()
    return _decibel(squared, sharp[0].numel())


def ssim(restored: Tensor, sharp: Tensor) -> Tensor:
    """(N,) float64 of (N, C, H, W) uint8 pictures, H and W at least 7."""
    _check(restored, sharp)
    if min(sharp.shape[-2:]) < _WINDOW:
        raise InputError(f"SSIM needs at least {_WINDOW}x{_WINDOW} pixels, not {tuple(sharp.shape[-2:])}.")
    x, y = restored.to(torch.int32), sharp.to(torch.int32)
    pixels = _WINDOW**2
    sum_x, sum_y = _box(x), _box(y)
    # pixels^2 times mean product and variances: whole numbers below 2^29, rounded only afterwards.
    product = sum_x * sum_y
    squares = (sum_x * sum_x).addcmul_(sum_y, sum_y)
    variance = _box((x * x).addcmul_(y, y)).mul_(pixels).sub_(squares).float()
    covariance = _box(x * y).mul_(pixels).sub_(product).float()
    scale, sample = float(pixels**2), pixels / (pixels - 1)
    c1, c2 = (0.01 * 255) ** 2 * scale, (0.03 * 255) ** 2 * scale
    values = product.float().mul_(2).add_(c1).mul_(covariance.mul_(2 * sample).add_(c2))
    values /= squares.float().add_(c1).mul_(variance.mul_(sample).add_(c2))
    return values.mean((2, 3)).double().mean(1)


def best_shift(restored: Tensor, sharp: Tensor, reach: int) -> Tensor:
    """Whole-pixel shift of smallest squared error.

    Parameters
    ----------
    restored, sharp : Tensor
        (N, C, H, W) uint8.
    reach : int
        Shifts of -reach to reach along both axes are tried.

    Returns
    -------
    Tensor
        (N, 2) int64 (rows, columns). ``restored`` moved back by it lies on ``sharp``:
        ``restored[reach + dy : H - reach + dy, ...]`` is compared with ``sharp[reach : H - reach, ...]``.
        Of equal errors the shortest shift counts.
    """
    _check(restored, sharp)
    height, width = sharp.shape[-2:]
    if min(height, width) <= 2 * reach:
        raise InputError(
            f"Shifts of {reach} pixels leave no interior of {height}x{width}.", "Use a smaller kernel."
        )
    side = 2 * reach + 1
    a, b = restored.double(), sharp[..., reach : height - reach, reach : width - reach].double()
    # Valid cross-correlation of the interior with the restored face, summed over channels.
    size = (next_fast_len(height, real=True), next_fast_len(width, real=True))
    spectrum = (torch.fft.rfft2(a, s=size) * torch.fft.rfft2(b, s=size).conj()).sum(1)
    correlation = torch.fft.irfft2(spectrum, s=size)[:, :side, :side]
    energy = torch.nn.functional.pad((a * a).sum(1), (1, 0, 1, 0)).cumsum(1).cumsum(2)
    h, w = height - 2 * reach, width - 2 * reach
    window = (
        energy[:, h : h + side, w : w + side]
        - energy[:, :side, w : w + side]
        - energy[:, h : h + side, :side]
        + energy[:, :side, :side]
    )
    # Whole numbers below 2^53; rounding removes the error of the transform. The constant term is left out.
    error = (window - 2 * correlation).round()
    axis = torch.arange(-reach, reach + 1, device=error.device)
    distance = (axis[:, None] ** 2 + axis[None, :] ** 2).flatten()
    order = torch.argsort(distance, stable=True)
    first = order[error.flatten(1)[:, order].argmin(1)]
    return torch.stack([first // side - reach, first % side - reach], 1).cpu()


def _decibel(squared: Tensor, count: int) -> Tensor:
    decibel = 10 * torch.log10(255.0**2 * count / squared)
    return torch.where(squared == 0, torch.full_like(decibel, PSNR_CAP), decibel)


def _box(values: Tensor) -> Tensor:
    """Sums over 7 x 7 windows that lie inside: whole numbers in, whole numbers out."""
    height, width = values.shape[-2] - _WINDOW + 1, values.shape[-1] - _WINDOW + 1
    rows = values[..., :height, :].clone()
    for offset in range(1, _WINDOW):
        rows += values[..., offset : offset + height, :]
    total = rows[..., :width].clone()
    for offset in range(1, _WINDOW):
        total += rows[..., offset : offset + width]
    return total


def _check(restored: Tensor, sharp: Tensor) -> None:
    if restored.shape != sharp.shape or restored.ndim != 4 or {restored.dtype, sharp.dtype} != {torch.uint8}:
        raise InputError(
            f"Quality compares (N, C, H, W) uint8 batches of one shape, not {restored.dtype} "
            f"{tuple(restored.shape)} and {sharp.dtype} {tuple(sharp.shape)}.",
            "Round both to 8 bits first.",
        )

"""Perrone and Favaro 2014: "Total variation blind deconvolution: the devil is in the details".

    min ||(u * k)_valid - f||^2 + lambda TV(u),      k >= 0, sum k = 1,

u larger than f by K - 1, so that no boundary condition is invented. Coarse to fine, alternating
gradient steps of fixed relative length: the kernel is brought to unit sum after its step instead of
being constrained during it (the delayed normalisation that the title speaks of). At the end of a
level u is thrown away and computed again with the found k.

The steps are divided by the largest gradient, which lets rounding grow: two implementations agree to
1e-4 of the kernel's peak at coarse levels and to 1e-2 at the finest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ...errors import InputError
from .base import ClassicalRestorer
from .core import from_frequency, pad_edge, project_kernels, resize, to_frequency
from .nonblind import SparseDeconvSettings, sparse_deconvolution

# Guards the division by the largest gradient.
_SMALLEST = 1e-31


@dataclass(frozen=True)
class PerroneSettings:
    """Settings of Perrone & Favaro 2014; defaults as in the authors' demonstration.

    Attributes
    ----------
    weight : float
        lambda at full size (6e-4; the authors advise 3e-4 to 6e-4, and 1e-3 for noise).
    weight_factor, weight_limit : float
        lambda grows by the factor from level to level towards the coarse end, and no level is added
        where it would reach the limit (1.9, 0.11).
    scale : float
        Kernel sides of neighbouring levels differ by about this factor (1.1).
    iterations : int
        Of the alternation, and again of the u-update, at every level (1000).
    image_step, kernel_step : float
        Step lengths relative to the largest value over the largest gradient (5e-3, 1e-3).
    epsilon : float
        Floor of the gradient magnitude in the total variation (1e-3).
    final : {"tv", "sparse"}
        Return the method's own u, or, as in the paper's tables, the sparse deconvolution of Levin
        et al. with the found kernel, each channel ("tv").
    double : bool
        Compute in float64 (False: float32, which changes the result no more than rounding of the
        input does).
    """

    weight: float = 6e-4
    weight_factor: float = 1.9
    weight_limit: float = 0.11
    scale: float = 1.1
    iterations: int = 1000
    image_step: float = 5e-3
    kernel_step: float = 1e-3
    epsilon: float = 1e-3
    final: Literal["tv", "sparse"] = "tv"
    double: bool = False

    def __post_init__(self) -> None:
        positive = (self.weight, self.image_step, self.kernel_step, self.epsilon)
        if not (
            min(positive) > 0 and self.weight_factor > 1 and self.scale > 1 and self.iterations >= 1
        ) or self.final not in ("tv", "sparse"):
            raise InputError(
                f"Settings out of range: {self}.",
                "Weights and steps are positive, factors above 1, iterations at least 1, "
                "final is 'tv' or 'sparse'.",
            )


@dataclass(frozen=True)
class PerroneLevel:
    """State after a pyramid level: kernels (N, K, K), u (N, C, H + K - 1, W + K - 1)."""

    kernels: Tensor
    u: Tensor


def _odd(length: float) -> int:
    whole = math.floor(length + 0.5)
    return whole if whole % 2 else whole - 1


def levels(
    kernel_size: int, shape: tuple[int, int], settings: PerroneSettings
) -> list[tuple[int, float, tuple[int, int]]]:
    """Kernel side, lambda and picture size of every level, coarsest first."""
    size, weight = kernel_size, settings.weight
    found = [(size, weight, shape)]
    while size > 3 and settings.weight_factor * weight < settings.weight_limit:
        weight *= settings.weight_factor
        smaller = _odd(size / settings.scale)
        smaller = max(smaller - 2 if smaller == size else smaller, 3)
        ratio = size / smaller
        shape = (max(_odd(shape[0] / ratio), 1), max(_odd(shape[1] / ratio), 1))
        size = smaller
        found.append((size, weight, shape))
    return found[::-1]


class _Level:
    """The gradient steps at one level of the pyramid."""

    def __init__(self, f: Tensor, shape: tuple[int, int], weight: float, settings: PerroneSettings) -> None:
        self.f, self.weight, self.settings = f, weight, settings
        self.rows, self.columns = shape
        self.size = shape[0] - f.shape[-2] + 1
        self.fft = (next_fast_len(shape[0], real=True), next_fast_len(shape[1], real=True))
        # Zero outside the 'valid' part, once and for all.
        self.residual = f.new_zeros((*f.shape[:2], *self.fft))

    def spectrum_of_residual(self, spectrum: Tensor, otf: Tensor) -> Tensor:
        """Transform of (u * k)_valid - f, lying where the full convolution has it."""
        full = from_frequency(spectrum * otf, self.fft)
        rows, columns = slice(self.size - 1, self.rows), slice(self.size - 1, self.columns)
        torch.sub(full[..., rows, columns], self.f, out=self.residual[..., rows, columns])
        return to_frequency(self.residual)

    def step_u(self, u: Tensor, spectrum: Tensor, otf: Tensor) -> None:
        """u <- u - step max(u) / max |g| g with g = k~ * residual - lambda div(grad u / |grad u|)."""
        product = self.spectrum_of_residual(spectrum, otf) * otf.conj()
        g = from_frequency(product, self.fft)[..., : self.rows, : self.columns]
        down, across = torch.zeros_like(u), torch.zeros_like(u)
        torch.sub(u[..., 1:, :], u[..., :-1, :], out=down[..., :-1, :])
        torch.sub(u[..., :, 1:], u[..., :, :-1], out=across[..., :, :-1])
        norm = (down * down).addcmul_(across, across).sqrt_().clamp_min_(self.settings.epsilon)
        scale = norm.reciprocal_().mul_(self.weight)
        down *= scale
        across *= scale
        g = g - down
        g -= across
        g[..., 1:, :] += down[..., :-1, :]
        g[..., :, 1:] += across[..., :, :-1]
        largest = g.abs().amax((1, 2, 3), keepdim=True).clamp_min(_SMALLEST)
        u.sub_(g.mul_(self.settings.image_step * u.amax((1, 2, 3), keepdim=True) / largest))

    def step_k(self, kernels: Tensor, spectrum: Tensor, otf: Tensor) -> Tensor:
        """k <- k - step max(k) / max |g| g, then negatives to 0 and unit sum."""
        product = (spectrum.conj() * self.spectrum_of_residual(spectrum, otf)).sum(1)
        g = from_frequency(product, self.fft)[:, : self.size, : self.size]
        largest = g.abs().amax((1, 2), keepdim=True).clamp_min(_SMALLEST)
        moved = kernels - g * (self.settings.kernel_step * kernels.amax((1, 2), keepdim=True) / largest)
        return project_kernels(moved)

    def run(self, u: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
        first = u.clone()
        spectrum = to_frequency(u, self.fft)
        for _ in range(self.settings.iterations):
            otf = to_frequency(kernels, self.fft)[:, None]
            self.step_u(u, spectrum, otf)
            spectrum = to_frequency(u, self.fft)
            kernels = self.step_k(kernels, spectrum, otf)
        return self.run_u(first, kernels), kernels

    def run_u(self, u: Tensor, kernels: Tensor) -> Tensor:
        otf = to_frequency(kernels, self.fft)[:, None]
        for _ in range(self.settings.iterations):
            self.step_u(u, to_frequency(u, self.fft), otf)
        return u


def perrone(
    pictures: Tensor,
    kernel_size: int,
    settings: PerroneSettings | None = None,
    trace: list[PerroneLevel] | None = None,
) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch.

    Parameters
    ----------
    pictures : Tensor
        (N, C, H, W) float64 in [0, 1]; the channels share a kernel.
    kernel_size : int
        K, odd.
    settings : PerroneSettings, optional
    trace : list, optional
        Receives the state after every level.

    Returns
    -------
    (Tensor, Tensor)
        Restored pictures, as ``pictures``, not clipped, and kernels (N, K, K), neither centred nor
        thresholded.

    Notes
    -----
    Sides of even length lose their last row or column before anything else, as in the authors'
    program. Theirs returns the smaller picture; u reaches beyond it by K // 2, so that row and
    column are taken from u here.
    """
    settings = settings or PerroneSettings()
    height, width = pictures.shape[-2:]
    dtype = torch.float64 if settings.double else torch.float32
    y = pictures[..., : height - 1 + height % 2, : width - 1 + width % 2]
    full = (y.shape[-2], y.shape[-1])
    u = pad_edge(y, kernel_size // 2)
    kernels = pictures.new_full((len(pictures), kernel_size, kernel_size), 1 / kernel_size**2)
    for size, weight, shape in levels(kernel_size, full, settings):
        f = y if shape == full else resize(y, size=shape)
        larger = (shape[0] + size - 1, shape[1] + size - 1)
        u = resize(u, size=larger)
        kernels = project_kernels(resize(kernels, size=(size, size)))
        u, kernels = _Level(f.to(dtype), larger, weight, settings).run(
            u.to(dtype, copy=True), kernels.to(dtype)
        )
        u, kernels = u.to(pictures.dtype), kernels.to(pictures.dtype)
        if trace is not None:
            trace.append(PerroneLevel(kernels, u))
    if settings.final == "sparse":
        return sparse_deconvolution(pictures, kernels, SparseDeconvSettings(iterations=200)), kernels
    half = kernel_size // 2
    return u[..., half : half + height, half : half + width], kernels


class Perrone(ClassicalRestorer):
    """Total variation blind deconvolution (Perrone and Favaro 2014), in colour."""

    name = "perrone"
    Settings = PerroneSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return perrone(pictures, self.kernel_size, self.settings)

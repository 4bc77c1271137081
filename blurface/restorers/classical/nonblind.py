"""Restoration with a known kernel: the last steps of the blind methods.

``sparse_deconvolution``: Levin et al. 2007, "Image and depth from a conventional camera with a
coded aperture", with the solver and weights of Levin et al. 2011. ``fast_deconvolution``:
Krishnan and Fergus 2009, "Fast image deconvolution using hyper-Laplacian priors".
``total_variation``: the split-Bregman step of Krishnan et al. 2011.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from .base import ClassicalRestorer
from .core import (
    Array,
    ValidConvolution,
    chunks,
    conjugate_gradients,
    crop,
    difference_power,
    edgetaper,
    from_frequency,
    pad_edge,
    psf_to_otf,
    to_frequency,
)


def _in_parts(solve: Callable[[Tensor, Tensor], Tensor], pictures: Tensor, kernels: Tensor) -> Tensor:
    """Apply ``solve`` to parts of the batch; kernels (N or 1, K, K) get an axis for channels."""
    size = kernels.shape[-1] - 1
    pixels = (pictures.shape[-2] + size) * (pictures.shape[-1] + size) * math.prod(pictures.shape[1:-2])
    given = kernels[:, None] if pictures.ndim == 4 else kernels
    return torch.cat(
        [
            solve(pictures[part], given[part] if len(given) > 1 else given)
            for part in chunks(len(pictures), pixels)
        ]
    )


# Sparse deconvolution -------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseDeconvSettings:
    """Settings of :func:`sparse_deconvolution`; defaults as in the package of Levin et al. 2011.

    Attributes
    ----------
    weight : float
        Of the prior against the squared residual (0.0068).
    iterations : int
        Conjugate-gradient iterations of each of the three solves (70; Perrone & Favaro use 200).
    exponent : float
        Of the prior, in (0, 2] (0.8).
    reweightings : int
        Solves after the first, quadratic one (2).
    """

    weight: float = 0.0068
    iterations: int = 70
    exponent: float = 0.8
    reweightings: int = 2

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.iterations >= 1 and 0 < self.exponent <= 2):
            raise InputError(
                f"Settings out of range: {self}.", "weight > 0, iterations >= 1, 0 < exponent <= 2."
            )


def _differences(x: Tensor, out: list[Tensor] | None = None) -> list[Tensor]:
    """First (across, down) and second (across, down, mixed) differences, valid."""
    across, down, second_across, second_down, mixed = out if out is not None else (None,) * 5

    def difference(t: Tensor, dim: int, into: Tensor | None) -> Tensor:
        length = t.shape[dim] - 1
        return torch.sub(t.narrow(dim, 1, length), t.narrow(dim, 0, length), out=into)

    across, down = difference(x, -1, across), difference(x, -2, down)
    second_across, second_down = difference(across, -1, second_across), difference(down, -2, second_down)
    return [across, down, second_across, second_down, difference(across, -2, mixed)]


def _spread(t: Tensor, dim: int, onto: Tensor) -> None:
    """Add the adjoint of ``diff`` along ``dim`` of ``t`` to ``onto``, which is longer by one."""
    onto.narrow(dim, 1, t.shape[dim]).add_(t)
    onto.narrow(dim, 0, t.shape[dim]).sub_(t)


def sparse_energy(
    x: Tensor, pictures: Tensor, kernels: Tensor, settings: SparseDeconvSettings | None = None
) -> Tensor:
    """The objective of :func:`sparse_deconvolution` per picture, (N,), up to the floor of 0.01.

    Parameters
    ----------
    x : Tensor
        (N, H + K - 1, W + K - 1).
    pictures, kernels, settings
        As there.
    """
    settings = settings or SparseDeconvSettings()
    operator = ValidConvolution(kernels, (x.shape[-2], x.shape[-1]))
    energy = ((operator.forward(x) - pictures) ** 2).flatten(1).sum(1)
    for order, difference in zip((0, 0, 1, 1, 1), _differences(x), strict=True):
        share = 0.25 if order else 1.0
        # The reweighting w = 0.1 max(|d|, 0.01)^(p - 2) majorises this function of d.
        size, p = difference.abs(), settings.exponent
        rho = torch.where(
            size < 0.01,
            0.1 * 0.01 ** (p - 2) * size**2,
            0.1 * (2 / p * size**p + (1 - 2 / p) * 0.01**p),
        )
        energy = energy + settings.weight * share * rho.flatten(1).sum(1)
    return energy


def sparse_deconvolution(
    pictures: Tensor,
    kernels: Tensor,
    settings: SparseDeconvSettings | None = None,
    *,
    full: bool = False,
) -> Tensor:
    """Deconvolve with a sparse prior on first and second derivatives.

    min ||(x * k)_valid - y||^2 + weight sum_f rho_f |f x|^exponent over five difference filters,
    by iteratively reweighted least squares and conjugate gradients. x extends beyond y by K // 2
    on every side, so that no boundary condition is invented.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) or (N, C, H, W) float64 in [0, 1]; channels are restored separately.
    kernels : Tensor
        (N, K, K) or (1, K, K), odd K, unit sum, convolution convention.
    settings : SparseDeconvSettings, optional
    full : bool
        Return all of x instead of the part that y covers.

    Returns
    -------
    Tensor
        Shape of ``pictures`` (each side longer by K - 1 if ``full``), not clipped.
    """
    chosen = settings or SparseDeconvSettings()
    x = _in_parts(lambda y, k: _sparse(y, k, chosen), pictures, kernels)
    return x if full else crop(x, kernels.shape[-1] // 2)


def _sparse(pictures: Tensor, kernels: Tensor, settings: SparseDeconvSettings) -> Tensor:
    start = pad_edge(pictures, kernels.shape[-1] // 2)
    operator = ValidConvolution(kernels, (start.shape[-2], start.shape[-1]))
    right = operator.pad(operator.adjoint(pictures))
    differences = _differences(start)
    weights: list[Tensor] | None = None

    def apply(padded: Tensor) -> Tensor:
        across, down, second_across, second_down, mixed = _differences(operator.crop(padded), differences)
        if weights is None:
            for difference in differences:
                difference.mul_(settings.weight)
        else:
            for difference, weight in zip(differences, weights, strict=True):
                difference.mul_(weight)
        # Second differences are differences of the first ones: fold them back step by step.
        _spread(second_across, -1, across)
        _spread(mixed, -2, across)
        _spread(second_down, -2, down)
        out = operator.padded_normal(padded)
        inside = operator.crop(out)
        _spread(across, -1, inside)
        _spread(down, -2, inside)
        return out

    x = start
    for turn in range(settings.reweightings + 1):
        if turn:
            weights = [
                share * 0.1 * settings.weight * difference.abs().clamp_min(0.01) ** (settings.exponent - 2)
                for share, difference in zip((1.0, 1.0, 0.25, 0.25, 0.25), _differences(x), strict=True)
            ]
        x = operator.crop(conjugate_gradients(apply, right, operator.pad(start), settings.iterations))
    return x


class SparseDeconv(ClassicalRestorer):
    """Sparse deconvolution with the true kernel, each channel (Levin et al. 2007, 2011)."""

    name = "sparse-deconv"
    blind = False
    Settings = SparseDeconvSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert kernels is not None
        return sparse_deconvolution(pictures, kernels, self.settings), None


# Hyper-Laplacian deconvolution ----------------------------------------------------------------


@dataclass(frozen=True)
class FastDeconvSettings:
    """Settings of :func:`fast_deconvolution`; defaults as in its authors' demonstration.

    Attributes
    ----------
    fidelity : float
        lambda (2000).
    exponent : float
        alpha, in (0, 1) (1/2; the paper also uses 2/3).
    beta, beta_factor, beta_limit : float
        Continuation of the quadratic penalty: from 1, times 2 sqrt(2), while below 256.
    """

    fidelity: float = 2000.0
    exponent: float = 0.5
    beta: float = 1.0
    beta_factor: float = 2 * math.sqrt(2)
    beta_limit: float = 256.0

    def __post_init__(self) -> None:
        if not (self.fidelity > 0 and 0 < self.exponent < 1 and self.beta > 0 and self.beta_factor > 1):
            raise InputError(
                f"Settings out of range: {self}.", "fidelity, beta > 0, 0 < exponent < 1, beta_factor > 1."
            )


_TABLE_STEP, _TABLE_END = 1e-4, 10.0


@lru_cache(maxsize=64)
def _shrinkage_table(beta: float, exponent: float) -> Array:
    """argmin_w |w|^exponent + (beta / 2) (w - v)^2 for v = 0, 1e-4, ..., 10."""
    v = np.linspace(0, _TABLE_END, round(_TABLE_END / _TABLE_STEP) + 1)
    # The derivative h(w) = exponent w^(exponent - 1) + beta (w - v) is convex; right of its lowest
    # point Newton's method from w = v falls monotonically to the larger root, the local minimum.
    lowest = (exponent * (1 - exponent) / beta) ** (1 / (2 - exponent))
    table: Array = np.zeros_like(v)
    roots = np.flatnonzero(exponent * lowest ** (exponent - 1) + beta * (lowest - v) < 0)
    target = v[roots]
    w = target.copy()
    for _ in range(60):
        power = w ** (exponent - 2)
        step = (exponent * power * w + beta * (w - target)) / (exponent * (exponent - 1) * power + beta)
        w -= step
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    # The cost at the minimum against the cost at 0 reads w > 2 v (1 - exponent) / (2 - exponent).
    better = w > 2 * target * (1 - exponent) / (2 - exponent)
    table[roots[better]] = w[better]
    return table


def shrink_hyper_laplacian(v: Tensor, beta: float, exponent: float) -> Tensor:
    """argmin_w |w|^exponent + (beta / 2) (w - v)^2, by a table with steps of 1e-4."""
    table = torch.as_tensor(_shrinkage_table(beta, exponent)).to(v)
    position = v.abs() / _TABLE_STEP
    left = position.clamp_max(len(table) - 2).floor()
    index, part = left.to(torch.int64), position - left
    inside = torch.lerp(table[index], table[index + 1], part)
    return torch.where(position <= len(table) - 1, inside, v.abs()) * v.sign()


def _circular_differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.roll(-1, -1) - x, x.roll(-1, -2) - x


def fast_deconvolution(
    pictures: Tensor, kernels: Tensor, settings: FastDeconvSettings | None = None
) -> Tensor:
    """Deconvolve with a hyper-Laplacian prior on first derivatives.

    min (fidelity / 2) ||x * k - y||^2 + sum |D x|^exponent by half-quadratic splitting; the border
    is padded by K // 2 edge values and tapered.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) or (N, C, H, W) float64 in [0, 1]; channels are restored separately.
    kernels : Tensor
        (N, K, K) or (1, K, K), odd K, unit sum, convolution convention.
    settings : FastDeconvSettings, optional

    Returns
    -------
    Tensor
        Shape of ``pictures``, not clipped.
    """
    chosen = settings or FastDeconvSettings()
    return _in_parts(lambda y, k: _fast(y, k, chosen), pictures, kernels)


def _fast(pictures: Tensor, kernels: Tensor, settings: FastDeconvSettings) -> Tensor:
    half = kernels.shape[-1] // 2
    y = edgetaper(pad_edge(pictures, half), kernels)
    shape = (y.shape[-2], y.shape[-1])
    otf = psf_to_otf(kernels, shape)
    data, power = otf.conj() * to_frequency(y), otf.abs() ** 2
    smooth = difference_power(shape, y)
    x, beta = y, settings.beta
    while beta < settings.beta_limit:
        gamma = beta / settings.fidelity
        across, down = (shrink_hyper_laplacian(v, beta, settings.exponent) for v in _circular_differences(x))
        back = across.roll(1, -1) - across + down.roll(1, -2) - down
        x = from_frequency((data + gamma * to_frequency(back)) / (power + gamma * smooth), shape)
        beta *= settings.beta_factor
    return crop(x, half)


class FastDeconv(ClassicalRestorer):
    """Hyper-Laplacian deconvolution with the true kernel, each channel (Krishnan & Fergus 2009)."""

    name = "fast-deconv"
    blind = False
    Settings = FastDeconvSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert kernels is not None
        return fast_deconvolution(pictures, kernels, self.settings), None


# Total variation ------------------------------------------------------------------------------


def total_variation(
    pictures: Tensor,
    kernels: Tensor,
    *,
    fidelity: float = 3000.0,
    penalty: float = 400.0,
    iterations: int = 20,
) -> Tensor:
    """Deconvolve with the anisotropic total variation (last step of Krishnan et al. 2011).

    min (fidelity / 2) ||g * k - f||^2 + ||D g||_1 by split Bregman iterations; the border is padded
    by K // 2 edge values and tapered.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) or (N, C, H, W) float64 in [0, 1]; channels are restored separately.
    kernels : Tensor
        (N, K, K) or (1, K, K), odd K, unit sum, convolution convention.
    fidelity, penalty : float
        Weights of the data term and of the splitting (3000, 400).
    iterations : int
        Rounds (20).

    Returns
    -------
    Tensor
        Shape of ``pictures``, not clipped.
    """
    return _in_parts(lambda y, k: _total_variation(y, k, fidelity, penalty, iterations), pictures, kernels)


def _total_variation(
    pictures: Tensor, kernels: Tensor, fidelity: float, penalty: float, iterations: int
) -> Tensor:
    half = kernels.shape[-1] // 2
    y = edgetaper(pad_edge(pictures, half), kernels)
    shape = (y.shape[-2], y.shape[-1])
    otf = psf_to_otf(kernels, shape)
    data = fidelity * otf.conj() * to_frequency(y)
    # The differences leave out the wrapped one but the solver counts it: as published.
    denominator = fidelity * otf.abs() ** 2 + penalty * difference_power(shape, y)
    g = y
    multipliers: list[Tensor] | None = None
    for _ in range(iterations):
        slopes = (g.diff(dim=-1), g.diff(dim=-2))
        if multipliers is None:
            multipliers = [torch.zeros_like(slope) for slope in slopes]
        back = torch.zeros_like(g)
        for dim, slope, multiplier in zip((-1, -2), slopes, multipliers, strict=True):
            total = slope + multiplier
            clipped = total.clamp(-1 / penalty, 1 / penalty)
            # w = soft(total) = total - clipped, and the new multiplier is the clipped part.
            _spread(total - 2 * clipped, dim, back)
            multiplier.copy_(clipped)
        g = from_frequency((data + penalty * to_frequency(back)) / denominator, shape)
    return crop(g, half)

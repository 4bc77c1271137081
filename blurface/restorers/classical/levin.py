"""Levin, Weiss, Durand and Freeman 2011: "Efficient marginal likelihood optimization in blind deconvolution".

For each of the two derivative images of the grey picture, y_d = x_d * k + noise(sigma), with the
pixels of x_d independent draws from a mixture of three zero-mean Gaussians. Expectation
maximisation for k, coarse to fine and from much noise to little, with a Gaussian of diagonal
covariance for x_d (the variant that the authors recommend); then sparse deconvolution.

Inside this module kernels act as correlations, y(p) = sum_a k(a) x(p + a), as in the authors'
program: its start and its rules for ties are not symmetric.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from torch import Tensor

from ...errors import InputError
from .base import ClassicalRestorer
from .core import (
    Array,
    ValidConvolution,
    chunks,
    conjugate_gradients,
    derivatives,
    from_frequency,
    grey,
    pad_edge,
    project_kernels,
    pyramid_sizes,
    pyramid_step,
    resize_kernels,
    to_frequency,
)
from .nonblind import SparseDeconvSettings, sparse_deconvolution

# Mixture of the derivatives of natural pictures: weights and inverse variances, from the package.
_WEIGHTS = (0.30471011, 0.43436355, 0.26092634)
_PRECISIONS = (7021.6804986, 471.84142102, 41.84820868)


@dataclass(frozen=True)
class LevinSettings:
    """Settings of Levin et al. 2011; defaults as in the authors' package.

    Attributes
    ----------
    noise : float
        Standard deviation of the noise at the end of every level (0.01).
    noise_factor : float
        Each earlier iteration of a level assumes this much more (1.15).
    iterations : int
        Of expectation maximisation at every level (11).
    rounds : int
        Of the mixture weights in every expectation step (3).
    kernel_weight, kernel_exponent : float
        Of the prior on the kernel (0.01, 0.5).
    prior_weight : float
        Weight of the last step's prior, see :class:`~.nonblind.SparseDeconvSettings` (0.0068).
    final_iterations : int
        Conjugate-gradient iterations of the last step (70).
    """

    noise: float = 0.01
    noise_factor: float = 1.15
    iterations: int = 11
    rounds: int = 3
    kernel_weight: float = 0.01
    kernel_exponent: float = 0.5
    prior_weight: float = 0.0068
    final_iterations: int = 70

    def __post_init__(self) -> None:
        if not (
            self.noise > 0
            and self.noise_factor >= 1
            and min(self.iterations, self.rounds, self.final_iterations) >= 1
            and self.kernel_weight >= 0
            and 0 < self.kernel_exponent <= 2
            and self.prior_weight > 0
        ):
            raise InputError(f"Settings out of range: {self}.", "Weights are positive, counts at least 1.")


@dataclass(frozen=True)
class LevinLevel:
    """Kernels (N, T, K, K) after every iteration of a level, as correlations and not normalised."""

    kernels: Tensor


def _mixture_weights(energy: Tensor) -> Tensor:
    """Expected inverse variance of every pixel, given E[x^2]: sum_i q_i / variance_i."""
    total, weighted = torch.zeros_like(energy), torch.zeros_like(energy)
    # Relative to the widest component, so that no exponent overflows or all vanish.
    widest = _PRECISIONS[-1]
    for weight, precision in zip(_WEIGHTS, _PRECISIONS, strict=True):
        share = weight * math.sqrt(precision) * torch.exp(energy * (-(precision - widest) / 2))
        total += share
        weighted += share * precision
    return weighted / total


def expect(y: Tensor, kernels: Tensor, noise: float, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """The expectation step: mean and diagonal covariance of the sharp derivative images.

    Parameters
    ----------
    y : Tensor
        (N, 2, H, W).
    kernels : Tensor
        (N, K, K), as correlations.
    noise : float
        Standard deviation.
    rounds : int
        Of the mixture weights.

    Returns
    -------
    (Tensor, Tensor)
        (N, 2, H + K - 1, W + K - 1) both.
    """
    flipped = kernels.flip((-2, -1))[:, None]
    start = pad_edge(y, kernels.shape[-1] // 2)
    shape = (start.shape[-2], start.shape[-1])
    operator = ValidConvolution(flipped, shape)
    # How much of k^2 sees a pixel: the same for both derivatives.
    seen = ValidConvolution(flipped.square(), shape).adjoint(torch.ones_like(y[:, :1])) / noise**2
    start, right, seen = operator.pad(start), operator.pad(operator.adjoint(y)), operator.pad(seen)
    weight = torch.full_like(start, sum(w * p for w, p in zip(_WEIGHTS, _PRECISIONS, strict=True)))
    mean, covariance = start, torch.zeros_like(start)
    blurred = operator.padded_normal_pairs(start)
    for turn in range(rounds):
        if turn:
            weight = _mixture_weights(mean.square() + covariance)
        ridge = weight * noise**2

        def apply(x: Tensor, ridge: Tensor = ridge) -> Tensor:
            return operator.padded_normal_pairs(x).addcmul_(ridge, x)

        mean = conjugate_gradients(apply, right, start, 15, 1e-8, image=blurred + ridge * start)
        covariance = 1 / (weight + seen)
    return operator.crop(mean), operator.crop(covariance)


def window_gram(x: Tensor, size: int) -> Tensor:
    """Sum over all windows of (window)(window)^T.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W).
    size : int
        K; the windows are K x K, row by row, and those of all C pictures are summed.

    Returns
    -------
    Tensor
        (N, K^2, K^2).
    """
    count, _, height, width = x.shape
    rows, columns = height - size + 1, width - size + 1
    gram = x.new_zeros((count, size, size, size, size))  # [row a, column a, row b, column b]
    # Element a in row 0, and a or b in column 0: correlations of x cut to the frame of a window's
    # first element.
    shape = (next_fast_len(height + size, real=True), next_fast_len(width + size, real=True))
    corner, upper, left = (torch.zeros_like(x) for _ in range(3))
    corner[..., :rows, :columns] = x[..., :rows, :columns]
    upper[..., :rows, :], left[..., :columns] = x[..., :rows, :], x[..., :columns]
    product = (to_frequency(corner, shape).conj() * to_frequency(x, shape)).sum(1)
    gram[:, 0, 0] = from_frequency(product, shape)[:, :size, :size]
    product = (to_frequency(upper, shape).conj() * to_frequency(left, shape)).sum(1)
    backwards = -torch.arange(size, device=x.device)  # b lies to the left of a
    gram[:, 0, :, :, 0] = from_frequency(product, shape)[:, :size, backwards].mT
    # One column to the right, every window loses a column on the left and gains one on the right.
    begin = torch.stack([x[..., lag : lag + rows, : size - 1].flatten(1, 2) for lag in range(size)], 1)
    end = torch.stack([x[..., lag : lag + rows, columns:].flatten(1, 2) for lag in range(size)], 1)
    change = (end[:, :1].mT @ end - begin[:, :1].mT @ begin).transpose(1, 2)
    for column in range(1, size):
        gram[:, 0, column, :, 1:] = gram[:, 0, column - 1, :, :-1] + change[:, column - 1]
    # One row further down, it loses a row at the top and gains one at the bottom.
    shifted = x.unfold(-1, columns, 1).permute(0, 2, 3, 1, 4)  # [n, r, a, c, :]: row r from column a on
    top = shifted[:, : size - 1].flatten(3).flatten(1, 2)
    bottom = shifted[:, rows:].flatten(3).flatten(1, 2)
    change = (bottom @ bottom.mT).sub_(top @ top.mT).view(count, size - 1, size, size - 1, size)
    for row in range(1, size):
        gram[:, row, :, row:] = gram[:, row - 1, :, row - 1 : -1] + change[:, row - 1, :, row - 1 :]
        gram[:, row, :, :row] = gram[:, :row, :, row].permute(0, 3, 1, 2)
    return gram.view(count, size**2, size**2)


def minimise_nonnegative(matrix: Array, right: Array, support: NDArray[np.bool_] | None = None) -> Array:
    """argmin (1/2) k^T A k - b^T k over k >= 0, exactly, by block principal pivoting.

    Portugal, Judice and Vicente 1994; for a symmetric positive definite A it ends after finitely
    many exchanges.

    Parameters
    ----------
    matrix : ndarray
        A, (n, n).
    right : ndarray
        b, (n,).
    support : ndarray of bool, optional
        Guess at where k > 0.

    Returns
    -------
    ndarray
        (n,).
    """
    count = len(right)
    free = np.ones(count, dtype=bool) if support is None or not support.any() else support.copy()
    fewest, patience = count + 1, 3
    tolerance = 1e-13 * max(float(np.abs(right).max()), 1e-300)
    solution = np.zeros(count)
    for _ in range(20 * count):
        solution = np.zeros(count)
        if free.any():
            solution[free] = _solve(matrix[np.ix_(free, free)], right[free])
        slack = matrix @ solution - right
        wrong = np.where(free, solution < 0, slack < -tolerance)
        number = int(wrong.sum())
        if number == 0:
            break
        if number < fewest:
            fewest, patience = number, 3
        elif patience > 0:
            patience -= 1
        else:  # exchange one at a time until there are fewer than ever: this cannot cycle
            last = np.flatnonzero(wrong)[-1]
            wrong[:] = False
            wrong[last] = True
        free ^= wrong
    nonnegative: Array = np.maximum(solution, 0)
    return nonnegative


def _solve(matrix: Array, right: Array) -> Array:
    try:
        solution: Array = cho_solve(cho_factor(matrix, check_finite=False), right, check_finite=False)
    except LinAlgError:  # singular to rounding
        solution = np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0], dtype=np.float64)
    return solution


def maximise(y: Tensor, mean: Tensor, covariance: Tensor, kernels: Tensor, settings: LevinSettings) -> Tensor:
    """The maximisation step: kernels (N, K, K), non-negative, not normalised.

    Parameters
    ----------
    y : Tensor
        (N, 2, H, W).
    mean, covariance : Tensor
        (N, 2, H + K - 1, W + K - 1), from :func:`expect`.
    kernels : Tensor
        (N, K, K) of before: a guess at the support.
    settings : LevinSettings
    """
    count, size = len(kernels), kernels.shape[-1]
    rows, columns = y.shape[-2:]
    matrix = window_gram(mean, size)
    # The covariance of every pixel, summed over the positions that a kernel element sees.
    spread = covariance.sum(1).cumsum(-1).cumsum(-2)
    spread = torch.nn.functional.pad(spread, (1, 0, 1, 0))
    spread = (
        spread[:, rows:, columns:]
        - spread[:, :-rows, columns:]
        - spread[:, rows:, :-columns]
        + spread[:, :-rows, :-columns]
    )
    matrix.diagonal(dim1=1, dim2=2).add_(spread.flatten(1))
    shape = (
        next_fast_len(mean.shape[-2], real=True),
        next_fast_len(mean.shape[-1], real=True),
    )
    product = (to_frequency(mean, shape) * to_frequency(y, shape).conj()).sum(1)
    right = from_frequency(product, shape)[:, :size, :size].flatten(1)
    found = np.zeros((count, size**2))
    for index in range(count):
        a, b = matrix[index].cpu().numpy(), right[index].cpu().numpy()
        k = minimise_nonnegative(a, b, kernels[index].flatten().cpu().numpy() > 0)
        for _ in range(2):
            weight = np.maximum(np.abs(k), 1e-4) ** (settings.kernel_exponent - 2)
            ridge = a.copy()
            ridge.flat[:: size**2 + 1] += settings.kernel_weight * weight
            k = minimise_nonnegative(ridge, b, k > 0)
        found[index] = k
    return torch.as_tensor(found).to(kernels).view(count, size, size)


def estimate_kernels(
    pictures: Tensor,
    kernel_size: int,
    settings: LevinSettings | None = None,
    trace: list[LevinLevel] | None = None,
) -> Tensor:
    """Estimate the kernels of grey pictures.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : LevinSettings, optional
    trace : list, optional
        Receives the kernels of every level.

    Returns
    -------
    Tensor
        (N, K, K), non-negative, unit sum, convolution convention; not centred.
    """
    settings = settings or LevinSettings()
    levels = pyramid_sizes(kernel_size)
    kernels = pictures.new_zeros((len(pictures), kernel_size, kernel_size))
    kernels[:, kernel_size // 2, kernel_size // 2 : kernel_size // 2 + 2] = 0.5
    for level, (size, ratio) in enumerate(levels):
        kernels = resize_kernels(kernels, math.sqrt(2) if level else ratio, size)
        y = derivatives(pyramid_step(pictures, ratio))
        history = kernels.new_zeros((len(y), settings.iterations, size, size))
        for part in chunks(len(y), 2 * (y.shape[-2] + size) * (y.shape[-1] + size)):
            found = kernels[part]
            for turn in range(settings.iterations):
                noise = settings.noise * settings.noise_factor ** (settings.iterations - 1 - turn)
                mean, covariance = expect(y[part], found, noise, settings.rounds)
                found = maximise(y[part], mean, covariance, found, settings)
                history[part, turn] = found
        kernels = history[:, -1]
        if trace is not None:
            trace.append(LevinLevel(history))
    return project_kernels(kernels.flip((-2, -1)))


def levin(
    rgb: Tensor, kernel_size: int, settings: LevinSettings | None = None, *, colour: bool = False
) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch.

    Parameters
    ----------
    rgb : Tensor
        (N, 3, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : LevinSettings, optional
    colour : bool
        Apply the last step to R, G and B; otherwise to the grey picture, as the authors do.

    Returns
    -------
    (Tensor, Tensor)
        Restored pictures (N, 3, H, W), not clipped (three equal channels if not ``colour``), and
        kernels (N, K, K).
    """
    settings = settings or LevinSettings()
    luma = grey(rgb)
    kernels = estimate_kernels(luma, kernel_size, settings)
    final = SparseDeconvSettings(weight=settings.prior_weight, iterations=settings.final_iterations)
    if colour:
        return sparse_deconvolution(rgb, kernels, final), kernels
    return sparse_deconvolution(luma, kernels, final)[:, None].expand(-1, 3, -1, -1), kernels


class Levin(ClassicalRestorer):
    """Efficient marginal likelihood (Levin, Weiss, Durand and Freeman 2011).

    Parameters
    ----------
    kernel_size : int
        Side of the kernel to estimate, odd.
    colour : bool
        Restore R, G and B with the kernel of the grey picture; otherwise (the authors' way) the
        grey picture, given back as three equal channels.
    device : str or torch.device
        Where tensors are computed.
    **settings
        Fields of :class:`LevinSettings`.
    """

    name = "levin"
    Settings = LevinSettings
    extra_options: ClassVar[dict[str, Any]] = {"colour": False}

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return levin(pictures, self.kernel_size, self.settings, colour=self.extras["colour"])

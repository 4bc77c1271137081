"""Michaeli and Irani 2014: "Blind deblurring using internal patch recurrence".

Small patches of a sharp picture recur in the picture reduced by alpha = 4/3; blur breaks that, and the
reduced blurry picture is sharper by alpha. With x_alpha the reduced x, Q_j and R_i cutting 5x5 patches,

    min ||x * k - y||^2 + l1 rho(x, x_alpha) + l2 ||k||^2,
    rho = -sum_j log sum_i exp(-||Q_j x - R_i x_alpha||^2 / (2 h^2)).

Coarse to fine with factors of alpha, from x = y and k = delta, in turn: reduce x; replace every patch
by the weighted mean of its nearest patches in x_alpha and average the overlaps to an image z; x-step
with z; k-step. EPLL deconvolves with the kernel found.

The authors' program is published in a form that only MATLAB runs, and no outputs of it are at hand:
the structure is the paper's, the numbers of :class:`MichaeliSettings` are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from .core import (
    ValidConvolution,
    conjugate_gradients,
    crop,
    delta_kernels,
    grey,
    pad_edge,
    project_kernels,
    remove_small_components,
    resize,
)
from .epll import EndsInEpll, EpllSettings, restore_with_epll
from .kernel_fit import clean_kernels, difference_fields, fit_kernels

PATCH = 5


@dataclass(frozen=True)
class MichaeliSettings:
    """Settings of Michaeli & Irani 2014.

    Attributes
    ----------
    alpha : float
        Reduction, and factor between the levels (4/3, the paper's).
    neighbours : int
        Patches of the reduced picture that speak for a patch.
    bandwidth : float
        h, per pixel of a patch, in grey values.
    pull : float
        l1 / h^2: weight of the image put together from the neighbours.
    ridge : float
        l2, relative to the mean eigenvalue of the kernel's system.
    iterations : int
        Alternations at every level.
    solver_iterations : int
        Conjugate-gradient iterations of every solve.
    components : int
        Principal components in which neighbours are searched.
    coarsest : int
        Smallest kernel side.
    threshold : float
        Kernel values below this part of the peak are set to 0, then 8-connected parts of less than a
        tenth of the sum.
    colour : bool
        Apply the last step to R, G and B; False: to the grey picture (as the authors do).
    noise : float
        Standard deviation of the noise for the last step (0.01).
    prior : str
        Path of another patch mixture; empty: the packaged one.
    """

    alpha: float = 4 / 3
    neighbours: int = 3
    bandwidth: float = 0.02
    pull: float = 0.05
    ridge: float = 0.3
    iterations: int = 8
    solver_iterations: int = 20
    components: int = 8
    coarsest: int = 5
    threshold: float = 0.1
    colour: bool = False
    noise: float = 0.01
    prior: str = ""

    def __post_init__(self) -> None:
        if not (
            self.alpha > 1
            and min(self.neighbours, self.iterations, self.solver_iterations) >= 1
            and 1 <= self.components <= PATCH**2
            and min(self.bandwidth, self.pull, self.noise) > 0
            and self.ridge >= 0
            and self.coarsest >= 3
            and 0 <= self.threshold < 1
        ):
            raise InputError(
                f"Settings out of range: {self}.", "alpha is above 1, weights positive, counts at least 1."
            )


def recurrent_image(x: Tensor, settings: MichaeliSettings | None = None) -> Tensor:
    """The image z put together from a picture's nearest patches in its reduced self.

    Parameters
    ----------
    x : Tensor
        (N, H, W) float64, sides of at least 7.
    settings : MichaeliSettings, optional

    Returns
    -------
    Tensor
        (N, H, W).
    """
    settings = settings or MichaeliSettings()
    height, width = x.shape[-2:]
    shape = tuple(max(round(side / settings.alpha), PATCH) for side in (height, width))
    reduced = resize(x, size=(shape[0], shape[1]))
    patches = functional.unfold(x[:, None], PATCH).mT.cpu().numpy()
    library = functional.unfold(reduced[:, None], PATCH).mT.cpu().numpy()
    count = min(settings.neighbours, library.shape[1])
    means = np.empty_like(patches)
    for own, others, mean in zip(patches, library, means, strict=True):
        # Principal components of the reduced picture's patches, the mean of a patch among them.
        centre = others.mean(0)
        _, basis = np.linalg.eigh((others - centre).T @ (others - centre))
        basis = basis[:, ::-1][:, : settings.components]
        tree = cKDTree((others - centre) @ basis)
        _, index = tree.query((own - centre) @ basis, k=count)
        near = others[index.reshape(len(own), count)]
        squared = ((near - own[:, None]) ** 2).mean(-1)
        squared -= squared.min(1, keepdims=True)
        weight = np.exp(-squared / (2 * settings.bandwidth**2))
        mean[:] = (near * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
    folded: Tensor = functional.fold(torch.from_numpy(means).mT.to(x), (height, width), PATCH)[:, 0]
    ones = x.new_ones(1, PATCH**2, means.shape[1])
    return folded / functional.fold(ones, (height, width), PATCH)[:, 0]


def _levels(kernel_size: int, shape: tuple[int, int], settings: MichaeliSettings) -> list[tuple[int, float]]:
    """Kernel side and picture ratio of every level, coarsest first."""
    found, ratio = [(kernel_size, 1.0)], 1.0
    while found[-1][0] > settings.coarsest:
        ratio /= settings.alpha
        size = round(kernel_size * ratio)
        size = max(size + 1 - size % 2, settings.coarsest)
        if size >= found[-1][0] or min(shape) * ratio < 4 * PATCH:
            break
        found.append((size, ratio))
    return found[::-1]


def estimate_kernels(pictures: Tensor, kernel_size: int, settings: MichaeliSettings | None = None) -> Tensor:
    """Estimate the kernels of grey pictures.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : MichaeliSettings, optional

    Returns
    -------
    Tensor
        (N, K, K), non-negative, unit sum, not centred.
    """
    settings = settings or MichaeliSettings()
    height, width = pictures.shape[-2:]
    kernels = x = None
    for size, ratio in _levels(kernel_size, (height, width), settings):
        y = pictures if ratio == 1 else resize(pictures, size=(round(height * ratio), round(width * ratio)))
        larger = (y.shape[-2] + size - 1, y.shape[-1] + size - 1)
        if kernels is None or x is None:
            kernels = delta_kernels(len(y), size, y)
            x = pad_edge(y, size // 2)
        else:
            kernels = project_kernels(resize(kernels, size=(size, size)))
            x = resize(x, size=larger)
        edges = difference_fields(y, 1.0, 0.0)
        for _ in range(settings.iterations):
            operator = ValidConvolution(kernels, larger)
            # Beyond the frame x is not seen: nothing is to recur there.
            inside = recurrent_image(crop(x, size // 2), settings)
            z = x.clone()
            crop(z, size // 2).copy_(inside)

            def apply(v: Tensor, operator: ValidConvolution = operator) -> Tensor:
                return operator.normal(v) + settings.pull * v

            x = conjugate_gradients(
                apply, operator.adjoint(y) + settings.pull * z, x, settings.solver_iterations
            )
            found = fit_kernels(
                difference_fields(x, 1.0, 0.0), edges, kernels, settings.ridge, settings.solver_iterations
            )
            kernels = clean_kernels(found, settings.threshold)
    assert kernels is not None
    return project_kernels(remove_small_components(kernels))


def michaeli(
    rgb: Tensor, kernel_size: int, settings: MichaeliSettings | None = None
) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch.

    Parameters
    ----------
    rgb : Tensor
        (N, 3, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : MichaeliSettings, optional

    Returns
    -------
    (Tensor, Tensor)
        Restored pictures (N, 3, H, W) in [0, 1] and kernels (N, K, K).
    """
    settings = settings or MichaeliSettings()
    kernels = estimate_kernels(grey(rgb, eight_bit=True), kernel_size, settings)
    final = EpllSettings(colour=settings.colour, noise=settings.noise, prior=settings.prior)
    return restore_with_epll(rgb, kernels, final), kernels


class Michaeli(EndsInEpll):
    """Internal patch recurrence (Michaeli and Irani 2014), from the paper's description."""

    name = "michaeli"
    Settings = MichaeliSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return michaeli(pictures, self.kernel_size, self.settings)

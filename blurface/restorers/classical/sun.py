"""Sun, Cho, Wang and Hays 2013: "Edge-based blur kernel estimation using patch priors".

The sharp picture is asked to look like an edge, a bar or a corner only where it can be trusted to: at
the strongest edges M. Coarse to fine, alternating between

    x: min sum_D w_D ||D (x * k - y)||^2 + alpha ||grad x||^2 + beta sum_{i in M} rho(P_i x - q_i),
    k: min sum_D w_D ||k * (D x)_M - D y||^2 + gamma ||k||^2,

with D the first and second derivatives, P_i x the 5x5 patch around pixel i, rho robust (Lorentzian)
and q_i = sigma_i Z_i + mu_i the nearest of a set of synthetic primitives, at the patch's mean and
with a contrast that sharp edges have. EPLL deconvolves with the kernel found.

The authors give their program on request only and no outputs of it are at hand: the structure is the
paper's, the numbers of :class:`SunSettings` are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from .core import (
    ValidConvolution,
    conjugate_gradients,
    delta_kernels,
    grey,
    pad_edge,
    pyramid_sizes,
    resize,
    resize_kernels,
)
from .epll import EndsInEpll, EpllSettings, restore_with_epll
from .kernel_fit import clean_kernels, difference_fields, fit_kernels, oriented_responses

PATCH = 5
# Deciles (5%, 15%, ..., 95%) of the standard deviation of 5x5 patches at the strongest 2% of the edges
# of sharp photographs of faces: the contrast that q_i is mapped onto by rank.
_CONTRAST = (0.152, 0.174, 0.190, 0.205, 0.220, 0.235, 0.252, 0.273, 0.300, 0.348)


@dataclass(frozen=True)
class SunSettings:
    """Settings of Sun et al. 2013.

    Attributes
    ----------
    edges : float
        Part of the pixels at which the patch prior acts (0.02, the paper's).
    first, second : float
        Weights w of the data term on first and second derivatives.
    smoothness, start_smoothness : float
        alpha, with the patch prior and in the solve without it that comes before.
    pull : float
        beta, of one masked pixel's patch.
    robust : float
        Scale of the Lorentzian, in grey values.
    ridge : float
        gamma relative to the mean eigenvalue of the kernel's system.
    iterations : int
        Alternations at every level.
    solver_iterations : int
        Conjugate-gradient iterations of every solve.
    threshold : float
        Kernel values below this part of the peak are set to 0, then 8-connected parts of less than a
        tenth of the sum.
    colour : bool
        Apply the last step to R, G and B; False: to the grey picture (as the paper does).
    noise : float
        Standard deviation of the noise for the last step (0.01, the paper's benchmark).
    prior : str
        Path of another patch mixture; empty: the packaged one.
    """

    edges: float = 0.02
    first: float = 1.0
    second: float = 0.5
    smoothness: float = 2e-3
    start_smoothness: float = 0.01
    pull: float = 0.1
    robust: float = 0.1
    ridge: float = 0.3
    iterations: int = 7
    solver_iterations: int = 15
    threshold: float = 0.1
    colour: bool = False
    noise: float = 0.01
    prior: str = ""

    def __post_init__(self) -> None:
        if not (
            0 < self.edges <= 1
            and min(self.first, self.second, self.smoothness, self.start_smoothness) > 0
            and min(self.robust, self.noise) > 0
            and min(self.pull, self.ridge) >= 0
            and min(self.iterations, self.solver_iterations) >= 1
            and 0 <= self.threshold < 1
        ):
            raise InputError(
                f"Settings out of range: {self}.", "Weights are positive, counts at least 1, parts in (0, 1]."
            )


# Prior ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def primitives() -> Tensor:
    """Synthetic edges, bars and corners: (J, 25) float64, zero mean, unit standard deviation."""
    over = 9
    fine = (torch.arange(PATCH * over, dtype=torch.float64) + 0.5) / over - PATCH / 2
    rows, columns = fine[:, None], fine[None, :]

    def render(inside: Tensor) -> Tensor:
        patch = functional.avg_pool2d(inside.to(torch.float64)[None, None], over)[0, 0].flatten()
        patch = patch - patch.mean()
        return patch / patch.std(correction=0).clamp_min(1e-9)

    found: list[Tensor] = []
    for turn in range(16):
        angle = turn * math.pi / 8
        across = math.cos(angle) * columns + math.sin(angle) * rows
        along = -math.sin(angle) * columns + math.cos(angle) * rows
        for offset in (-1.0, -0.5, 0.0, 0.5, 1.0):
            found.append(render(across > offset))
        for offset in (-0.5, 0.0, 0.5):
            found.append(render((across > offset) & (along > offset)))
            found.append(-found[-1])
        if turn < 8:
            for width in (1.0, 2.0):
                for offset in (-0.5, 0.0, 0.5):
                    found.append(render((across - offset).abs() < width / 2))
                    found.append(-found[-1])
    return torch.stack(found)


def edge_positions(x: Tensor, count: int, margin: int) -> Tensor:
    """The ``count`` pixels with the strongest oriented responses: (N, count, 2) rows and columns.

    Parameters
    ----------
    x : Tensor
        (N, H, W).
    count : int
    margin : int
        Pixels next to the border that are left out, at least 2.
    """
    energy = oriented_responses(pad_edge(x, 5)).square().sum(1)
    inside = energy[:, margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]
    flat = inside.flatten(1).topk(count, dim=1).indices
    width = inside.shape[-1]
    return torch.stack((flat // width, flat % width), -1) + margin


def _patch_index(positions: Tensor, width: int) -> Tensor:
    """Flat pixel indices (N, n x 25) of the patches around ``positions``."""
    offset = torch.arange(-(PATCH // 2), PATCH // 2 + 1, device=positions.device)
    rows = positions[..., 0, None, None] + offset[:, None]
    columns = positions[..., 1, None, None] + offset
    return (rows * width + columns).flatten(1)


def nearest_primitives(patches: Tensor) -> Tensor:
    """q_i for patches (N, n, 25): the nearest primitive at the patch's mean, contrast by rank."""
    dictionary = primitives().to(patches)
    mean = patches.mean(-1, keepdim=True)
    spread = patches.std(-1, correction=0)
    chosen = ((patches - mean) @ dictionary.T).argmax(-1)
    # The rank among the picture's own edges, mapped onto the contrast of sharp ones; never less.
    order = spread.argsort(-1).argsort(-1).to(patches)
    place = (order / max(spread.shape[-1] - 1, 1)) * (len(_CONTRAST) - 1)
    table = patches.new_tensor(_CONTRAST)
    low = place.floor().clamp_max(len(_CONTRAST) - 2).to(torch.int64)
    mapped = torch.lerp(table[low], table[low + 1], place - low)
    return torch.maximum(mapped, spread)[..., None] * dictionary[chosen] + mean


# Derivatives ----------------------------------------------------------------------------------


def _diff_adjoint(t: Tensor, dim: int) -> Tensor:
    pad = (1, 1) if dim == -1 else (0, 0, 1, 1)
    return -functional.pad(t, pad).diff(dim=dim)


def _weigh(e: Tensor, first: float, second: float) -> Tensor:
    """sum_D w_D D^T D e."""
    across, down = e.diff(dim=-1), e.diff(dim=-2)
    double, twice, mixed = across.diff(dim=-1), down.diff(dim=-2), across.diff(dim=-2)
    across = first * across + second * (_diff_adjoint(double, -1) + _diff_adjoint(mixed, -2))
    down = first * down + second * _diff_adjoint(twice, -2)
    return _diff_adjoint(across, -1) + _diff_adjoint(down, -2)


# Method ---------------------------------------------------------------------------------------


class _Level:
    """Alternation at one level: y (N, H, W), x (N, H + K - 1, W + K - 1), k (N, K, K)."""

    def __init__(self, y: Tensor, size: int, settings: SunSettings) -> None:
        self.y, self.size, self.settings = y, size, settings
        height, width = y.shape[-2:]
        self.shape = (height + size - 1, width + size - 1)
        self.margin = max(size // 2, PATCH // 2)
        usable = (self.shape[0] - 2 * self.margin) * (self.shape[1] - 2 * self.margin)
        # A tiny picture has too few pixels for a part of them to fix a kernel.
        self.count = min(max(round(settings.edges * height * width), 4 * size), max(usable, 1))

    def image_step(self, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and the mask of the patches that the prior acted on.

        x is solved from y anew each time, first without the prior: edges taken from the x of an
        earlier kernel would hold the kernel where it was.
        """
        s = self.settings
        operator = ValidConvolution(kernels, self.shape)
        data = operator.adjoint(_weigh(self.y, s.first, s.second))
        first = pad_edge(self.y, self.size // 2)

        def solve(x: Tensor, smoothness: float, diagonal: Tensor, pulled: Tensor) -> Tensor:
            def apply(v: Tensor) -> Tensor:
                image = operator.adjoint(_weigh(operator.forward(v), s.first, s.second))
                return image + smoothness * _weigh(v, 1.0, 0.0) + diagonal * v

            return conjugate_gradients(apply, data + pulled, x, s.solver_iterations)

        # The derivatives leave the brightness open: a faint pull to y fixes it.
        faint = torch.full_like(first, 1e-4)
        x = solve(first, s.start_smoothness, faint, faint * first)
        index = _patch_index(edge_positions(x, self.count, self.margin), self.shape[1])
        mask = torch.zeros_like(x).flatten(1).scatter_(1, index, 1.0).view_as(x)
        for _ in range(2):
            patches = x.flatten(1).gather(1, index)
            targets = nearest_primitives(patches.view(len(x), self.count, -1)).flatten(1)
            weight = s.pull / (1 + ((patches - targets) / s.robust) ** 2 / 2)
            nothing = torch.zeros_like(x).flatten(1)
            diagonal = nothing.scatter_add(1, index, weight).view_as(x)
            pulled = nothing.scatter_add(1, index, weight * targets).view_as(x)
            x = solve(x, s.smoothness, diagonal, pulled)
        return x, mask

    def kernel_step(self, x: Tensor, mask: Tensor, kernels: Tensor) -> Tensor:
        """Least squares on the derivatives of x under the mask, the others set to 0."""
        s = self.settings
        sources = [
            field * mask[..., : field.shape[-2], : field.shape[-1]]
            for field in difference_fields(x, s.first, s.second)
        ]
        targets = difference_fields(self.y, s.first, s.second)
        found = fit_kernels(sources, targets, kernels, s.ridge, s.solver_iterations)
        return clean_kernels(found, s.threshold)

    def run(self, kernels: Tensor) -> Tensor:
        for _ in range(self.settings.iterations):
            x, mask = self.image_step(kernels)
            kernels = self.kernel_step(x, mask, kernels)
        return kernels


def estimate_kernels(pictures: Tensor, kernel_size: int, settings: SunSettings | None = None) -> Tensor:
    """Estimate the kernels of grey pictures.

    Parameters
    ----------
    pictures : Tensor
        (N, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : SunSettings, optional

    Returns
    -------
    Tensor
        (N, K, K), non-negative, unit sum, not centred.
    """
    settings = settings or SunSettings()
    height, width = pictures.shape[-2:]
    kernels: Tensor | None = None
    for size, ratio in pyramid_sizes(kernel_size):
        shape = (max(round(height * ratio), PATCH), max(round(width * ratio), PATCH))
        y = pictures if ratio == 1 else resize(pictures, size=shape)
        start = (
            delta_kernels(len(y), size, y) if kernels is None else resize_kernels(kernels, math.sqrt(2), size)
        )
        kernels = _Level(y, size, settings).run(start)
    assert kernels is not None
    return kernels


def sun(rgb: Tensor, kernel_size: int, settings: SunSettings | None = None) -> tuple[Tensor, Tensor]:
    """Blind deblurring of a batch.

    Parameters
    ----------
    rgb : Tensor
        (N, 3, H, W) float64 in [0, 1].
    kernel_size : int
        K, odd.
    settings : SunSettings, optional

    Returns
    -------
    (Tensor, Tensor)
        Restored pictures (N, 3, H, W) in [0, 1] and kernels (N, K, K).
    """
    settings = settings or SunSettings()
    kernels = estimate_kernels(grey(rgb), kernel_size, settings)
    final = EpllSettings(colour=settings.colour, noise=settings.noise, prior=settings.prior)
    return restore_with_epll(rgb, kernels, final), kernels


class Sun(EndsInEpll):
    """Edge-based patch priors (Sun, Cho, Wang and Hays 2013), from the paper's description."""

    name = "sun"
    Settings = SunSettings

    def _estimate(self, pictures: Tensor, kernels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return sun(pictures, self.kernel_size, self.settings)

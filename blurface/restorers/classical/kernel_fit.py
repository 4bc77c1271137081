"""What Sun, Michaeli and Chakrabarti share: edges by oriented filters, least squares for a kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .core import (
    conjugate_gradients,
    from_frequency,
    inner,
    project_kernels,
    remove_small_components,
    to_frequency,
)


def oriented_filters() -> Tensor:
    """First and second derivatives of a Gaussian of unit sigma in eight directions, (16, 11, 11)."""
    t = torch.arange(-5, 6, dtype=torch.float64)
    gauss = torch.exp(-(t**2) / 2)
    factors = [gauss, -t * gauss, (t**2 - 1) * gauss]
    smooth, first, second = (factor / factor.norm() for factor in factors)
    filters = []
    for turn in range(8):
        c, s = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
        filters.append(c * torch.outer(smooth, first) + s * torch.outer(first, smooth))
        filters.append(
            c * c * torch.outer(smooth, second)
            + 2 * c * s * torch.outer(first, first)
            + s * s * torch.outer(second, smooth)
        )
    return torch.stack(filters)


def oriented_responses(pictures: Tensor) -> Tensor:
    """Convolution with the :func:`oriented_filters`: (N, H, W) to (N, 16, H - 10, W - 10)."""
    filters = oriented_filters().flip(1, 2)[:, None].to(pictures)
    found: Tensor = functional.conv2d(pictures[:, None], filters)
    return found


def difference_fields(x: Tensor, first: float, second: float) -> list[Tensor]:
    """Square roots of the weights times first and second differences, 'valid'.

    Parameters
    ----------
    x : Tensor
        (N, H, W).
    first, second : float
        Weights; a group of weight 0 is left out.

    Returns
    -------
    list of Tensor
        Across and down (first), across twice, down twice and mixed (second).
    """
    across, down = x.diff(dim=-1), x.diff(dim=-2)
    fields = [first**0.5 * across, first**0.5 * down] if first else []
    if second:
        fields += [second**0.5 * d for d in (across.diff(dim=-1), down.diff(dim=-2), across.diff(dim=-2))]
    return fields


def fit_kernels(
    sources: list[Tensor], targets: list[Tensor], start: Tensor, ridge: float, iterations: int
) -> Tensor:
    """min_k sum_i ||(x_i * k)_valid - y_i||^2 + ridge E ||k||^2 by conjugate gradients.

    Parameters
    ----------
    sources, targets : list of Tensor
        x_i (N, H_i + K - 1, W_i + K - 1) and y_i (N, H_i, W_i).
    start : Tensor
        (N, K, K).
    ridge : float
        Relative to E = sum_i ||x_i||^2, the mean eigenvalue of the system.
    iterations : int

    Returns
    -------
    Tensor
        (N, K, K), not projected.
    """
    size = start.shape[-1]
    shape = (max(x.shape[-2] for x in sources), max(x.shape[-1] for x in sources))
    spectra = [to_frequency(x, shape) for x in sources]
    masks = []
    for y in targets:
        mask = y.new_zeros(shape)
        mask[size - 1 : size - 1 + y.shape[-2], size - 1 : size - 1 + y.shape[-1]] = 1
        masks.append(mask)

    def correlate(fields: list[Tensor]) -> Tensor:
        products = [x.conj() * to_frequency(y) for x, y in zip(spectra, fields, strict=True)]
        return from_frequency(torch.stack(products).sum(0), shape)[..., :size, :size]

    def place(y: Tensor) -> Tensor:
        rest = (shape[0] - size + 1 - y.shape[-2], shape[1] - size + 1 - y.shape[-1])
        return functional.pad(y, (size - 1, rest[1], size - 1, rest[0]))

    energy = torch.stack([inner(x, x) for x in sources]).sum(0)

    def apply(k: Tensor) -> Tensor:
        spectrum = to_frequency(k, shape)
        images = [from_frequency(x * spectrum, shape) * mask for x, mask in zip(spectra, masks, strict=True)]
        return correlate(images) + ridge * energy * k

    return conjugate_gradients(apply, correlate([place(y) for y in targets]), start, iterations)


def clean_kernels(kernels: Tensor, threshold: float) -> Tensor:
    """Drop values below ``threshold`` of the peak, then small parts; (N, K, K), unit sum."""
    return project_kernels(remove_small_components(project_kernels(kernels, threshold)))

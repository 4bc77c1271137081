"""Losses (section 3.2, eq. 5 to 8), and those of the network with the blur model inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..networks.fast import Estimate

Embed = Callable[[Tensor], Tensor]


def l2(estimate: Tensor, sharp: Tensor) -> Tensor:
    """Mean squared difference (eq. 5)."""
    return (estimate - sharp).square().mean()


def total_variation(estimate: Tensor) -> Tensor:
    """Squared first differences (eq. 6), as a mean over pixels and channels.

    The paper writes a sum; the mean differs by the factor W H C, which alpha absorbs, and makes
    alpha independent of the size.
    """
    across = (estimate[..., :, 1:] - estimate[..., :, :-1]).square().sum((1, 2, 3))
    down = (estimate[..., 1:, :] - estimate[..., :-1, :]).square().sum((1, 2, 3))
    return ((across + down) / estimate[0].numel()).mean()


def charbonnier(estimate: Tensor, sharp: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2): L1, smooth at zero."""
    return ((estimate - sharp).square() + epsilon**2).sqrt().mean()


def facial(estimate: Tensor, target: Tensor, embed: Embed, power: float = 1.0) -> Tensor:
    """Squared distance of unit-length embeddings (eq. 7), the mean over faces.

    A face that is restored well enough is accepted whatever else it gains; a power above 1 spends the
    effort where the distance is large.

    Parameters
    ----------
    estimate : Tensor
        (N, 3, H, W) restored faces.
    target : Tensor
        (N, D) embeddings of the sharp faces, of unit length.
    embed : callable
        Differentiable embedder.
    power : float
        Exponent of each face's squared distance; 1 is the paper's.
    """
    return (functional.normalize(embed(estimate), dim=1) - target).square().sum(1).pow(power).mean()


def smooth_kernels(kernels: Tensor, sigma: float) -> Tensor:
    """Kernels (N, 1, K, K) convolved with a Gaussian of ``sigma`` pixels, unit sum."""
    if sigma <= 0:
        return kernels
    reach = max(1, round(3 * sigma))
    axis = torch.arange(-reach, reach + 1, dtype=kernels.dtype, device=kernels.device)
    line = torch.exp(-axis.square() / (2 * sigma**2))
    line = line / line.sum()
    smooth = functional.conv2d(kernels, line.view(1, 1, -1, 1), padding=(reach, 0))
    smooth = functional.conv2d(smooth, line.view(1, 1, 1, -1), padding=(0, reach))
    return smooth / smooth.sum((2, 3), keepdim=True)


def kernel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a kernel, as a distribution over offsets, with its estimate (nats)."""
    return -(target.flatten(1) * functional.log_softmax(logits.flatten(1), 1)).sum(1).mean()


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms.

    Attributes
    ----------
    pixel : {"charbonnier", "l2"}
        The pixel term, weight 1 on the result.
    intermediate : float
        Pixel term on each earlier sharp estimate.
    deconvolved : float
        Pixel term on the last Wiener image.
    kernel : float
        Cross-entropy of the last kernel; half of it on earlier ones.
    kernel_sigma : float
        Pixels by which the kernel target is smoothed.
    tv : float
        alpha of eq. 8.
    facial : float
        beta of eq. 8 at its full value; the schedule scales it.
    facial_power : float
        Exponent of the squared distance in the facial term.
    distilled : float
        Pixel term between the result and that of the teacher network, where there is one.
    """

    pixel: str = "charbonnier"
    intermediate: float = 0.3
    deconvolved: float = 0.1
    kernel: float = 0.02
    kernel_sigma: float = 0.7
    tv: float = 0.0
    facial: float = 0.0
    facial_power: float = 1.0
    distilled: float = 0.0


TERMS = ("pixel", "intermediate", "deconvolved", "kernel", "tv", "distilled", "facial")
"""Names of the terms of the loss."""


def restoration_terms(
    estimate: Estimate,
    sharp: Tensor,
    kernels: Tensor,
    weights: LossWeights,
    *,
    facial_weight: float = 0.0,
    embed: Embed | None = None,
    facial_target: Tensor | None = None,
    facial_faces: NDArray[np.int64] | None = None,
    taught: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms that are in use (eq. 8 and the network's own), weighted: the loss is their sum.

    Parameters
    ----------
    estimate : Estimate
        What the network made; a plain network has one image and no kernel.
    sharp : Tensor
        (N, 3, H, W).
    kernels : Tensor
        (N, 1, 44, 44) true kernels.
    weights : LossWeights
    facial_weight : float
        Scheduled share of ``weights.facial``.
    embed, facial_target
        See :func:`facial`.
    facial_faces : ndarray, optional
        Numbers of the faces that ``facial_target`` belongs to; by default all.
    taught : Tensor, optional
        (N, 3, H, W): what the teacher network made of the blurry faces.
    """
    pixel = charbonnier if weights.pixel == "charbonnier" else l2
    terms = {"pixel": pixel(estimate.images[-1], sharp)}
    if len(estimate.images) > 1:
        earlier = torch.stack([pixel(image, sharp) for image in estimate.images[:-1]]).sum()
        terms["intermediate"] = weights.intermediate * earlier
    if estimate.deconvolved:
        terms["deconvolved"] = weights.deconvolved * pixel(estimate.deconvolved[-1][:, :3], sharp)
    if estimate.logits:
        target = smooth_kernels(kernels, weights.kernel_sigma)
        entropy = [kernel_cross_entropy(logits, target) for logits in estimate.logits]
        terms["kernel"] = weights.kernel * (entropy[-1] + 0.5 * sum(entropy[:-1], torch.zeros(())))
    if weights.tv:
        terms["tv"] = weights.tv * total_variation(estimate.images[-1])
    if taught is not None and weights.distilled:
        terms["distilled"] = weights.distilled * pixel(estimate.images[-1], taught)
    if embed is not None and facial_target is not None and facial_weight * weights.facial > 0:
        part = estimate.images[-1] if facial_faces is None else estimate.images[-1][facial_faces]
        distance = facial(part, facial_target, embed, weights.facial_power)
        terms["facial"] = facial_weight * weights.facial * distance
    return terms

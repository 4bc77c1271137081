"""The facial loss's embedder, frozen and made cheap."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fusion

from .losses import Embed


class _Prelu(torch.autograd.Function):
    """PReLU with a frozen slope.

    PyTorch's own backward also makes the slopes' gradient, with a kernel that is not vectorised.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return functional.prelu(x, slope.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(gradient, x, 0.0)
        return torch.addcmul(gradient * slope, positive, 1 - slope), None


class _FrozenPrelu(nn.Module):
    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.detach().clone().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Prelu.apply(x, self.slope.to(x.dtype))
        return y


def _freeze(module: nn.Module) -> None:
    """Fuse every batch norm into the convolution before it; replace PReLUs."""
    previous: tuple[str, nn.Conv2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous is not None:
            setattr(module, previous[0], fusion.fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
            previous = None
        elif isinstance(child, nn.PReLU):
            setattr(module, name, _FrozenPrelu(child.weight))
        elif isinstance(child, nn.Conv2d):
            previous = (name, child)
        else:
            _freeze(child)
            previous = None


def frozen_embedder(module: nn.Module) -> Embed:
    """A frozen copy of an embedder whose backward to the image is cheap.

    Batch norms are folded into the convolutions before them and no gradient is made for weights.

    Parameters
    ----------
    module : nn.Module
        Maps (N, 3, H, W) RGB in [0, 1] to (N, D).

    Returns
    -------
    callable
        The same map.
    """
    frozen = copy.deepcopy(module).eval()
    _freeze(frozen)
    frozen = frozen.requires_grad_(False).to(memory_format=torch.channels_last)

    def embed(batch: Tensor) -> Tensor:
        out: Tensor = frozen(batch.contiguous(memory_format=torch.channels_last))
        return out

    return embed

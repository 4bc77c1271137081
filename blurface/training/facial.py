"""The facial loss's embedder, frozen and made cheap."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

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


class _Convolution(torch.autograd.Function):
    """A convolution with frozen weights whose backward is a convolution as well.

    oneDNN's own backward of strided depthwise convolutions in bfloat16 is some fifty times slower
    than its forward one, and ``conv_transpose2d``, which is the same sum, takes 13 to 17 times as
    long as the convolution below (AMX, batches of 8, 128 and 256 channels).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, turned: Tensor, bias: Tensor | None, layer: nn.Conv2d
    ) -> Tensor:
        ctx.save_for_backward(turned)
        ctx.layer, ctx.size = layer, x.shape[-2:]
        return functional.conv2d(x, weight, bias, layer.stride, layer.padding, groups=layer.groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (turned,) = ctx.saved_tensors
        layer: nn.Conv2d = ctx.layer
        # One transposed convolution: zeros between the strides, then the turned kernel at stride 1.
        before = cast("tuple[int, ...]", layer.padding)
        padding = [k - 1 - p for k, p in zip(layer.kernel_size, before)]
        sides = [n + k - 1 - 2 * p for n, k, p in zip(ctx.size, layer.kernel_size, padding)]
        if layer.stride != (1, 1):
            spread = gradient.new_zeros((*gradient.shape[:2], *sides))
            spread = spread.contiguous(memory_format=torch.channels_last)
            spread[:, :, :: layer.stride[0], :: layer.stride[1]] = gradient
            gradient = spread
        image = functional.conv2d(gradient, turned, None, 1, padding, groups=layer.groups)
        return image, None, None, None, None


class _FrozenConvolution(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.weight.detach()
        # (groups, out, in, h, w) -> (groups, in, out, h, w), turned by 180 degrees
        turned = weight.view(layer.groups, -1, *weight.shape[1:]).transpose(1, 2).flip(3, 4).flatten(0, 1)
        # What code around a convolution may ask it for.
        self.weight, self.bias = weight, None if layer.bias is None else layer.bias.detach()
        self.weights: dict[torch.dtype, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._keep(weight, turned, self.bias)

    def _keep(self, weight: Tensor, turned: Tensor, bias: Tensor | None) -> None:
        layout = torch.channels_last
        self.weights[weight.dtype] = (
            weight.contiguous(memory_format=layout), turned.contiguous(memory_format=layout), bias
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, in the type of ``x`` or that of autocast."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        if x.dtype not in self.weights:
            weight, turned, bias = next(iter(self.weights.values()))
            self._keep(weight.to(x.dtype), turned.to(x.dtype), None if bias is None else bias.to(x.dtype))
        with torch.autocast(kind, enabled=False):
            y: Tensor = _Convolution.apply(x, *self.weights[x.dtype], self.layer)
        return y


class _FrozenPrelu(nn.Module):
    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.detach().clone().view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Prelu.apply(x, self.slope.to(x.dtype))
        return y


def _freeze(module: nn.Module) -> None:
    """Replace PReLUs and convolutions."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.PReLU):
            setattr(module, name, _FrozenPrelu(child.weight))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, _frozen_convolution(child))
        else:
            _freeze(child)


def _frozen_convolution(convolution: nn.Conv2d) -> nn.Module:
    plain = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return _FrozenConvolution(convolution) if plain and convolution.dilation == (1, 1) else convolution


def frozen_embedder(module: nn.Module) -> Embed:
    """A frozen copy of an embedder whose backward to the image is cheap.

    No gradient is made for weights, and the backward of a convolution is a convolution. Under autocast
    it computes in the lower precision (with bfloat16 embeddings agree to a cosine of 0.999). Batch norms
    stay: ``verification``'s embedders have folded theirs into the convolutions before them.

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

"""Convolutions for inference on CPUs whose weights are in oneDNN's own order beforehand.

PyTorch's convolution brings its weights into that order at every call: for one small picture up to a third of
the call. What takes ordered weights is the operator that PyTorch's own compiler makes of a convolution. It is
not public, so it is tried first, and where it is missing or differs the network stays as it is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TYPICAL = (28, 24)
"""Height and width of what most convolutions here take of a 112x96 face."""


class PackedConvolution(nn.Module):
    """A convolution with its weights made ready for one type; no gradient.

    Parameters
    ----------
    layer : nn.Conv2d
        Kept, so that copies and pickles can pack their own.
    dtype : torch.dtype
        Of the arithmetic and of the result; float32 or bfloat16.
    slope : float, optional
        Rectify the result, in the same operator, and keep so much of what is negative: 0 for a ReLU.
    padding : int, optional
        Zeros around the picture instead of the layer's own.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        dtype: torch.dtype,
        slope: float | None = None,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.layer, self.dtype = layer, dtype
        self.padding = list(layer.padding) if padding is None else [padding, padding]
        self.after: tuple[str, list[float]] = ("none", []) if slope is None else ("leaky_relu", [slope])
        if slope == 0:
            self.after = "relu", []
        self._pack()

    @torch.no_grad()
    def _pack(self) -> None:
        layer = self.layer
        self._geometry = (self.padding, list(layer.stride), list(layer.dilation), layer.groups)
        weight = layer.weight.detach().to(self.dtype)
        self._bias = None if layer.bias is None else layer.bias.detach().to(self.dtype)
        # An order is chosen for a size and serves others; without one it can be twenty times slower.
        size = (1, layer.in_channels, *TYPICAL)
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self._weight = reorder(weight.to_mkldnn(), *self._geometry, size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) of any type and order in memory to (N, outputs, H', W'), channels last."""
        x = x.to(self.dtype, memory_format=torch.channels_last)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._geometry, *self.after, ""
        )
        return y

    def __getstate__(self) -> dict[str, Any]:
        # Ordered weights can be neither copied nor pickled.
        return {k: v for k, v in self.__dict__.items() if k not in ("_weight", "_bias")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pack()


def _packable(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.weight.device.type == "cpu"
        and layer.padding_mode == "zeros"
        and isinstance(layer.padding, tuple)
    )


@lru_cache
def packing_serves(dtype: torch.dtype) -> bool:
    """Whether PyTorch takes ordered weights in ``dtype`` on this CPU, and computes the same with them."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        layer = nn.Conv2d(16, 24, 3, padding=1, dtype=torch.float32)
        layer.weight.copy_(torch.randn(24, 16, 3, 3, generator=generator, dtype=torch.float32) / 12)
        x = torch.randn(2, 16, 9, 7, generator=generator, dtype=torch.float32)
        try:
            results = [PackedConvolution(layer, dtype, slope)(x).float() for slope in (0, 0.25)]
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):
            return False
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        expected = layer(x)
        return all(
            torch.allclose(result, functional.leaky_relu(expected, slope), atol=tolerance, rtol=tolerance)
            for result, slope in zip(results, (0, 0.25), strict=True)
        )


def packed(
    layer: nn.Module, dtype: torch.dtype, slope: float | None = None, padding: int | None = None
) -> nn.Module:
    """A :class:`PackedConvolution` of the layer where it can be packed and that serves, else the layer."""
    if _packable(layer) and packing_serves(dtype):
        return PackedConvolution(layer, dtype, slope, padding)  # type: ignore[arg-type]
    return layer


def pack_convolutions(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every convolution in ``module``, where that serves."""
    for name, child in list(module.named_children()):
        if isinstance(child, PackedConvolution):
            continue
        ready = packed(child, dtype)
        if ready is child:
            pack_convolutions(child, dtype)
        else:
            setattr(module, name, ready)

"""The paper's network (section 3.3, figure 3; the ablation of table 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .packed import PackedConvolution, packed
from .tiled import TILES, TiledFilter, tiled_convolution


class SameConv(nn.Conv2d):
    """Convolution whose output has the input's size, even for even kernels (one more pixel before)."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, size)
        before = size // 2
        self.pads = (before, size - 1 - before, before, size - 1 - before)
        self.tiled: TiledFilter | None = None

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Transform the kernels for inference, where that pays, in the type in which it will run."""
        if self.weight.shape[-1] in TILES and self.bias is not None:
            self.tiled = TiledFilter(self.weight, self.bias, TILES[self.weight.shape[-1]], dtype)

    def train(self, mode: bool = True) -> SameConv:
        """Training changes the weights, so it drops what :meth:`prepare` made of them."""
        if mode:
            self.tiled = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        dtype = _type_of_tiles(x)
        if self.tiled is not None and not torch.is_grad_enabled() and dtype == self.tiled.dtype:
            return self.tiled(x, self.pads[0])
        if self.training and dtype is not None and self.bias is not None and _tiles_train_faster(self.weight):
            tile = TILES[self.kernel_size[0]]
            return tiled_convolution(x.to(dtype), self.weight, self.bias, tile, self.pads[0])
        return super().forward(functional.pad(x, self.pads))


def _type_of_tiles(x: Tensor) -> torch.dtype | None:
    """The type in which a convolution of ``x`` is computed, autocast or not; None where tiles do not serve.

    They serve on a CPU, in float32 and bfloat16, where no graph is recorded and the picture is not tiny.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    serve = (
        x.device.type == "cpu"
        and x.dtype != torch.float64
        and dtype in (torch.float32, torch.bfloat16)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and min(x.shape[-2:]) >= 32
    )
    return dtype if serve else None


def _tiles_train_faster(weight: Tensor) -> bool:
    """Measured forward and backward at 112 x 96; 7x7 with few channels are faster directly."""
    outputs, inputs, size, _ = weight.shape
    return size in TILES and (size > 7 or min(outputs, inputs) >= 16)


class Inception(nn.Module):
    """Residual Inception module: parallel convolutions of several sizes, concatenated, reduced, added.

    Parameters
    ----------
    channels : int
        Of input and output.
    sizes : sequence of int
        Kernel sizes (paper: 1, 3, 5, 7, 14).
    reduction : bool
        A 1x1 convolution to half the channels before each convolution larger than 1x1; without
        it the large ones go from ``channels`` to half of them directly (table 5).
    slope : float
        Of the leaky ReLU.
    """

    def __init__(
        self,
        channels: int = 64,
        sizes: Sequence[int] = (1, 3, 5, 7, 14),
        reduction: bool = True,
        slope: float = 0.01,
    ) -> None:
        super().__init__()
        half = channels // 2
        self.slope = slope
        self.reduce = nn.ModuleList(
            nn.Conv2d(channels, half, 1) if reduction and size > 1 else nn.Identity() for size in sizes
        )
        self.branches = nn.ModuleList(
            SameConv(half if reduction and size > 1 else channels, half, size) for size in sizes
        )
        self.merge: nn.Module = nn.Conv2d(half * len(sizes), channels, 1)

    def prepare(self, dtype: torch.dtype) -> None:
        """Make inference on CPUs in this type faster: large kernels in tiles, the others packed."""
        for index, branch in enumerate(self.branches):
            assert isinstance(branch, SameConv)
            branch.prepare(dtype)
            size = branch.kernel_size[0]
            if branch.tiled is None and size % 2:
                self.branches[index] = packed(branch, dtype, self.slope, padding=size // 2)
            self.reduce[index] = packed(self.reduce[index], dtype, self.slope)
        self.merge = packed(self.merge, dtype, self.slope)

    def responses(self, x: Tensor) -> list[Tensor]:
        """Output of each branch (figure 4)."""
        outputs = []
        for reduce, branch in zip(self.reduce, self.branches):
            y = x if isinstance(reduce, nn.Identity) else _rectified(reduce, x, self.slope)
            outputs.append(_rectified(branch, y, self.slope))
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + _rectified(self.merge, torch.cat(self.responses(x), 1), self.slope)


def _rectified(layer: nn.Module, x: Tensor, slope: float) -> Tensor:
    """The layer's result after a leaky ReLU, which a packed layer has applied."""
    y: Tensor = layer(x)
    if isinstance(layer, PackedConvolution):
        return y
    return functional.leaky_relu(y, slope, inplace=not torch.is_grad_enabled())


class DeepDeblurNet(nn.Module):
    """3x3 convolution to 64 channels, six Inception modules, 1x1 convolution to RGB.

    Parameters
    ----------
    channels : int
        64 in the paper: 1.84 M parameters, 39.5 GFLOP at 112x96.
    modules : int
        Six in the paper.
    sizes : sequence of int
    reduction : bool
        See :class:`Inception`.
    slope : float
    global_residual : bool
        Add the blurry input to the output (not in the paper: there the network makes the image).
    near_identity : bool
        Start from weights that nearly copy the input, so that a short training does not spend itself
        on learning to copy; the architecture stays the paper's.
    """

    def __init__(
        self,
        channels: int = 64,
        modules: int = 6,
        sizes: Sequence[int] = (1, 3, 5, 7, 14),
        reduction: bool = True,
        slope: float = 0.01,
        global_residual: bool = False,
        near_identity: bool = False,
    ) -> None:
        super().__init__()
        self.slope, self.global_residual = slope, global_residual
        self.entry: nn.Module = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(Inception(channels, sizes, reduction, slope) for _ in range(modules))
        self.head: nn.Module = nn.Conv2d(channels, 3, 1)
        if global_residual:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        elif near_identity:
            self._copy_the_input()

    @torch.no_grad()
    def _copy_the_input(self) -> None:
        # R, G and B, which are positive, pass through three channels of their own.
        assert isinstance(self.entry, nn.Conv2d)
        assert isinstance(self.head, nn.Conv2d)
        rgb = torch.eye(3)
        self.entry.weight[:3] = 0
        self.entry.weight[:3, :, 1, 1] = rgb
        self.head.weight.mul_(0.01)
        self.head.weight[:, :3, 0, 0] = rgb
        for bias in (self.entry.bias, self.head.bias):
            nn.init.zeros_(bias)  # type: ignore[arg-type]
        for module in self.body:
            # Not zero: a leaky ReLU passes a hundredth of the gradient there.
            module.merge.weight.mul_(0.01)  # type: ignore[union-attr, operator]
            nn.init.zeros_(module.merge.bias)  # type: ignore[union-attr, arg-type]

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Make inference on CPUs in this type faster; called once when the weights are final.

        Where convolutions were packed there are no gradients afterwards, and the state dictionary is another.
        """
        for module in self.body:
            module.prepare(dtype)  # type: ignore[operator]
        self.entry = packed(self.entry, dtype, self.slope)
        self.head = packed(self.head, dtype)

    def features(self, x: Tensor) -> Tensor:
        """What the first Inception module sees (N, channels, H, W)."""
        return _rectified(self.entry, x, self.slope)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] to the same."""
        y = self.features(x)
        for module in self.body:
            y = module(y)
        restored: Tensor = self.head(y)
        return x + restored if self.global_residual else restored

"""Convolutions with large kernels by tiles in the Fourier domain, on CPUs.

The picture is cut into overlapping T x T tiles; those and the kernels are transformed, multiplied
frequency by frequency (a small matrix product over channels), and transformed back: "overlap-save".
The transforms are products with cosine and sine tables, since at these sizes matrix products run at
the CPU's full rate and leave the data in the order that the next product wants, which FFTs do not.
In bfloat16 the products round the spectra; a Fourier transform spreads that error and does not magnify
it, so the result is about as near to the exact one as a direct sum's in bfloat16 is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

TILES = {7: 20, 14: 32}
"""Best tile for a kernel size, measured at 112 x 96; smaller kernels run faster directly."""


class _Tables(NamedTuple):
    across: Tensor  # (2F, T): real pixels to (frequency, re/im)
    down: Tensor  # (2T, 2T): (re/im, pixel) to (frequency, re/im)
    up: Tensor  # (2, 2S, T): real and imaginary part, frequency to (re/im, pixel)
    back: Tensor  # (S, 2F): (frequency, re/im) to real pixels


@lru_cache
def _tables(tile: int, step: int, dtype: torch.dtype) -> _Tables:
    half = torch.arange(tile // 2 + 1, dtype=torch.float64)
    full = torch.arange(tile, dtype=torch.float64)
    turn = 2 * math.pi / tile
    angle = turn * torch.outer(half, full)
    across = torch.stack([angle.cos(), -angle.sin()], 1).reshape(-1, tile)
    angle = turn * torch.outer(full, full)
    cos, sin = angle.cos(), angle.sin()
    down = torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1).reshape(2 * tile, -1)
    cos, sin = cos[:, :step].T / tile, sin[:, :step].T / tile
    up = torch.stack([torch.cat([cos, sin]), torch.cat([-sin, cos])])
    # The half spectrum stands for both halves: all columns but the first and the last count twice.
    twice = torch.where((half == 0) | (half == tile // 2), 1.0, 2.0)
    angle = turn * torch.outer(full[:step], half)
    back = torch.stack([angle.cos() * twice, -angle.sin() * twice], 2).reshape(step, -1) / tile
    return _Tables(*(table.to(dtype).contiguous() for table in (across, down, up, back)))


class TiledFilter:
    """The kernels of one convolution, transformed once.

    Parameters
    ----------
    weight : Tensor
        (outputs, inputs, K, K).
    bias : Tensor
        (outputs,).
    tile : int
        Even, larger than K.
    dtype : torch.dtype
        Of the products: float32 or bfloat16.

    Notes
    -----
    Computes what ``conv2d(pad(x), weight, bias)`` does; in float32 with less rounding than a direct sum, in
    bfloat16 with 5 dB more (46 dB below the result, for 32 channels).
    """

    def __init__(self, weight: Tensor, bias: Tensor, tile: int, dtype: torch.dtype = torch.float32) -> None:
        self.size, self.tile = weight.shape[-1], tile
        self.step = tile - self.size + 1
        # conj: neural networks correlate. In float64, since the tables are.
        spectrum = torch.fft.rfft2(weight.detach().double(), s=(tile, tile)).conj().permute(3, 2, 1, 0)
        spectrum = spectrum.reshape(-1, weight.shape[1], weight.shape[0])
        self.real, self.imag = spectrum.real.to(dtype).contiguous(), spectrum.imag.to(dtype).contiguous()
        self.bias = bias.detach().to(dtype, copy=True)
        self.dtype = dtype

    def __call__(self, x: Tensor, before: int) -> Tensor:
        """Correlate.

        Parameters
        ----------
        x : Tensor
            (N, inputs, H, W), best in channels-last order.
        before : int
            Zeros before the first row and column; as many after as make the output (H, W).

        Returns
        -------
        Tensor
            (N, outputs, H, W) of the filter's type, in channels-last order but not in one piece.
        """
        height, width = x.shape[-2:]
        rows, columns = -(-height // self.step), -(-width // self.step)
        y = x.to(self.dtype).permute(0, 2, 3, 1)
        # whole tiles, of which the picture is cut
        result = y.new_empty(x.shape[0], rows * self.step, columns * self.step, self.bias.shape[0])
        for picture, place in zip(y, result, strict=True):  # one at a time stays in the cache
            self._one(picture, before, place.view(rows, self.step, columns, self.step, -1))
        return result[:, :height, :width].permute(0, 3, 1, 2)

    def _one(self, y: Tensor, before: int, result: Tensor) -> None:
        tile, step = self.tile, self.step
        rows, columns = result.shape[0], result.shape[2]
        tables = _tables(tile, step, self.dtype)
        half = tile // 2 + 1
        spectrum = _spectrum(y, tile, step, before, self.size - 1 - before)
        real, imag = spectrum[:, 0], spectrum[:, 1]
        # Two products whose sum is the inverse transform's: no copy joins the parts.
        re = torch.bmm(real, self.real).baddbmm_(imag, self.imag, alpha=-1)
        im = torch.bmm(real, self.imag).baddbmm_(imag, self.real)
        of_re, of_im = (table.expand(half, -1, -1) for table in tables.up)
        lines = torch.bmm(of_re, re.view(half, tile, -1)).baddbmm_(of_im, im.view(half, tile, -1))
        image = (tables.back @ lines.view(2 * half, -1)).view(step, step, rows, columns, -1)
        torch.add(image.permute(2, 1, 3, 0, 4), self.bias, out=result)


def _spectrum(y: Tensor, tile: int, step: int, before: int, after: int) -> Tensor:
    """Spectra of the tiles of a picture.

    Parameters
    ----------
    y : Tensor
        (H, W, C).
    tile, step : int
        Tiles begin every ``step`` pixels; as many as cover (H, W) by their steps.
    before, after : int
        Zeros before the first row and column, and at least as many after the last.
        ``before + after`` is ``tile - step`` where tiles overlap, and 0 where each is a step and zeros.

    Returns
    -------
    Tensor
        (F, 2, tiles, C): all frequencies of half a spectrum, real and imaginary part.
    """
    height, width, channels = y.shape
    rows, columns = -(-height // step), -(-width // step)
    seen = step + before + after
    pads = (0, 0, before, columns * step - width + after, before, rows * step - height + after)
    tables = _tables(tile, step, y.dtype)
    half, tiles = tile // 2 + 1, rows * columns
    # (row, column, channel, y, x) to (x, y, tile, channel): from here on all is contiguous
    cut = functional.pad(y, pads).unfold(0, seen, step).unfold(1, seen, step).permute(4, 3, 0, 1, 2)
    across, down = tables.across[:, :seen], tables.down
    if seen < tile:  # what is not seen is zero
        down = down.view(-1, 2, tile)[:, :, :seen].reshape(-1, 2 * seen)
    spectrum = (across @ cut.reshape(seen, -1)).view(half, 2 * seen, tiles * channels)
    return torch.matmul(down, spectrum).view(half * tile, 2, tiles, channels)


class _TiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tile: int, before: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tile, ctx.before = tile, before
        return TiledFilter(weight, bias, tile, x.dtype)(x, before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip((2, 3)).transpose(0, 1)
            zero = gradient.new_zeros(weight.shape[1])
            by_x = TiledFilter(turned, zero, ctx.tile, x.dtype)(gradient, weight.shape[-1] - 1 - ctx.before)
        if ctx.needs_input_grad[1]:
            by_weight = _weight_gradient(x, gradient, weight.shape[-1], ctx.tile, ctx.before)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3), dtype=torch.float32)
        return by_x, by_weight, by_bias, None, None


def _weight_gradient(x: Tensor, gradient: Tensor, size: int, tile: int, before: int) -> Tensor:
    """Sum over pictures and pixels of ``gradient`` times the K x K window of ``x`` there.

    (outputs, inputs, K, K) float32.
    """
    step, half = tile - size + 1, tile // 2 + 1
    real = torch.zeros(half * tile, x.shape[1], gradient.shape[1])
    imag = torch.zeros_like(real)
    for picture, slope in zip(x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)):
        # Transformed a second time: kept from the forward pass they would take two to four times x's memory.
        windows = _spectrum(picture, tile, step, before, size - 1 - before).transpose(2, 3)
        values = _spectrum(slope, tile, step, 0, 0)
        # windows times the conjugate of values; summed over the pictures in float32
        real += torch.bmm(windows[:, 0], values[:, 0]).baddbmm_(windows[:, 1], values[:, 1])
        imag += torch.bmm(windows[:, 1], values[:, 0]).baddbmm_(windows[:, 0], values[:, 1], alpha=-1)
    spectrum = torch.complex(real, imag).view(half, tile, x.shape[1], gradient.shape[1])
    correlation: Tensor = torch.fft.irfft2(spectrum.permute(3, 2, 1, 0), s=(tile, tile))
    return correlation[..., :size, :size]


def tiled_convolution(x: Tensor, weight: Tensor, bias: Tensor, tile: int, before: int) -> Tensor:
    """Correlation by tiles with all gradients, each of them by tiles as well.

    oneDNN has no fast weight gradient for kernels of 14x14: in float32 it takes several to hundreds of
    times as long as the forward pass, depending on the batch (``benchmarks/train_step.py``); in bfloat16
    the direct sums take twice as long as the tiles.

    Parameters
    ----------
    x : Tensor
        (N, inputs, H, W) float32 or bfloat16, in which the products are made.
    weight : Tensor
        (outputs, inputs, K, K).
    bias : Tensor
        (outputs,).
    tile, before : int
        As for :class:`TiledFilter`.

    Returns
    -------
    Tensor
        (N, outputs, H, W) of the type of ``x``.
    """
    result: Tensor = _TiledConvolution.apply(x, weight, bias, tile, before)
    return result

"""Two-dimensional real Fourier transforms in two equal forms.

One network body serves both: the FFT with complex tensors (fast, for PyTorch), and matrix products with
cosine and sine tables built from the sizes inside the graph, with pairs of real tensors (for ONNX and
OpenVINO, whose runtimes have no complex ones).

The products down the columns need half of the terms: at the frequencies k and -k a cosine is the same and
a sine changes its sign. So the second form has its rows in an order of its own (:func:`row_frequencies`),
on which nothing that a spectrum is used for depends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


class Spectrum(ABC):
    """Half spectrum (..., H, W // 2 + 1) of a real image (..., H, W)."""

    real: Tensor
    imag: Tensor

    @abstractmethod
    def times(self, other: Self) -> Self:
        """Product."""

    @abstractmethod
    def conj_times(self, other: Self) -> Self:
        """Product of the complex conjugate of this with ``other``."""

    @abstractmethod
    def scaled(self, factor: Tensor) -> Self:
        """Product with real numbers."""

    @abstractmethod
    def conj_scaled(self, factor: Tensor) -> Self:
        """Product of the complex conjugate of this with real numbers."""

    @abstractmethod
    def over_channels(self) -> Self:
        """Sum over the channels, which stay as one."""

    @abstractmethod
    def split(self, sizes: tuple[int, int]) -> tuple[Self, Self]:
        """The first channels and the rest."""

    @abstractmethod
    def chosen(self, rows: Tensor) -> Self:
        """Some of the images of a batch."""

    @abstractmethod
    def joined(self, *others: Self) -> Self:
        """This spectrum's channels, then those of others."""

    def power(self) -> Tensor:
        """Squared magnitude."""
        return self.real.square() + self.imag.square()


@dataclass(frozen=True)
class Pair(Spectrum):
    """A spectrum as two real tensors."""

    real: Tensor
    imag: Tensor

    def times(self, other: Self) -> Self:  # noqa: D102
        return type(self)(
            self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real
        )

    def conj_times(self, other: Self) -> Self:  # noqa: D102
        return type(self)(
            self.real * other.real + self.imag * other.imag, self.real * other.imag - self.imag * other.real
        )

    def scaled(self, factor: Tensor) -> Self:  # noqa: D102
        return type(self)(self.real * factor, self.imag * factor)

    def conj_scaled(self, factor: Tensor) -> Self:  # noqa: D102
        return type(self)(self.real * factor, -self.imag * factor)

    def over_channels(self) -> Self:  # noqa: D102
        return type(self)(self.real.sum(1, keepdim=True), self.imag.sum(1, keepdim=True))

    def split(self, sizes: tuple[int, int]) -> tuple[Self, Self]:  # noqa: D102
        real, imag = self.real.split_with_sizes(sizes, 1), self.imag.split_with_sizes(sizes, 1)
        return type(self)(real[0], imag[0]), type(self)(real[1], imag[1])

    def chosen(self, rows: Tensor) -> Self:  # noqa: D102
        return type(self)(self.real[rows], self.imag[rows])

    def joined(self, *others: Self) -> Self:  # noqa: D102
        return type(self)(
            torch.cat([self.real, *(o.real for o in others)], 1),
            torch.cat([self.imag, *(o.imag for o in others)], 1),
        )


@dataclass(frozen=True)
class Complex(Spectrum):
    """A spectrum as one complex tensor."""

    value: Tensor

    @property
    def real(self) -> Tensor:  # type: ignore[override]
        """Real part, a view."""
        return self.value.real

    @property
    def imag(self) -> Tensor:  # type: ignore[override]
        """Imaginary part, a view."""
        return self.value.imag

    def times(self, other: Self) -> Self:  # noqa: D102
        return type(self)(self.value * other.value)

    def conj_times(self, other: Self) -> Self:  # noqa: D102
        return type(self)(self.value.conj() * other.value)

    def scaled(self, factor: Tensor) -> Self:  # noqa: D102
        return type(self)(self.value * factor)

    def conj_scaled(self, factor: Tensor) -> Self:  # noqa: D102
        return type(self)(self.value.conj() * factor)

    def over_channels(self) -> Self:  # noqa: D102
        return type(self)(self.value.sum(1, keepdim=True))

    def split(self, sizes: tuple[int, int]) -> tuple[Self, Self]:  # noqa: D102
        first, rest = self.value.split_with_sizes(sizes, 1)
        return type(self)(first), type(self)(rest)

    def chosen(self, rows: Tensor) -> Self:  # noqa: D102
        return type(self)(self.value[rows])

    def joined(self, *others: Self) -> Self:  # noqa: D102
        return type(self)(torch.cat([self.value, *(o.value for o in others)], 1))


def _table(rows: Tensor, columns: Tensor, period: int | Tensor) -> tuple[Tensor, Tensor]:
    # The product is reduced modulo the period while it is a whole number: float32 angles stay exact.
    angle = (rows[:, None] * columns[None, :]) % period
    turned = angle.to(torch.float32) * (2 * torch.pi / period)
    return turned.cos(), turned.sin()


def row_frequencies(height: int, device: torch.device, *, matrix: bool) -> Tensor:
    """Of the rows: 0 .. H - 1; as matrices 0 .. H / 2, then H - 1 and down, the opposites of 1 on."""
    rows = torch.arange(height, device=device)
    if not matrix:
        return rows
    half = height // 2
    return torch.cat([rows[: half + 1], height - rows[1:half]])


def forward_transform(image: Tensor, size: tuple[int, int], *, matrix: bool) -> Spectrum:
    """Transform of an image, padded with zeros after its last row and column to ``size`` (H and W even)."""
    if not matrix:
        return Complex(torch.fft.rfft2(image, s=size))
    height, width = size
    device = image.device
    across = _table(
        torch.arange(image.shape[-1], device=device), torch.arange(width // 2 + 1, device=device), width
    )
    half = torch.arange(height // 2 + 1, device=device)
    down = _table(half, torch.arange(image.shape[-2], device=device), height)
    # Few large products: OpenVINO takes them faster than many small ones.
    products = torch.cat(down) @ (image @ torch.cat(across, 1))
    cosine, sine = products.chunk(2, -2)
    # exp(-i t) = cos t - i sin t, in both directions
    (cc, cs), (sc, ss) = cosine.chunk(2, -1), sine.chunk(2, -1)
    inner = slice(1, height // 2)
    return Pair(
        torch.cat([cc - ss, (cc + ss)[..., inner, :]], -2),
        torch.cat([-(cs + sc), (sc - cs)[..., inner, :]], -2),
    )


def inverse_transform(spectrum: Spectrum, size: tuple[int, int], cut: tuple[int, int]) -> Tensor:
    """First ``cut`` rows and columns of the real image of ``size`` (H and W even) with this half spectrum."""
    height, width = size
    if isinstance(spectrum, Complex):
        # The rows that are cut away need no second transform.
        rows = torch.fft.ifft(spectrum.value, dim=-2)[..., : cut[0], :]
        image: Tensor = torch.fft.irfft(rows, width)
        return image[..., : cut[1]]
    device = spectrum.real.device
    half = height // 2
    down_c, down_s = _table(
        torch.arange(cut[0], device=device), torch.arange(half + 1, device=device), height
    )
    frequency = torch.arange(width // 2 + 1, device=device)
    across_c, across_s = _table(frequency, torch.arange(cut[1], device=device), width)
    # The half spectrum stands for both halves: all columns but the first and the last count twice.
    twice = torch.where((frequency == 0) | (frequency == width // 2), 1.0, 2.0)[:, None]
    across = torch.cat([twice * across_c, -twice * across_s]) / (height * width)
    both = torch.cat([spectrum.real, spectrum.imag], -1)
    inner, opposite = both[..., 1:half, :], both[..., half + 1 :, :]
    even = torch.cat([both[..., :1, :], inner + opposite, both[..., half : half + 1, :]], -2)
    cr, ci = (down_c @ even).chunk(2, -1)
    sr, si = (down_s[:, 1:half] @ (inner - opposite)).chunk(2, -1)
    return torch.cat([cr - si, ci + sr], -1) @ across


def shift_spectrum(size: tuple[int, int], shift: int, device: torch.device, *, matrix: bool) -> Spectrum:
    """Spectrum of a delta ``shift`` rows and columns *before* the origin: multiplying moves an image back."""
    height, width = size
    rows = row_frequencies(height, device, matrix=matrix)
    columns = torch.arange(width // 2 + 1, device=device)
    turn = (rows * shift % height).to(torch.float32)[:, None] / height
    turn = 2 * torch.pi * (turn + (columns * shift % width).to(torch.float32)[None, :] / width)
    return _formed(_phase(turn), matrix)


def phase_ramp(size: tuple[int, int], by: Tensor, *, matrix: bool) -> Spectrum:
    """Spectra (N, 1, H, W // 2 + 1) that move images back by rows and columns ``by`` (N, 2), whole or not."""
    height, width = size
    rows = row_frequencies(height, by.device, matrix=matrix)
    rows = torch.where(2 * rows > height, rows - height, rows).to(by.dtype) / height
    columns = torch.arange(width // 2 + 1, device=by.device).to(by.dtype) / width
    # A product of two lines: far fewer sines than pixels.
    down = _phase(2 * torch.pi * (by[:, :1] * rows)[:, None, :, None])
    across = _phase(2 * torch.pi * (by[:, 1:] * columns)[:, None, None])
    return _formed(down.times(across), matrix)


def _phase(turn: Tensor) -> Pair:
    """exp(i turn)."""
    return Pair(turn.cos(), turn.sin())


def _formed(pair: Pair, matrix: bool) -> Spectrum:
    return pair if matrix else Complex(torch.complex(pair.real, pair.imag))


def gradient_energy(size: tuple[int, int], device: torch.device, *, matrix: bool) -> Tensor:
    """Power of the two first differences, |D_rows|^2 + |D_columns|^2, on the half spectrum."""
    height, width = size
    frequencies = row_frequencies(height, device, matrix=matrix).to(torch.float32)
    rows = 2 - 2 * torch.cos(2 * torch.pi * frequencies / height)
    columns = torch.arange(width // 2 + 1, device=device, dtype=torch.float32)
    return rows[:, None] + (2 - 2 * torch.cos(2 * torch.pi * columns / width))[None, :]

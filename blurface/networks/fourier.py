"""Two-dimensional real Fourier transforms in two equal forms.

One network body serves both: the FFT with complex tensors (fast, for PyTorch), and matrix products with
cosine and sine tables built from the sizes inside the graph, with pairs of real tensors (for ONNX and
OpenVINO, whose runtimes have no complex ones).

The products down the columns need half of the terms: at the frequencies k and -k a cosine is the same and
a sine changes its sign. So the second form has its rows in an order of its own (:meth:`Transforms.rows`),
on which nothing that a spectrum is used for depends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

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
    def conj(self) -> Self:
        """Complex conjugate."""

    @abstractmethod
    def each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """What a linear function (a sum, a choice, another shape) makes of it: applied to what is stored."""

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

    def conj(self) -> Self:  # noqa: D102
        return type(self)(self.real, -self.imag)

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:  # noqa: D102
        return type(self)(function(self.real), function(self.imag))

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

    def conj(self) -> Self:  # noqa: D102
        return type(self)(self.value.conj().resolve_conj())

    def each(self, function: Callable[[Tensor], Tensor]) -> Self:  # noqa: D102
        return type(self)(function(self.value))

    def joined(self, *others: Self) -> Self:  # noqa: D102
        return type(self)(torch.cat([self.value, *(o.value for o in others)], 1))


class Transforms(ABC):
    """Transforms of one size, which images are padded to with zeros after their last row and column.

    Parameters
    ----------
    size : tuple of int
        H and W, both even.
    device : torch.device
    extents : mapping
        Name of each size of images that come and go, with its rows and columns.
    """

    def __init__(
        self, size: tuple[int, int], device: torch.device, extents: Mapping[str, tuple[int, int]]
    ) -> None:
        self.size, self.device, self.extents = size, device, extents

    @abstractmethod
    def forward(self, image: Tensor, extent: str) -> Spectrum:
        """Spectrum of an image of this extent."""

    @abstractmethod
    def inverse(self, spectrum: Spectrum, extent: str) -> Tensor:
        """The first rows and columns of the real image with this spectrum."""

    @abstractmethod
    def rows(self) -> Tensor:
        """Frequencies of the rows, in 0 .. H - 1."""

    @abstractmethod
    def formed(self, real: Tensor, imag: Tensor) -> Spectrum:
        """A spectrum of its parts."""

    def columns(self) -> Tensor:
        """Frequencies of the columns, 0 .. W / 2."""
        return torch.arange(self.size[1] // 2 + 1, device=self.device)


class FastTransforms(Transforms):
    """FFTs."""

    def forward(self, image: Tensor, extent: str) -> Spectrum:  # noqa: D102
        return Complex(torch.fft.rfft2(image, s=self.size))

    def inverse(self, spectrum: Spectrum, extent: str) -> Tensor:  # noqa: D102
        assert isinstance(spectrum, Complex)
        rows, columns = self.extents[extent]
        # The rows that are cut away need no second transform.
        kept = torch.fft.ifft(spectrum.value, dim=-2)[..., :rows, :]
        image: Tensor = torch.fft.irfft(kept, self.size[1])
        return image[..., :columns]

    def rows(self) -> Tensor:  # noqa: D102
        return torch.arange(self.size[0], device=self.device)

    def formed(self, real: Tensor, imag: Tensor) -> Spectrum:  # noqa: D102
        return Complex(torch.complex(real, imag))


class MatrixTransforms(Transforms):
    """Products with tables, which are made once for each extent."""

    def __init__(
        self, size: tuple[int, int], device: torch.device, extents: Mapping[str, tuple[int, int]]
    ) -> None:
        super().__init__(size, device, extents)
        height, width = size
        half, frequencies = torch.arange(height // 2 + 1, device=device), self.columns()
        # The half spectrum stands for both halves: all columns but the first and the last count twice.
        once = ((frequencies == 0) | (frequencies == width // 2)).to(torch.float32)
        twice = (2 - once) / (height * width)
        self._forward: dict[str, tuple[Tensor, Tensor]] = {}
        self._inverse: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (rows, columns) in extents.items():
            # (H / 2 + 1, rows) and (columns, W / 2 + 1)
            down_c, down_s = _table(half, torch.arange(rows, device=device), height)
            across_c, across_s = _table(torch.arange(columns, device=device), frequencies, width)
            self._forward[name] = torch.cat([down_c, down_s]), torch.cat([across_c, across_s], 1)
            down = torch.cat([down_c, down_s[1 : height // 2]])
            self._inverse[name] = down.T, torch.cat([twice * across_c, -twice * across_s], 1).T

    def forward(self, image: Tensor, extent: str) -> Spectrum:  # noqa: D102
        down, across = self._forward[extent]
        # Few large products: OpenVINO takes them faster than many small ones.
        cosine, sine = (down @ (image @ across)).chunk(2, -2)
        # exp(-i t) = cos t - i sin t, in both directions
        (cc, cs), (sc, ss) = cosine.chunk(2, -1), sine.chunk(2, -1)
        inner = slice(1, self.size[0] // 2)
        return Pair(
            torch.cat([cc - ss, (cc + ss)[..., inner, :]], -2),
            torch.cat([-(cs + sc), (sc - cs)[..., inner, :]], -2),
        )

    def inverse(self, spectrum: Spectrum, extent: str) -> Tensor:  # noqa: D102
        down, across = self._inverse[extent]
        half = self.size[0] // 2
        both = torch.cat([spectrum.real, spectrum.imag], -1)
        inner, opposite = both[..., 1:half, :], both[..., half + 1 :, :]
        even = torch.cat([both[..., :1, :], inner + opposite, both[..., half : half + 1, :]], -2)
        cr, ci = (down[:, : half + 1] @ even).chunk(2, -1)
        sr, si = (down[:, half + 1 :] @ (inner - opposite)).chunk(2, -1)
        image: Tensor = torch.cat([cr - si, ci + sr], -1) @ across
        return image

    def rows(self) -> Tensor:
        """0 .. H / 2, then H - 1 and down, the opposites of 1 on."""
        height = self.size[0]
        rows = torch.arange(height, device=self.device)
        half = height // 2
        return torch.cat([rows[: half + 1], height - rows[1:half]])

    def formed(self, real: Tensor, imag: Tensor) -> Spectrum:  # noqa: D102
        return Pair(real, imag)


def _table(rows: Tensor, columns: Tensor, period: int | Tensor) -> tuple[Tensor, Tensor]:
    # The product is reduced modulo the period while it is a whole number: float32 angles stay exact.
    angle = (rows[:, None] * columns[None, :]) % period
    turned = angle.to(torch.float32) * (2 * torch.pi / period)
    return turned.cos(), turned.sin()


class PhaseTables(NamedTuple):
    """Angles on the lines of a half spectrum, those of its rows and of its columns one after the other.

    Attributes
    ----------
    turns : Tensor
        (2, H + W // 2 + 1): by which moving an image back by a row and by a column turns each.
    shift : Tensor
        (H + W // 2 + 1): the turns of a shift by so many rows and columns, exact.
    """

    turns: Tensor
    shift: Tensor


def phase_tables(transforms: Transforms, shift: int) -> PhaseTables:
    """The tables for :func:`phase_ramp`, with a shift back by ``shift`` rows and columns."""
    height, width = transforms.size
    rows, columns = transforms.rows(), transforms.columns()
    # As in the tables above, exact.
    shifts = [
        (numbers * shift % period).to(torch.float32) * (2 * torch.pi / period)
        for numbers, period in ((rows, height), (columns, width))
    ]
    down = torch.where(2 * rows > height, rows - height, rows).to(torch.float32) * (2 * torch.pi / height)
    across = columns.to(torch.float32) * (2 * torch.pi / width)
    turns = torch.stack(
        [torch.cat([down, torch.zeros_like(across)]), torch.cat([torch.zeros_like(down), across])]
    )
    return PhaseTables(turns, torch.cat(shifts))


def phase_ramp(transforms: Transforms, tables: PhaseTables, by: Tensor | None = None) -> Spectrum:
    """Spectra (N, 1, H, W // 2 + 1) that move images back by the tables' shift.

    ``by`` (N, 2): and by so many rows and columns more, whole or not; N is 1 without.
    """
    angles = tables.shift[None]
    if by is not None:
        angles = angles + (by[:, :, None] * tables.turns).sum(1)
    lines = transforms.formed(angles.cos()[:, None], angles.sin()[:, None])
    # A product of two lines: far fewer sines than pixels.
    height = transforms.size[0]
    down = lines.each(lambda line: line[..., :height, None])
    return down.times(lines.each(lambda line: line[..., None, height:]))


def gradient_energy(transforms: Transforms) -> Tensor:
    """Power of the two first differences, |D_rows|^2 + |D_columns|^2, on the half spectrum."""
    height, width = transforms.size
    down, across = (
        2 - 2 * torch.cos(2 * torch.pi * numbers.to(torch.float32) / period)
        for numbers, period in ((transforms.rows(), height), (transforms.columns(), width))
    )
    return down[:, None] + across

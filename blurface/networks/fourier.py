"""Two-dimensional real Fourier transforms in two equal forms.

Spectra are pairs of real tensors (real, imaginary), so that one network body serves both forms:
the FFT (fast, for PyTorch) and two matrix products with cosine and sine tables built from the
sizes inside the graph (for ONNX and OpenVINO, whose runtimes have no complex tensors).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spectrum(NamedTuple):
    """Half spectrum (..., H, W // 2 + 1) of a real image (..., H, W)."""

    real: Tensor
    imag: Tensor

    def times(self, other: Spectrum) -> Spectrum:
        """Product."""
        return Spectrum(
            self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real
        )

    def conj_times(self, other: Spectrum) -> Spectrum:
        """Product of the complex conjugate of this with ``other``."""
        return Spectrum(
            self.real * other.real + self.imag * other.imag, self.real * other.imag - self.imag * other.real
        )

    def power(self) -> Tensor:
        """Squared magnitude."""
        return self.real.square() + self.imag.square()


def _table(rows: Tensor, columns: Tensor, period: int | Tensor) -> tuple[Tensor, Tensor]:
    # The product is reduced modulo the period while it is a whole number: float32 angles stay exact.
    angle = (rows[:, None] * columns[None, :]) % period
    turned = angle.to(torch.float32) * (2 * torch.pi / period)
    return turned.cos(), turned.sin()


def forward_transform(image: Tensor, size: tuple[int, int], *, matrix: bool) -> Spectrum:
    """Transform of an image, padded with zeros after its last row and column to ``size`` (W even)."""
    if not matrix:
        spectrum = torch.fft.rfft2(image, s=size)
        return Spectrum(spectrum.real.contiguous(), spectrum.imag.contiguous())
    height, width = size
    device = image.device
    across_c, across_s = _table(
        torch.arange(image.shape[-1], device=device), torch.arange(width // 2 + 1, device=device), width
    )
    down_c, down_s = _table(
        torch.arange(height, device=device), torch.arange(image.shape[-2], device=device), height
    )
    cosine, sine = image @ across_c, image @ across_s
    # exp(-i t) = cos t - i sin t, in both directions
    return Spectrum(down_c @ cosine - down_s @ sine, -(down_c @ sine) - down_s @ cosine)


def inverse_transform(
    spectrum: Spectrum, size: tuple[int, int], cut: tuple[int, int], *, matrix: bool
) -> Tensor:
    """First ``cut`` rows and columns of the real image of ``size`` (W even) with this half spectrum."""
    height, width = size
    if not matrix:
        # The rows that are cut away need no second transform.
        rows = torch.fft.ifft(torch.complex(spectrum.real, spectrum.imag), dim=-2)[..., : cut[0], :]
        image: Tensor = torch.fft.irfft(rows, width)
        return image[..., : cut[1]]
    device = spectrum.real.device
    down_c, down_s = _table(torch.arange(cut[0], device=device), torch.arange(height, device=device), height)
    frequency = torch.arange(width // 2 + 1, device=device)
    across_c, across_s = _table(frequency, torch.arange(cut[1], device=device), width)
    # The half spectrum stands for both halves: all columns but the first and the last count twice.
    twice = torch.where((frequency == 0) | (frequency == width // 2), 1.0, 2.0)[:, None]
    real = down_c @ spectrum.real - down_s @ spectrum.imag
    imag = down_c @ spectrum.imag + down_s @ spectrum.real
    return (real @ (twice * across_c) - imag @ (twice * across_s)) / (height * width)


def shift_spectrum(size: tuple[int, int], shift: int, device: torch.device) -> Spectrum:
    """Spectrum of a delta ``shift`` rows and columns *before* the origin: multiplying moves an image back."""
    height, width = size
    rows = torch.arange(height, device=device)
    columns = torch.arange(width // 2 + 1, device=device)
    turn = (rows * shift % height).to(torch.float32)[:, None] / height
    turn = 2 * torch.pi * (turn + (columns * shift % width).to(torch.float32)[None, :] / width)
    return Spectrum(turn.cos(), turn.sin())


def gradient_energy(size: tuple[int, int], device: torch.device) -> Tensor:
    """Power of the two first differences, |D_rows|^2 + |D_columns|^2, on the half spectrum."""
    height, width = size
    rows = 2 - 2 * torch.cos(2 * torch.pi * torch.arange(height, device=device, dtype=torch.float32) / height)
    columns = torch.arange(width // 2 + 1, device=device, dtype=torch.float32)
    return rows[:, None] + (2 - 2 * torch.cos(2 * torch.pi * columns / width))[None, :]

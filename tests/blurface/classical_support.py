"""What the tests of the classical methods share."""

from __future__ import annotations

import torch

FACE = "Michelle_Lecky"
"""One of the four faces with reference outputs."""


def stroke(size: int = 7) -> torch.Tensor:
    """A diagonal stroke, lopsided so that it is not its own mirror image."""
    kernel = torch.zeros((1, size, size), dtype=torch.float64)
    for step in range(size - 2):
        kernel[0, step + 1, max(step - 1, 0)] = 1 + step
    return kernel / kernel.sum()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of values in [0, 1], in dB."""
    return float(-10 * torch.log10((a - b).square().mean()))

"""A restorer in one class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blurface.restorers.base import Restorer


class UnsharpMask(Restorer):
    """Unsharp mask: adds back what a box filter takes away."""

    name = "unsharp"

    def __init__(self, amount: float = 1.0, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self.amount = amount

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        smooth = torch.nn.functional.avg_pool2d(batch, 5, 1, 2, count_include_pad=False)
        return batch + self.amount * (batch - smooth), None

    def options(self) -> dict[str, Any]:
        """The amount determines the result."""
        return {"amount": self.amount}

    def gflop(self, height: int = 112, width: int = 96) -> float:
        """25 additions and 3 operations a value."""
        return 28 * 3 * height * width / 1e9

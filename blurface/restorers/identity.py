"""The control row: the blurry face as it is."""

from __future__ import annotations

from torch import Tensor

from .base import Restorer


class Identity(Restorer):
    """Return the input: what the verifier makes of the blurry face."""

    name = "none"
    batch_size = 256

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        return batch, None

    def gflop(self, height: int = 112, width: int = 96) -> float:
        """No arithmetic."""
        return 0.0

"""A network behind its gate, as a restorer: what the stage does, for the tables."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..errors import InputError
from ..gate import Gate, kernel_spread
from .base import Restorer


class Gated(Restorer):
    """Another restorer, applied only to what is blurred.

    Parameters
    ----------
    inner : str
        Name of a restorer that estimates kernels; ``gated:fast`` in listings and tables.
    low, high, early : float, optional
        Thresholds in pixels (:class:`blurface.gate.Gate`); default those calibrated for the weights.
    device : str or torch.device
    **options
        Passed to the inner restorer.

    Raises
    ------
    InputError
        If no thresholds are given and none are calibrated.
    """

    name = "gated"
    estimates_kernel: ClassVar[bool] = True

    def __init__(
        self,
        inner: str = "fast",
        low: float | None = None,
        high: float | None = None,
        early: float | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> None:
        from . import create_restorer

        self.inner = create_restorer(inner, device=device, **options)
        super().__init__(self.inner.device)
        self.batch_size = self.inner.batch_size
        gate = self.inner.calibrated_gate()
        if low is not None or high is not None or early is not None:
            if low is None or high is None:
                raise InputError("Thresholds are given, but not both low and high.", "Give both, or none.")
            gate = Gate(low, high, early)
        if gate is None:
            raise InputError(
                f"No gate is calibrated for {inner!r}.",
                "Give low= and high=, or run benchmarks/calibrate_gate.py.",
            )
        self.gate = gate

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        restored, estimate = self._inner(batch, self.gate.early)
        mixed = _blend(batch, restored, self.gate.weight(kernel_spread(estimate)))
        return mixed, estimate if return_kernel else None

    def _inner(self, batch: Tensor, sharp_below: float | None) -> tuple[Tensor, Tensor]:
        both = self.inner.restore(batch, return_kernel=True, sharp_below=sharp_below)
        return cast("tuple[Tensor, Tensor]", both)

    def mix(self, batch: Tensor, restored: Tensor, spread: Tensor) -> Tensor:
        """What the gate makes of a batch of which the inner restorer has restored every picture.

        Parameters
        ----------
        batch, restored : Tensor
            (N, 3, H, W) before and after.
        spread : Tensor
            (N,) of the kernels that the inner restorer estimated.
        """
        weight = self.gate.weight(spread)
        if self.gate.early is not None:
            first = kernel_spread(self._inner(batch, math.inf)[1])
            weight = torch.where(first <= self.gate.early, 0, weight)
        return _blend(batch, restored, weight)

    def calibrated_gate(self) -> Gate:
        """Its own."""
        return self.gate

    def options(self) -> dict[str, Any]:
        """Thresholds."""
        return dataclasses.asdict(self.gate)

    def fingerprint(self) -> dict[str, Any]:
        """Thresholds, the gate's code, and all that determines the inner restorer."""
        return {**super().fingerprint(), "inner": self.inner.fingerprint()}

    def gflop(self, height: int = 112, width: int = 96) -> float | None:
        """Of the inner restorer, for a picture that is blurred: the score costs nothing more."""
        return self.inner.gflop(height, width)

    def parameters(self) -> int | None:
        """Of the inner restorer."""
        return self.inner.parameters()


def _blend(batch: Tensor, restored: Tensor, weight: Tensor) -> Tensor:
    weight = weight.to(batch)[:, None, None, None]
    # Pictures of weight 0 are the very input, not the input to rounding.
    return torch.where(weight > 0, batch + weight * (restored - batch), batch)

"""PyTorch: the network as it was trained, on any device and in any precision."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from .base import Array


class TorchBackend:
    """Run a module eagerly.

    Parameters
    ----------
    module : torch.nn.Module
        ``module(x, return_kernel=...)`` as blurface's networks take it.
    device : str or torch.device
    kernel : bool
        Whether it estimates kernels.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, module: nn.Module, device: str | torch.device = "cpu", kernel: bool = True) -> None:
        self.module = module.eval().to(device)
        self.device = torch.device(device)
        self.kernel = kernel

    def run(self, batch: Array) -> tuple[Array, Array | None]:
        """See :class:`~blurface.backends.base.Backend`."""
        with torch.no_grad():
            x = torch.from_numpy(batch).to(self.device)
            if not self.kernel:
                return self.module(x).float().clamp(0, 1).cpu().numpy(), None
            restored, kernels = self.module(x, return_kernel=True)
            return restored.float().clamp(0, 1).cpu().numpy(), kernels.float().cpu().numpy()

"""The processes of a run, and the means that they take together."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Group:
    """The processes of a run (``torchrun`` sets the environment), or one.

    Attributes
    ----------
    device : torch.device
        Where this process computes; NCCL exchanges nothing that lies elsewhere.
    rank, size : int
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Group:
        """Join the process group that ``torchrun`` announces."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(device, torch.distributed.get_rank(), size)

    def leave(self) -> None:
        """Leave it at the end of a run; nothing can be averaged after that."""
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def average(self, network: nn.Module) -> None:
        """Average the gradients over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients])):
            gradient.copy_(part.view_as(gradient))

    def mean(self, value: float) -> float:
        """Mean of a number over the processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return float(tensor) / self.size

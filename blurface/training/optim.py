"""Muon for the convolutions, AdamW for the rest; RMSProp for the paper's recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..weights import bf16_is_fast

MOMENTUM = 0.95
"""Of Muon."""


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly, by five Newton-Schulz iterations.

    The quintic iteration with the coefficients of Jordan et al. 2024 brings singular values into about
    0.7 .. 1.2.

    Parameters
    ----------
    matrices : Tensor
        (B, m, n).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    # bfloat16 suffices, as in the original: the singular values need not come closer to 1.
    x: Tensor = matrices.to(torch.bfloat16 if bf16_is_fast(matrices.device) else torch.float32)
    turned = x.shape[1] > x.shape[2]
    if turned:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.transpose(1, 2) if turned else x).to(matrices.dtype)


class Muon(Optimizer):
    """Momentum whose update of every weight matrix is orthogonalised (Jordan et al. 2024).

    ``torch.optim.Muon`` takes matrices only; this one takes convolution weights as (out, rest)
    matrices and orthogonalises equal shapes together.

    Parameters
    ----------
    params : iterable of Tensor
        Weights of two or more dimensions.
    lr : float
        Learning rate; the update's RMS is 0.2 lr, as AdamW's would be (Liu et al. 2025).
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 2e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the weights."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                update = weight.grad.lerp(momentum, MOMENTUM)  # Nesterov
                matrix = update.reshape(update.shape[0], -1)
                shapes[matrix.shape[0], matrix.shape[1]].append((weight, matrix))
            for (rows, columns), entries in shapes.items():
                updates = orthogonalise(torch.stack([matrix for _, matrix in entries]))
                scale = 0.2 * max(rows, columns) ** 0.5
                for (weight, _), update in zip(entries, updates):
                    weight.add_(update.view_as(weight).to(weight.dtype), alpha=-group["lr"] * scale)


def make_optimisers(network: nn.Module, name: str, lr: float, adam_lr: float) -> list[Optimizer]:
    """Optimisers of a recipe.

    Parameters
    ----------
    network : nn.Module
    name : {"muon", "adamw", "rmsprop"}
        ``"muon"`` gives matrices to Muon and all else to AdamW; input and output layers, by
        custom, to AdamW as well.
    lr : float
        Of Muon, or of the one optimiser.
    adam_lr : float
        Of AdamW beside Muon.

    Raises
    ------
    ValueError
        If the name is another.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if name == "rmsprop":
        return [torch.optim.RMSprop(parameters, lr=lr)]
    if name == "adamw":
        return [torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)]
    if name != "muon":
        raise ValueError(f"No optimiser is called {name!r}; known: muon, adamw, rmsprop.")
    rest = {
        id(p)
        for n, p in network.named_parameters()
        if p.ndim < 2 or p.numel() < 1024 or "entry" in n or "head" in n or n in ("wiener", "quotient")
    }
    matrices = [p for p in parameters if id(p) not in rest]
    others = [p for p in parameters if id(p) in rest]
    optimisers: list[Optimizer] = []
    if matrices:
        optimisers.append(Muon(matrices, lr=lr))
    if others:
        optimisers.append(torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0))
    return optimisers


def state_dicts(optimisers: list[Optimizer]) -> list[dict[str, Any]]:
    """State of each."""
    return [optimiser.state_dict() for optimiser in optimisers]

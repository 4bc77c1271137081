"""Restorers that are one pass of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..fingerprints import class_digest
from ..gate import Gate, kernel_spread
from ..networks import NETWORKS
from ..tiles import TILE, restore_in_tiles
from ..weights import bf16_is_fast, load_model, model_digest, model_path, network_name
from .base import Restorer

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
"""Short names, as exported files and their runtimes have them."""


class NetworkRestorer(Restorer):
    """A published network, or one from a file.

    Parameters
    ----------
    weights : str or Path, optional
        A ``.safetensors`` file that ``blurface train`` wrote, or the name of a packaged model.
        Default: the packaged model of this restorer's name.
    device : str or torch.device
    precision : {"auto", "float32", "bfloat16"}
        ``"auto"`` takes bfloat16 where the device computes it natively; ``"fp32"`` and ``"bf16"`` will do as
        well.

    Raises
    ------
    InputError
        If there is no such precision.
    WeightsError
        If the weights are damaged or another network's.

    Attributes
    ----------
    module : nn.Module
        ``forward(x)`` maps (N, 3, H, W) in [0, 1] to the same, differentiably; float32 weights. Inference
        may run a copy that was made ready: what is changed here afterwards does not show in it.
    note : dict
        How the weights were trained.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
    ) -> None:
        super().__init__(device)
        precision = PRECISIONS.get(precision, precision)
        if precision not in ("auto", *PRECISIONS.values()):
            raise InputError(f"precision={precision!r} is unknown.", "Choose auto, float32 or bfloat16.")
        self.weights = str(weights) if weights is not None else self.name
        if weights is not None and self.name in NETWORKS:
            found = network_name(model_path(weights))
            if found != self.name:
                raise WeightsError(
                    f"{weights} are weights of {found!r}, not of {self.name!r}.", f"Use them with {found!r}."
                )
        self.bf16 = bf16_is_fast(self.device) if precision == "auto" else precision == "bfloat16"
        with torch.inference_mode(False):  # weights made in it would be of no use to gradients
            module, self.note = load_model(self.weights)
            self.module: nn.Module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._ready = self._prepared()

    def _prepared(self) -> nn.Module:
        """What is run: the module, or a copy with what a precision lets one compute ahead."""
        prepares = hasattr(self.module, "prepare") and self.device.type == "cpu"
        # A copy of the same weights, unless they are rounded in it.
        same = {} if self.bf16 else {id(weight): weight for weight in self.module.parameters()}
        prepared: Any = copy.deepcopy(self.module, same) if self.bf16 or prepares else self.module
        if prepares:
            # What is tried out and kept must not be in a caller's precision.
            with torch.autocast(self.device.type, enabled=False):
                prepared.prepare(torch.bfloat16 if self.bf16 else torch.float32)
        if self.bf16:
            # Autocast would round the same weights again at every call.
            for part in prepared.modules():
                if isinstance(part, nn.Conv2d | nn.Linear):
                    part.to(torch.bfloat16)
        module: nn.Module = prepared
        return module

    def in_float32(self) -> Self:
        """This restorer, computing in float32."""
        other = copy.copy(self)
        other.bf16 = False
        other._ready = other._prepared()
        return other

    def calibrated_gate(self) -> Gate | None:
        """From the card beside the weights."""
        return Gate.of_weights(self.weights)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the network runs in, whatever a caller's autocast says."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        return self._run(batch, _with_kernel if return_kernel and self.estimates_kernel else _alone)

    def _run(
        self, batch: Tensor, run: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor | None]:
        gradients = torch.is_grad_enabled() and batch.requires_grad
        # What inference computes ahead has no gradient.
        network = self.module if gradients else self._ready
        with nullcontext() if gradients else torch.inference_mode(), self.autocast():
            return restore_in_tiles(batch, partial(run, network))

    def options(self) -> dict[str, Any]:
        """Precision; the weights are part of the fingerprint."""
        return {"precision": "bfloat16" if self.bf16 else "float32"}

    def fingerprint(self) -> dict[str, Any]:
        """Name, options, digests of the network's code and weights."""
        network = class_digest(type(self.module), "blurface.networks")
        return super().fingerprint() | {"network": network, "weights": model_digest(self.weights)}

    def gflop(self, height: int = 112, width: int = 96) -> float:
        """GFLOP of one image, counted by PyTorch (two per multiply-add; without FFTs)."""
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        # With gradients: the network as it is defined, whatever inference makes of it.
        with counter, torch.enable_grad():
            self.module(torch.zeros(1, 3, height, width, device=self.device))
        return float(counter.get_total_flops()) / 1e9

    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(p.numel() for p in self.module.parameters())


def _alone(network: nn.Module, batch: Tensor) -> tuple[Tensor, Tensor | None]:
    return network(batch.contiguous(memory_format=torch.channels_last)).float(), None


def _with_kernel(
    network: nn.Module, batch: Tensor, **options: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor | None]:
    laid_out = batch.contiguous(memory_format=torch.channels_last)
    restored, estimate = network(laid_out, return_kernel=True, **options)
    return restored.float(), estimate.float()


class Fast(NetworkRestorer):
    """Default network: blur model inside, one pass."""

    name = "fast"
    estimates_kernel = True

    def _restore_blurred(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool, sharp_below: float
    ) -> tuple[Tensor, Tensor | None]:
        # A tile without structure looks sharp in a blurred picture.
        if max(batch.shape[-2:]) > TILE:
            return self._restore(batch, kernels, return_kernel)
        return self._run(batch, partial(_with_kernel, settled=lambda k: kernel_spread(k) <= sharp_below))


class Plain(NetworkRestorer):
    """U-Net without the blur model."""

    name = "plain"


class DeepDeblur(NetworkRestorer):
    """The paper's network."""

    name = "deepdeblur"

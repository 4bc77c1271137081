"""What tiles save in training the paper's network on a CPU: one module, forward and backward.

    python benchmarks/train_step.py [--channels 64] [--batch 8 16] [--slow] [--bfloat16] \
        [--out results/train-step.json]

CPU milliseconds a face (fastest of three, one thread), directly by oneDNN and in Fourier tiles, and how
far each gradient of a 14x14 convolution in float32 lies from the one computed in float64. ``--slow`` adds a
batch of 4, for which oneDNN's weight gradient in float32 is a reference loop: two minutes for one step.
``--bfloat16`` measures the module under autocast, as training runs where the processor computes bfloat16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from speed import Run, clock, machine
from torch import Tensor
from torch.nn import functional

from blurface.files import replacing
from blurface.memory import keep_freed_memory
from blurface.networks import deepdeblur
from blurface.networks.tiled import TILES, tiled_convolution

SIZE = (112, 96)


def directly() -> AbstractContextManager[Any]:
    """Without tiles."""
    return mock.patch.object(deepdeblur, "_tiles_train_faster", return_value=False)


def milliseconds(step: Run, batch: NDArray[np.float32], rounds: int = 3) -> float:
    """CPU time a face of the fastest of some steps; a step of a minute is not repeated."""
    fastest = float("inf")
    for _ in range(rounds):
        fastest = min(fastest, clock(step, batch)[1])
        if fastest > 60:
            break
    return round(1e3 * fastest / len(batch), 1)


def of_module(channels: int, size: int, bfloat16: bool) -> dict[str, float]:
    """Milliseconds a face, in batches of ``size``, of one module with its entry and head."""
    torch.manual_seed(0)
    network = deepdeblur.DeepDeblurNet(channels, modules=1).to(memory_format=torch.channels_last)
    batch = torch.rand(size, 3, *SIZE).numpy()

    def step(batch: NDArray[np.float32]) -> None:
        x = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = network(x).float().square().mean()
        loss.backward()

    found = {"tiles": milliseconds(step, batch)}
    with directly():
        found["direct"] = milliseconds(step, batch)
    return found


def errors(channels: int, size: int = 14) -> dict[str, dict[str, float]]:
    """Largest error of result and gradients, as a share of the largest exact value."""
    torch.manual_seed(0)
    given = [
        torch.randn(8, channels, *SIZE),
        torch.randn(channels, channels, size, size),
        torch.randn(channels),
    ]
    slope = torch.randn(8, channels, *SIZE)
    before = size // 2
    pads = (before, size - 1 - before) * 2

    def direct(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, pads), weight, bias)

    def tiles(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return tiled_convolution(x, weight, bias, TILES[size], before)

    def values(form: Callable[..., Tensor], kind: torch.dtype) -> list[Tensor]:
        inputs = [
            value.to(kind, memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format)
            for value in given
        ]
        for value in inputs:
            value.requires_grad_()
        result = form(*inputs)
        return [result, *torch.autograd.grad((result * slope.to(kind)).sum(), inputs)]

    exact = values(direct, torch.float64)
    return {
        name: {
            part: float(((a - b).abs().max() / b.abs().max()).detach())
            for part, a, b in zip(
                ("result", "by input", "by weight", "by bias"), values(form, torch.float32), exact
            )
        }
        for name, form in (("direct", direct), ("tiles", tiles))
    }


def main() -> None:
    """Measure and print; write JSON with --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--out")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(1), "channels": given.channels, "modules": 1}
    found["precision"] = "bfloat16" if given.bfloat16 else "float32"
    found["errors"] = errors(8)
    print(json.dumps(found["errors"], indent=1))
    found["milliseconds a face"] = {}
    for batch in [*given.batch, *([4] if given.slow else [])]:
        found["milliseconds a face"][str(batch)] = times = of_module(given.channels, batch, given.bfloat16)
        print(f"batch {batch}: {times}", flush=True)
    if given.out:
        with replacing(Path(given.out)) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

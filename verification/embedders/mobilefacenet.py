"""MobileFaceNet: 1 M parameters, 112x96 faces, 128-D embeddings.

Chen, Liu, Gao, Han: "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices", CCBR 2018, table 1. For faces of 112x96 the global depthwise convolution is 7x6.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from blurface.errors import DataError, WeightsError

from .base import TorchEmbedder, find_weights

#: Rows of table 1: expansion t, channels c, repetitions n, stride s of the first.
TABLE_1 = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class ConvBlock(nn.Module):
    """Convolution, batch norm and, unless ``linear``, a PReLU per channel."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not linear:
            self.prelu = nn.PReLU(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        x = self.bn(self.conv(x))
        return x if self.linear else self.prelu(x)


class Bottleneck(nn.Module):
    """Inverted residual: 1x1 expand, 3x3 depthwise, 1x1 project; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.connect else y


class MobileFaceNet(nn.Module):
    """MobileFaceNet for 112x96 faces.

    Module names follow the published checkpoint, so that its keys match one to one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.dw_conv1 = ConvBlock(64, 64, 3, 1, 1, depthwise=True)
        blocks: list[nn.Module] = []
        channels = 64
        for expansion, outputs, count, stride in TABLE_1:
            for index in range(count):
                blocks.append(Bottleneck(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBlock(channels, 512, 1)
        self.linear7 = ConvBlock(512, 512, (7, 6), depthwise=True, linear=True)
        self.linear1 = ConvBlock(512, 128, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Embed.

        Parameters
        ----------
        x : Tensor
            (N, 3, 112, 96) float RGB in [0, 1].

        Returns
        -------
        Tensor
            (N, 128), not normalised.
        """
        x = (x * 255 - 127.5) / 128
        x = self.blocks(self.dw_conv1(self.conv1(x)))
        x = self.linear1(self.linear7(self.conv2(x)))
        return x.flatten(1)


def load_mobilefacenet(path: str | Path) -> MobileFaceNet:
    """Build the network and load a checkpoint, without executing code from it.

    Parameters
    ----------
    path : str or Path
        A ``torch.save`` file with the state dictionary under ``net_state_dict``.

    Returns
    -------
    MobileFaceNet
        In evaluation mode, on the CPU.

    Raises
    ------
    DataError
        If the file is missing.
    WeightsError
        If it cannot be read safely or its keys or shapes are not the network's.
    """
    path = Path(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"No weights at {path}.", "Pass the path of the MobileFaceNet checkpoint.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint that can be read safely.", "Fetch it again."
        ) from error
    state = loaded.get("net_state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds no net_state_dict.", "Use a MobileFaceNet 112x96 checkpoint.")
    network = MobileFaceNet()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not fit MobileFaceNet for 112x96 faces: {error}",
            "Use a MobileFaceNet 112x96 checkpoint.",
        ) from error
    return network.eval()


class MobileFaceNetEmbedder(TorchEmbedder):
    """MobileFaceNet trained on CASIA-WebFace, 112x96.

    Parameters
    ----------
    weights : str or Path, optional
        Checkpoint; found by name among the assets if left out.
    data_root : Path, optional
        Where data and weights lie.
    device : str or torch.device
    """

    name = "mobilefacenet"
    frame = "112x96"
    dimension = 128
    # On a CPU, larger batches spend more time on fresh memory than they save.
    batch_size = 8

    def __init__(
        self,
        weights: str | Path | None = None,
        data_root: Path | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        path = find_weights("mobilefacenet", weights, data_root)
        super().__init__(load_mobilefacenet(path), path, device)

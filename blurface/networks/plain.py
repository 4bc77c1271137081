"""``plain``: a 1 GFLOP U-Net without the blur model, the control that shows what the physics buys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .fast import UNet, make_ready


class PlainNet(nn.Module):
    """Pixels to a quarter of the resolution, a two-scale U-Net, and back; added to the input.

    Parameters
    ----------
    width, deep : int
        Channels at a quarter and an eighth of the resolution.
    """

    def __init__(self, width: int = 64, deep: int = 128, blocks: tuple[int, int, int] = (2, 5, 2)) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, width, 4, stride=4)
        self.net = UNet(width, deep, *blocks)
        self.head = nn.Conv2d(width, 48, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def prepare(self, dtype: torch.dtype = torch.float32) -> None:
        """Make inference on CPUs in this type faster; called once when the weights are final.

        There are no gradients afterwards, and the state dictionary is another.
        """
        make_ready(self, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1], any H and W, to the same."""
        height, width = x.shape[-2:]
        below, right = -height % 8, -width % 8
        y = functional.pad(x, (0, right, 0, below), mode="replicate") if below or right else x
        features, _ = self.net(self.entry(y - 0.5))
        restored = y + functional.pixel_shuffle(self.head(functional.relu(features)), 4)
        return restored[..., :height, :width]

"""The stage as a torchvision transform (``torchvision.transforms.v2``)."""

from __future__ import annotations

from typing import Any

import PIL.Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from .packets import ValueRange
from .stage import DeblurStage


class Deblur(v2.Transform):  # type: ignore[misc]
    """Restore the pictures of a sample; labels, boxes and masks stay as they are.

    Place it before augmentation and normalisation. With worker processes, build the data loader
    with ``multiprocessing_context="spawn"``.

    Parameters
    ----------
    stage : DeblurStage
    value_range : (black, white), optional
        What black and white are in floating tensors; default (0, 1).

    Examples
    --------
    >>> import torch
    >>> from blurface import DeblurStage
    >>> from blurface.torchvision import Deblur
    >>> Deblur(DeblurStage.from_pretrained("none"))(torch.zeros(3, 8, 8)).shape
    torch.Size([3, 8, 8])
    """

    # A plain tensor counts as a picture where a sample has no other, as everywhere in v2.
    _transformed_types = (PIL.Image.Image, tv_tensors.Image, tv_tensors.Video, v2.functional.is_pure_tensor)

    def __init__(self, stage: DeblurStage, value_range: ValueRange | None = None) -> None:
        super().__init__()
        self.stage = stage
        self.value_range = value_range

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Restore one picture; called by torchvision."""
        return self.stage(inpt, value_range=self.value_range)

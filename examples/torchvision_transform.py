"""torchvision v2: the stage as one transform among others.

python examples/torchvision_transform.py
"""

from __future__ import annotations

import torch
from common import photographs, stage_from_arguments
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from blurface.torchvision import Deblur


def main() -> None:
    stage = stage_from_arguments("torchvision transform")
    preprocessing = v2.Compose(
        [
            v2.ToImage(),
            Deblur(stage),  # before resizing and normalisation; boxes and labels stay as they are
            v2.Resize((112, 112), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    sharp, blurry = (Image.fromarray(photograph[30:190, 140:300]) for photograph in photographs())
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[20, 20, 140, 150]]), format="XYXY", canvas_size=(160, 160)
    )
    image, resized_boxes, label = preprocessing(blurry, boxes, "astronaut")
    print(
        f"{type(image).__name__} {tuple(image.shape)} {image.dtype}, boxes {resized_boxes.tolist()}, {label}"
    )
    without = v2.Compose([t for t in preprocessing.transforms if not isinstance(t, Deblur)])
    reference = without(sharp)
    for name, tensor in (("blurry", without(blurry)), ("restored", image)):
        rms = (tensor - reference).square().mean().sqrt()
        print(f"  RMS difference to the sharp picture, {name:<9} {rms:.4f}")


if __name__ == "__main__":
    main()

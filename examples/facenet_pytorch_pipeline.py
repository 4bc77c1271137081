"""facenet-pytorch: MTCNN -> stage -> InceptionResnetV1, in one line that the caller does not see.

    python examples/facenet_pytorch_pipeline.py

The recogniser's weights are taken from facenet-pytorch's cache (or a blurface data folder) when
they are there; otherwise they are random, and the numbers show only that everything fits together.
"""

from __future__ import annotations

import torch
from common import cosine, photographs, report, stage_from_arguments
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image

import blurface
from blurface import assets


def recogniser() -> tuple[InceptionResnetV1, str]:
    torch.manual_seed(0)
    model = InceptionResnetV1(classify=False).eval()
    try:
        path = assets.find("facenet-vggface2")
    except blurface.BlurfaceError:
        return (
            model,
            "Random recogniser (no weights on this machine): the numbers show only that all fits together.",
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({name: value for name, value in state.items() if not name.startswith("logits.")})
    return model, "Recogniser: facenet-pytorch, VGGFace2."


def main() -> None:
    stage = stage_from_arguments("facenet-pytorch with a restoration stage")
    sharp, blurry = (Image.fromarray(photograph) for photograph in photographs())
    mtcnn = MTCNN(image_size=160, margin=14)
    boxes, _ = mtcnn.detect(sharp)
    if boxes is None:
        raise SystemExit("MTCNN found no face.")
    crops = {
        name: mtcnn.extract(image, boxes, None) for name, image in (("sharp", sharp), ("blurry", blurry))
    }
    model, note = recogniser()

    with torch.no_grad():
        reference = model(crops["sharp"][None]).numpy()
        before = model(crops["blurry"][None]).numpy()
        # The one line. MTCNN hands over (x - 127.5) / 128, which the preset knows.
        handle = blurface.attach(model, stage, preset="facenet-pytorch")
        after = model(crops["blurry"][None]).numpy()
        handle.remove()
        assert (model(crops["blurry"][None]).numpy() == before).all(), "the hook left something behind"
    report(["blurry", "restored"], [cosine(reference, before), cosine(reference, after)], note)


if __name__ == "__main__":
    main()

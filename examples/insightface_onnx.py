"""InsightFace: ``recognition.get_feat`` on restored crops.

    pip install insightface
    python examples/insightface_onnx.py

InsightFace takes BGR crops as OpenCV reads them, so the stage is told so.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import cosine, photographs, report, stage_from_arguments
from mobilefacenet_onnx import export

from verification.align import align
from verification.detect import Detector


def main() -> None:
    stage = stage_from_arguments("InsightFace with a restoration stage")
    try:
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    except ImportError as error:
        raise SystemExit(
            f"Skipped: InsightFace cannot be imported ({error}); pip install insightface."
        ) from error
    sharp, blurry = photographs()
    (detection,) = Detector().detect([sharp])
    if detection is None:
        raise SystemExit("No face found.")
    crops = [align(photograph, detection.points).pixels[..., ::-1] for photograph in (sharp, blurry)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mobilefacenet.onnx")
        note = export(path)
        recognition = ArcFaceONNX(model_file=str(path))
        recognition.prepare(ctx_id=-1)
        reference, before = (recognition.get_feat(crop) for crop in crops)
        after = recognition.get_feat(stage(crops[1], channel_order="bgr"))
    report(["blurry", "restored"], [cosine(reference, before), cosine(reference, after)], note)


if __name__ == "__main__":
    main()

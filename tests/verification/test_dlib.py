from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

from blurface.errors import DataError, WeightsError
from verification import create_embedder
from verification.align import align
from verification.detect import Detector

dlib = pytest.importorskip("dlib")
pytest.importorskip("face_recognition_models")

from verification.embedders.dlib import CHIP_CENTRE, CHIP_SIDE, DlibEmbedder, model_file  # noqa: E402


@pytest.fixture(scope="module")
def embedder() -> DlibEmbedder:
    created = create_embedder("dlib")
    assert isinstance(created, DlibEmbedder)
    return created


def test_chips_are_cut_at_the_stated_place(embedder: DlibEmbedder) -> None:
    # A plane of brightness tells where each pixel of the chip came from.
    y, x = np.mgrid[:112, :112].astype(np.float32)
    face = torch.from_numpy(np.stack([x, y, x]) / 255)[None]
    chip = embedder.chips(face)[0].astype(float)
    at = (np.arange(150) + 0.5) * CHIP_SIDE / 150 - CHIP_SIDE / 2
    np.testing.assert_allclose(chip[75, :, 0], at + CHIP_CENTRE[0], atol=0.51)
    np.testing.assert_allclose(chip[:, 75, 1], np.minimum(at + CHIP_CENTRE[1], 111), atol=0.51)


def test_our_chip_is_embedded_near_dlibs_own(embedder: DlibEmbedder) -> None:
    photo = np.ascontiguousarray(data.astronaut()[:256, 96:352])
    models = model_file().parent
    box = dlib.get_frontal_face_detector()(photo, 1)[0]
    marks = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))(photo, box)
    network = dlib.face_recognition_model_v1(str(model_file()))
    theirs = np.array(network.compute_face_descriptor(photo, marks))

    found = Detector().detect([photo])[0]
    assert found is not None
    face = align(photo, found.points, "112x112").pixels
    faces = torch.from_numpy(np.stack([face, face[:, ::-1]])).permute(0, 3, 1, 2).float() / 255
    ours = embedder.embed(faces)
    # dlib calls two faces the same person below a distance of 0.6.
    assert np.linalg.norm(ours[0] - theirs) < 0.3
    assert np.linalg.norm(ours[1] - theirs) < 0.5
    assert embedder.metric == "euclidean"


def test_weights_are_found_without_importing_their_package() -> None:
    assert model_file().stat().st_size > 20_000_000
    with pytest.raises(DataError, match="nowhere"):
        create_embedder("dlib", weights="nowhere.dat")


def test_a_damaged_file_says_so(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "damaged.dat"
    path.write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"damaged\.dat"):
        create_embedder("dlib", weights=path)

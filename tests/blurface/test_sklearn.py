"""The transformer keeps scikit-learn's rules; torchvision's transform keeps torchvision's."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from stage_support import BrightenRestorer

from blurface.errors import ImageError, InputError
from blurface.sklearn import DeblurTransformer
from blurface.stage import DeblurStage


@parametrize_with_checks([DeblurTransformer("none", shape=None, value_range="fit", device="cpu")])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def brighten() -> DeblurTransformer:
    return DeblurTransformer(DeblurStage(BrightenRestorer()), shape=(6, 5, 3))


@pytest.mark.parametrize("dtype", ["f8", "f4", "u1"])
def test_rows_and_pictures_are_the_same(dtype: str) -> None:
    pictures = np.random.default_rng(0).random((4, 6, 5, 3)) * (255 if dtype == "u1" else 1)
    pictures = pictures.astype(dtype)
    rows = brighten().fit_transform(pictures.reshape(4, -1))
    assert rows.dtype == pictures.dtype
    np.testing.assert_array_equal(rows.reshape(pictures.shape), brighten().fit_transform(pictures))
    if dtype != "u1":
        np.testing.assert_allclose(rows, (1 + pictures.reshape(4, -1)) / 2, atol=1e-6)
    grey = DeblurTransformer(DeblurStage(BrightenRestorer()), shape=(6, 5)).fit(
        pictures[..., 0].reshape(4, -1)
    )
    np.testing.assert_array_equal(
        grey.transform(pictures[..., 0].reshape(4, -1)), grey.transform(pictures[..., 0]).reshape(4, -1)
    )


def test_in_a_pipeline_with_clone_set_params_and_pickle() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.random((20, 90)), np.arange(20) % 2
    X[y == 1] *= 0.5
    pipeline = make_pipeline(DeblurTransformer("none", shape=(6, 5, 3)), PCA(3), LogisticRegression())
    assert clone(pipeline).fit(X, y).score(X, y) == 1
    pipeline.set_params(deblurtransformer__shape=(5, 6, 3), deblurtransformer__gate=False)
    assert pipeline.get_params()["deblurtransformer__gate"] is False
    pipeline.fit(X, y)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(X), pipeline.predict(X))
    names = pipeline[0].get_feature_names_out()
    assert list(names[:2]) == ["x0", "x1"]


def test_pictures_of_whole_numbers_and_their_names() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3))
    transformer = brighten().set_params(value_range=(0, 255))
    restored = transformer.fit_transform(pictures)
    assert restored.dtype == np.float64
    np.testing.assert_allclose(restored, (255 + pictures) / 2, atol=1e-3)
    assert len(transformer.get_feature_names_out()) == transformer.n_features_in_ == 90


def test_ranges() -> None:
    X = np.random.default_rng(0).random((3, 90)) * 255
    with pytest.raises(ImageError, match="255"):
        brighten().fit_transform(X)
    inside = brighten().set_params(value_range=(0, 255)).fit_transform(X)
    np.testing.assert_allclose(inside, (255 + X) / 2, atol=1e-3)
    learned = brighten().set_params(value_range="fit").fit(X)
    assert learned.value_range_ == (X.min(), X.max())
    np.testing.assert_allclose(learned.transform(X + 1000), X.max(), rtol=1e-6)
    with pytest.raises(InputError, match="fti"):
        brighten().set_params(value_range="fti").fit(X)
    with pytest.raises(InputError, match="shape"):
        brighten().fit(X[:, :80])
    with pytest.raises(InputError, match="5 dim"):
        brighten().fit(np.zeros((1, 1, 1, 1, 1)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_span_their_type_whatever_range_was_learned(dtype: type) -> None:
    largest = np.iinfo(dtype).max
    pictures = np.linspace(0.1 * largest, 0.4 * largest, 270).astype(dtype).reshape(3, 6, 5, 3)
    transformer = brighten().set_params(value_range="fit").fit(pictures[:2])
    restored = transformer.transform(pictures)
    assert restored.dtype == dtype
    np.testing.assert_allclose(restored, (largest + pictures.astype(np.float64)) / 2, atol=1)


def test_torchvision_transform_touches_pictures_only() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    from torchvision import tv_tensors

    from blurface.torchvision import Deblur

    deblur = Deblur(DeblurStage(BrightenRestorer()))
    image = tv_tensors.Image(torch.full((3, 8, 8), 100, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[0, 0, 4, 4]]), format="XYXY", canvas_size=(8, 8))
    out, out_boxes, label = deblur((image, boxes, 3))
    assert type(out) is tv_tensors.Image
    assert out.unique().tolist() == [178]
    assert torch.equal(out_boxes, boxes)
    assert label == 3
    pipeline = v2.Compose([v2.ToImage(), deblur, v2.ToDtype(torch.float32, scale=True)])
    tensor = pipeline(Image.new("RGB", (8, 6), (100, 100, 100)))
    assert tensor.shape == (3, 6, 8)
    torch.testing.assert_close(tensor.max(), torch.tensor(178 / 255))


def test_gate_is_honoured_whatever_the_stage_is() -> None:
    stage = DeblurStage.from_pretrained("fast", device="cpu")
    faces = np.zeros((1, 16, 16), np.uint8)
    assert DeblurTransformer(stage).fit(faces).stage_ is stage
    assert DeblurTransformer(stage, gate=False).fit(faces).stage_.gate is None


def test_pictures_may_come_as_a_list() -> None:
    faces = [np.zeros((16, 16), np.uint8)] * 2
    assert DeblurTransformer("none").fit(faces).transform(faces).shape == (2, 16, 16)


def test_shape_needs_two_sides() -> None:
    with pytest.raises(InputError, match="shape"):
        DeblurTransformer("none", shape=(16,)).fit(np.zeros((2, 16)))  # type: ignore[arg-type]

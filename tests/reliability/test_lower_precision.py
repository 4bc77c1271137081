"""Half precision against float32, extreme and mixed sizes, through the packaged network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.data import astronaut

from blurface.networks.packed import packing_serves
from blurface.restorers import create_restorer
from blurface.restorers.base import Restorer
from blurface.stage import DeblurStage
from blurface.weights import list_models

pytestmark = pytest.mark.skipif("fast" not in list_models(), reason="no packaged weights of fast")


@pytest.fixture(scope="module")
def fast() -> Restorer:
    return create_restorer("fast", precision="float32")


def blurry_face() -> NDArray[np.float32]:
    """A photograph's face, smeared along the rows."""
    face = astronaut()[60:172, 170:266].astype(np.float32) / 255
    return np.asarray(gaussian_filter(face, (0.4, 2.5, 0)), np.float32)


def decibel(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a.clamp(0, 1) - b.clamp(0, 1)).square().mean()))


def test_bfloat16_stays_near_float32(fast: Restorer) -> None:
    batch = torch.from_numpy(blurry_face()).permute(2, 0, 1)[None].contiguous()
    full, kernel = fast.restore(batch, return_kernel=True)
    half, half_kernel = create_restorer("fast", precision="bfloat16").restore(batch, return_kernel=True)
    assert half.dtype == half_kernel.dtype == torch.float32
    assert decibel(full, batch) < 35  # the network does something
    # Far below what restoration changes, and about the error of eight bits.
    assert decibel(half, full) > 38
    assert float((half - full).abs().max()) < 0.15
    assert float((half_kernel - kernel).abs().sum()) < 0.15
    assert float(half_kernel.sum()) == pytest.approx(1, abs=1e-5)


def test_classical_methods_compute_as_ever_where_the_caller_computes_in_less() -> None:
    batch = torch.from_numpy(blurry_face()).permute(2, 0, 1)[None, :, 20:96, 10:86].contiguous()
    restorer = create_restorer("chakrabarti")
    expected = restorer.restore(batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(restorer.restore(batch), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["fast", "deepdeblur"])
def test_float32_is_float32_whatever_precision_the_caller_computes_in(name: str) -> None:
    batch = torch.from_numpy(blurry_face()).permute(2, 0, 1)[None].contiguous()
    restorer = create_restorer(name, precision="float32")
    with_gradient = batch.clone().requires_grad_()
    expected, differentiable = restorer.restore(batch), restorer.restore(with_gradient)
    packing_serves.cache_clear()  # as in a process that builds its first network here
    with torch.autocast("cpu", torch.bfloat16):
        built = create_restorer(name, precision="bfloat16").in_float32()  # type: ignore[attr-defined]
        for one in (restorer, built):
            torch.testing.assert_close(one.restore(batch), expected, atol=1e-6, rtol=0)
            torch.testing.assert_close(one.restore(with_gradient), differentiable, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_pictures_lose_their_own_rounding_only(
    fast: Restorer, dtype: torch.dtype, allowed: float
) -> None:
    stage = DeblurStage(fast)
    batch = torch.from_numpy(blurry_face()).permute(2, 0, 1).to(dtype)
    restored = stage(batch)
    assert restored.dtype == dtype
    expected = stage(batch.float())
    assert float((restored.float() - expected).abs().max()) <= allowed


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 1), (1, 257), (257, 1), (3, 5), (15, 16), (400, 9), (9, 400), (113, 97)]
)
def test_any_size_gives_a_picture_of_that_size(fast: Restorer, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    restored, info = DeblurStage(fast)(pixels, return_info=True)
    assert restored.shape == pixels.shape
    assert np.isfinite(restored).all()
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert len(info) == 1


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_flat_pictures_stay_finite_and_flat(fast: Restorer, value: float) -> None:
    restored = DeblurStage(fast)(np.full((112, 96, 3), value, np.float32))
    assert np.isfinite(restored).all()
    assert np.abs(restored - value)[20:-20, 20:-20].max() < 0.1


# A twentieth of a grey level; of noise, whose kernel is anybody's guess, rounding makes up to one.
@pytest.mark.parametrize(("content", "allowed"), [("photograph", 2e-4), ("noise", 8e-3)])
def test_a_list_of_mixed_sizes_is_what_each_picture_is_alone(
    fast: Restorer, content: str, allowed: float
) -> None:
    stage = DeblurStage(fast)
    rng = np.random.default_rng(1)
    portrait = np.float32(astronaut()[20:260, 140:380]) / 255
    source = portrait if content == "photograph" else rng.random(portrait.shape, dtype=np.float32)
    sizes = [(112, 96), (40, 50), (112, 96), (1, 1), (40, 50), (64, 33)]
    corners = rng.integers(0, 128, (len(sizes), 2))
    pictures = [
        source[top : top + height, left : left + width].copy()
        for (height, width), (top, left) in zip(sizes, corners)
    ]
    together = stage(pictures)
    for picture, restored in zip(pictures, together, strict=True):
        np.testing.assert_allclose(restored, stage(picture), atol=allowed)

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve

from blurface.errors import InputError
from protocols.degradation import Degradation, degrade, from_bytes, generator, to_bytes

IDS = [f"Person_{i}/Person_{i}_0001" for i in range(40)]


def _faces(n: int = 40, size: int = 40) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8))


def _psf() -> torch.Tensor:
    psf = torch.from_numpy(np.random.default_rng(1).random((5, 5)).astype(np.float32))
    return psf / psf.sum()


def test_blur_is_a_valid_convolution_rounded_to_8_bits() -> None:
    faces, psf = _faces(), _psf()
    got = degrade(faces, psf, IDS, "1", Degradation(), margin=4)
    for face, out in zip(faces, got, strict=True):
        for channel, blurred in zip(face, out, strict=True):
            full = convolve(channel.numpy() / 255.0, psf.numpy().astype(np.float64), mode="nearest")
            expected = full[4:-4, 4:-4] * 255
            assert np.abs(blurred.numpy() - expected).max() <= 0.5 + 1e-3
    assert got.dtype == torch.uint8


def test_noise_has_the_stated_spread_and_is_independent_between_faces_and_kernels() -> None:
    grey = torch.full((2, 3, 120, 120), 128, dtype=torch.uint8)
    one = torch.ones((1, 1))
    noisy = {
        k: degrade(grey, one, IDS[:2], k, Degradation(noise=0.05), margin=4).double() / 255
        for k in ("1", "2")
    }
    for batch in noisy.values():
        assert batch.std().item() == pytest.approx(0.05, rel=0.02)
        assert batch.mean().item() == pytest.approx(128 / 255, abs=1e-3)
    streams = [noisy["1"][0], noisy["1"][1], noisy["2"][0], noisy["2"][1], noisy["1"][0].flip(0)]
    correlation = np.corrcoef(torch.stack(streams).flatten(1).numpy())
    assert np.abs(correlation - np.eye(5))[:4, :4].max() < 0.02


@pytest.mark.parametrize("degradation", [Degradation(noise=0.03, seed=4), Degradation(noise=0.01, jpeg=50)])
def test_probe_does_not_depend_on_order_or_batch(degradation: Degradation) -> None:
    faces, psf = _faces(), _psf()
    whole = degrade(faces, psf, IDS, "1", degradation, margin=4)
    order = [33, 0, 5, 16]
    part = degrade(faces[order], psf, [IDS[i] for i in order], "1", degradation, margin=4)
    assert torch.equal(part, whole[order])
    single = degrade(faces[2:3], psf, IDS[2:3], "1", degradation, margin=4)
    assert torch.equal(single[0], whole[2])


def test_seed_changes_noise_only() -> None:
    faces, psf = _faces(), _psf()
    a, b = (degrade(faces, psf, IDS, "1", Degradation(noise=0.03, seed=s), margin=4) for s in (0, 1))
    assert not torch.equal(a, b)
    assert Degradation(seed=0).fingerprint() == Degradation(seed=1).fingerprint()
    assert Degradation(noise=0.1, seed=0).fingerprint() != Degradation(noise=0.1, seed=1).fingerprint()


def test_jpeg_is_pillows() -> None:
    faces = _faces()
    got = degrade(faces, torch.ones((1, 1)), IDS, "1", Degradation(jpeg=60), margin=0)
    stream = io.BytesIO()
    Image.fromarray(faces[1].permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=60)
    stream.seek(0)
    assert np.array_equal(got[1].permute(1, 2, 0).numpy(), np.asarray(Image.open(stream)))


def test_eight_bits_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(from_bytes(levels)), levels)
    assert to_bytes(torch.tensor([-1.0, 2.0, 0.5 / 255, 1.5 / 255])).tolist() == [0, 255, 0, 2]


def test_generator_is_a_function_of_its_names() -> None:
    assert generator(0, "a", "b").random() == generator(0, "a", "b").random()
    values = {generator(*args).random() for args in ((0, "a", "b"), (1, "a", "b"), (0, "ab"), (0, "b", "a"))}
    assert len(values) == 4


@pytest.mark.parametrize(
    "wrong", [{"noise": -0.1}, {"noise": 1.5}, {"noise": float("nan")}, {"jpeg": 0}, {"jpeg": 101}]
)
def test_wrong_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="outside"):
        Degradation(**wrong)  # type: ignore[arg-type]

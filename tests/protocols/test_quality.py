from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from blurface.errors import InputError
from protocols.quality import PSNR_CAP, best_shift, measure, psnr, ssim


def _pair(seed: int, size: tuple[int, int] = (40, 37), noise: int = 30, n: int = 3) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (n, 3, *size))
    b = np.clip(a + rng.integers(-noise, noise + 1, a.shape), 0, 255)
    return torch.from_numpy(a.astype(np.uint8)), torch.from_numpy(b.astype(np.uint8))


def _unit(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy() / 255.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 255), st.integers(7, 40), st.integers(7, 40))
def test_agree_with_scikit_image(seed: int, noise: int, height: int, width: int) -> None:
    a, b = _pair(seed, (height, width), noise)
    for i in range(len(a)):
        x, y = _unit(a[i]), _unit(b[i])
        expected = structural_similarity(x, y, channel_axis=2, data_range=1.0)
        assert ssim(a, b)[i].item() == pytest.approx(expected, abs=1e-6)
        if (x != y).any():
            decibel = peak_signal_noise_ratio(x, y, data_range=1.0)
            assert psnr(a, b)[i].item() == pytest.approx(decibel, abs=1e-9)


def test_identical_flat_and_opposite_pictures() -> None:
    black = torch.zeros((1, 3, 12, 12), dtype=torch.uint8)
    white = torch.full_like(black, 255)
    assert psnr(white, white).item() == PSNR_CAP
    assert ssim(white, white).item() == pytest.approx(1, abs=1e-7)
    assert psnr(black, white).item() == pytest.approx(0, abs=1e-12)
    # Two flat pictures: only the luminance term counts, c1 / (1 + c1).
    assert ssim(black, white).item() == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-5)


def test_cap_lies_above_the_least_difference_of_a_face() -> None:
    a = torch.zeros((1, 3, 112, 112), dtype=torch.uint8)
    b = a.clone()
    b[0, 0, 0, 0] = 1
    assert psnr(a, b).item() < PSNR_CAP - 5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(-5, 5), st.integers(-5, 5))
def test_best_shift_is_exhaustive_search(seed: int, reach: int, dy: int, dx: int) -> None:
    a, b = _pair(seed, (24, 21))
    a = a.roll((dy, dx), (2, 3))
    side = 2 * reach + 1
    inner = b[..., reach:-reach, reach:-reach].int()
    height, width = inner.shape[-2:]
    errors = torch.stack(
        [
            ((a[..., i : i + height, j : j + width].int() - inner) ** 2).sum((1, 2, 3))
            for i in range(side)
            for j in range(side)
        ],
        1,
    )
    found = best_shift(a, b, reach)
    for n, (row, column) in enumerate(found.tolist()):
        assert errors[n, (row + reach) * side + column + reach] == errors[n].min()
    quality = measure(a, b, reach)
    expected = 10 * torch.log10(255.0**2 * inner[0].numel() / errors.min(1).values.double())
    torch.testing.assert_close(quality.psnr_shift, expected.clamp(max=PSNR_CAP), rtol=0, atol=1e-9)


def test_moved_picture_is_found_and_measured_as_identical() -> None:
    picture = torch.from_numpy(astronaut()[:160, 150:280].copy()).permute(2, 0, 1)[None]
    sharp, moved = picture[..., 20:132, 20:116], picture[..., 17:129, 25:121]
    quality = measure(moved, sharp, 9)
    assert quality.shift.tolist() == [[3, -5]]
    assert quality.psnr_shift.item() == PSNR_CAP
    assert quality.ssim_shift.item() == pytest.approx(1, abs=1e-7)
    assert quality.psnr.item() < 25


def test_equal_errors_take_the_shortest_shift() -> None:
    flat = torch.full((2, 3, 30, 30), 9, dtype=torch.uint8)
    assert best_shift(flat, flat, 6).tolist() == [[0, 0], [0, 0]]


def test_batches_are_measured_image_by_image() -> None:
    a, b = _pair(4, (30, 30), n=37)
    together = measure(a, b, 3)
    for name in ("psnr", "ssim", "psnr_shift", "ssim_shift", "shift"):
        one_by_one = torch.cat([getattr(measure(a[i : i + 1], b[i : i + 1], 3), name) for i in range(37)])
        torch.testing.assert_close(getattr(together, name), one_by_one, rtol=0, atol=1e-9)


def test_wrong_input_is_refused() -> None:
    a, b = _pair(0)
    with pytest.raises(InputError, match="uint8"):
        psnr(a.float(), b)
    with pytest.raises(InputError, match="shape"):
        measure(a, b[..., 1:])
    with pytest.raises(InputError, match="interior"):
        best_shift(a, b, 19)
    with pytest.raises(InputError, match="7x7"):
        ssim(a[..., :6, :], b[..., :6, :])

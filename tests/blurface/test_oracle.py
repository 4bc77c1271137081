from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.data import astronaut

import blurface
from blurface.errors import InputError
from blurface.kernels.convolve import blur
from blurface.restorers.base import Restorer
from blurface.restorers.oracle import edge_taper


def _face() -> torch.Tensor:
    """112 x 96 around a face, with 16 pixels of margin."""
    return torch.from_numpy(astronaut()[40:184, 160:288].copy()).permute(2, 0, 1)[None].float() / 255


def _psf() -> torch.Tensor:
    """Diagonal motion that slows down: no zeros in its spectrum."""
    psf = torch.zeros((11, 11))
    for i in range(11):
        psf[i, 10 - i] = i + 1
    return psf / psf.sum()


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the middle: what border handling makes of the rest is measured elsewhere."""
    return float(-10 * torch.log10(((a - b)[..., 12:-12, 12:-12] ** 2).mean()))


@pytest.fixture(params=["wiener", "richardson-lucy"])
def oracle(request: pytest.FixtureRequest) -> Restorer:
    return blurface.create_restorer(request.param)


def test_true_kernel_gives_the_face_back(oracle: Restorer) -> None:
    face, psf = _face(), _psf()
    sharp = face[..., 16:-16, 16:-16]
    blurred = (blur(face, psf, margin=16) * 255).round() / 255
    restored = oracle.restore(blurred, kernels=psf[None])
    assert isinstance(restored, torch.Tensor)
    assert restored.shape == sharp.shape
    assert _psnr(restored, sharp) > _psnr(blurred, sharp) + 4
    # Convolution, not correlation: the flipped kernel is the wrong one.
    wrong = oracle.restore(blurred, kernels=psf[None].flip(-1))
    assert isinstance(wrong, torch.Tensor)
    assert _psnr(wrong, sharp) < _psnr(blurred, sharp)


def test_one_kernel_an_image(oracle: Restorer) -> None:
    face, psf = _face(), _psf()
    other = psf.flip(-1).contiguous()
    batch = torch.cat([blur(face, p, margin=16) for p in (psf, other)])
    together = oracle.restore(batch, kernels=torch.stack([psf, other]))
    alone = torch.cat([oracle.restore(b[None], kernels=p[None]) for b, p in zip(batch, (psf, other))])  # type: ignore[misc]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_no_blur_leaves_the_face(oracle: Restorer) -> None:
    sharp = _face()[..., 16:-16, 16:-16]
    restored = oracle.restore(sharp, kernels=torch.ones((1, 1, 1)))
    assert isinstance(restored, torch.Tensor)
    assert _psnr(restored, sharp) > 33


def test_black_and_white_stay_finite(oracle: Restorer) -> None:
    batch = torch.stack([torch.zeros((3, 40, 36)), torch.ones((3, 40, 36))])
    restored = oracle.restore(batch, kernels=_psf()[None])
    assert isinstance(restored, torch.Tensor)
    torch.testing.assert_close(restored, batch, rtol=0, atol=0.1)
    inside = (..., slice(8, -8), slice(8, -8))
    torch.testing.assert_close(restored[inside], batch[inside], rtol=0, atol=0.02)


def test_kernels_are_needed_and_must_fit(oracle: Restorer) -> None:
    batch = torch.zeros((3, 3, 20, 20))
    with pytest.raises(InputError, match="true kernels"):
        oracle.restore(batch)
    with pytest.raises(InputError, match="do not fit"):
        oracle.restore(batch, kernels=torch.ones((2, 3, 3)) / 9)


def test_options_are_checked_and_fingerprinted() -> None:
    a, b = (blurface.create_restorer("wiener", balance=v) for v in (1e-3, 1e-2))
    assert a.fingerprint() != b.fingerprint()
    assert not a.blind
    with pytest.raises(InputError):
        blurface.create_restorer("wiener", balance=0)
    with pytest.raises(InputError):
        blurface.create_restorer("richardson-lucy", iterations=0)


def test_edge_taper_keeps_the_inside_and_makes_the_border_periodic() -> None:
    picture = np.random.default_rng(0).random((40, 50)).astype(np.float32).cumsum(1)
    psf = np.full((7, 7), 1 / 49, np.float32)
    tapered = edge_taper(picture, psf)
    np.testing.assert_allclose(tapered[8:-8, 8:-8], picture[8:-8, 8:-8], atol=1e-5)
    seam = lambda x: np.abs(x[:, 0] - x[:, -1]).mean()  # noqa: E731
    assert seam(tapered) < 0.5 * seam(picture)

"""Blur kernels: closed forms, an independent convolution, the paper's facts, bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.signal import convolve2d
from sklearn.gaussian_process.kernels import Matern

from blurface.errors import InputError, KernelError, UnknownNameError
from blurface.kernels import (
    Kernel,
    centre_by_mass,
    centre_of_mass,
    check_psf,
    create_kernel_set,
    kernel_sets,
    rms_radius,
)
from blurface.kernels.convolve import blur
from blurface.kernels.defocus import defocus_psf
from blurface.kernels.files import LEVIN_SIZES, read_kernels
from blurface.kernels.gaussian_process import (
    STEP,
    matern52,
    render,
    sample_kernels,
    sample_paths,
    trajectories,
)
from blurface.kernels.linear import linear_psf


def test_covariance_is_eq_4() -> None:
    times = np.arange(30)[:, None] * STEP
    ours = matern52(times - times.T, length_scale=0.3, sigma=0.25)
    theirs = 0.25**2 * Matern(length_scale=0.3, nu=2.5)(times)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_trajectories_have_the_covariance() -> None:
    paths = trajectories(20_000, np.random.default_rng(0))[..., 0]
    times = np.arange(101) * STEP
    measured = (paths[:, [0, 30, 100]].T @ paths) / len(paths)
    expected = matern52(times[[0, 30, 100], None] - times[None, :])
    np.testing.assert_allclose(measured, expected, atol=0.003)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(3, 31))
def test_random_kernels_are_kernels(seed: int, extent: float) -> None:
    rng = np.random.default_rng(seed)
    psf = sample_kernels(1, rng, valid_size=(extent, extent))[0]
    assert psf.shape[0] % 2 == 1
    assert psf.min() >= 0
    assert psf.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(centre_of_mass(psf), 0, atol=1e-5)
    rows, columns = np.nonzero(psf > 0)
    # bilinear rendering touches at most one pixel more than the trajectory's own extent
    assert extent - 1 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= extent + 2


def test_valid_size_is_the_paper_s_range() -> None:
    extents = np.ptp(sample_paths(2_000, np.random.default_rng(1)), axis=1).max(1) + 1
    assert extents.min() >= 8
    assert extents.max() <= 20
    assert np.histogram(extents, bins=4, range=(8, 20))[0].min() > 400


def test_rendering_keeps_time_and_place() -> None:
    # one third of the time at (0, 0), then at constant speed to (0, 2)
    path = np.zeros((1, 7, 2))
    path[0, :, 1] = [0, 0, 0, 0.5, 1, 1.5, 2]
    psf = render(path, 7)[0]
    assert psf.sum() == pytest.approx(1)
    assert centre_of_mass(psf)[1] == pytest.approx(np.trapezoid(path[0, :, 1]) / 6, abs=1e-6)
    assert psf[3, 3] > psf[3, 4]
    with pytest.raises(KernelError, match="leaves"):
        render(path * 10, 7)


def test_line_closed_forms() -> None:
    np.testing.assert_allclose(linear_psf(5, 0)[2], 0.2, atol=1e-7)
    np.testing.assert_allclose(linear_psf(5, 90), linear_psf(5, 0).T, atol=1e-7)
    np.testing.assert_allclose(linear_psf(4, 0)[2], [0.125, 0.25, 0.25, 0.25, 0.125], atol=1e-7)
    assert linear_psf(1, 0).shape == (1, 1)
    diagonal = linear_psf(15, 45)
    # up and to the right: rows count downwards
    assert diagonal[1, -2] > 0.05
    assert diagonal[1, 1] == 0
    np.testing.assert_allclose(diagonal, diagonal[::-1, ::-1], atol=1e-7)


def moment_of_points(points: np.ndarray) -> float:
    """Second moment of the pixels that random points fall into."""
    return float((np.round(points) ** 2).sum(1).mean())


@settings(max_examples=15, deadline=None)
@given(st.floats(1, 31), st.floats(-360, 360))
def test_line_is_where_random_points_of_it_fall(length: float, angle: float) -> None:
    psf = linear_psf(length, angle)
    assert psf.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(centre_of_mass(psf), 0, atol=1e-4)
    rng = np.random.default_rng(0)
    along, across = rng.uniform(-0.5, 0.5, (2, 200_000))
    turn = np.deg2rad(angle)
    direction = np.array([-np.sin(turn), np.cos(turn)])
    points = length * along[:, None] * direction + across[:, None] * np.array([np.cos(turn), np.sin(turn)])
    assert rms_radius(psf) ** 2 == pytest.approx(moment_of_points(points), rel=0.01, abs=0.005)


def test_disc_is_where_random_points_of_it_fall() -> None:
    rng = np.random.default_rng(0)
    square = rng.uniform(-1, 1, (400_000, 2))
    disc = square[(square**2).sum(1) <= 1]
    for radius in (1.5, 4, 7.3):
        assert rms_radius(defocus_psf(radius)) ** 2 == pytest.approx(
            moment_of_points(disc * radius), rel=0.01
        )
    assert defocus_psf(0.4).shape == (1, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_blur_is_convolution(height: int, width: int, half: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.random((1, 2, height + 2 * half, width + 2 * half))
    psf = rng.random((2 * half + 1, 2 * half + 1))
    result = blur(torch.from_numpy(image), torch.from_numpy(psf), margin=half)
    expected = convolve2d(image[0, 1], psf, mode="valid")
    np.testing.assert_allclose(result[0, 1].numpy(), expected, atol=1e-10)


def test_blur_borders_and_per_image_kernels() -> None:
    image = torch.rand(2, 3, 20, 24, dtype=torch.float64)
    psf = torch.rand(2, 5, 5, dtype=torch.float64)
    with pytest.raises(InputError, match="margin of 2"):
        blur(image, psf)
    replicated = blur(image, psf, border="replicate")
    padded = np.pad(image[1, 0].numpy(), 2, mode="edge")
    np.testing.assert_allclose(
        replicated[1, 0].numpy(), convolve2d(padded, psf[1].numpy(), "valid"), atol=1e-10
    )
    # a larger margin than needed changes nothing
    wide = blur(image, psf, margin=4)
    np.testing.assert_allclose(wide.numpy(), blur(image[..., 2:-2, 2:-2], psf, margin=2).numpy(), atol=1e-12)
    with pytest.raises(InputError, match="fit together"):
        blur(image, torch.rand(3, 5, 5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(-6, 6), st.integers(-6, 6))
def test_centring_moves_by_whole_pixels(half: int, down: int, across: int) -> None:
    size = 2 * (half + 6) + 1
    psf = np.zeros((size, size))
    middle = size // 2
    psf[middle + down, middle + across] = 0.75
    psf[middle + down, middle + across - 1 if across > 0 else middle + across + 1] = 0.25
    centred = centre_by_mass(psf)
    assert centred.sum() == pytest.approx(1)
    assert max(abs(c) for c in centre_of_mass(centred)) <= 0.5
    assert sorted(np.unique(centred)) == [0, 0.25, 0.75]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 5)), "square"),
        (np.ones((4, 4)), "even"),
        (np.zeros((3, 3)), "sum is zero"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1.0]]), "negative"),
        (np.ones(9), "square"),
    ],
)
def test_broken_kernels_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        check_psf(array, "bad.png")


def test_kernel_files(tmp_path: Path) -> None:
    psf = np.zeros((4, 6))
    psf[1, 1:5] = [1, 2, 2, 1]
    np.savez(tmp_path / "a.npz", k1=psf, k2=psf.T)
    np.save(tmp_path / "b.npy", np.ones((2, 3, 3)))
    Image.fromarray((psf * 100).astype(np.uint8)).save(tmp_path / "c.png")
    kernels = read_kernels(tmp_path)
    assert [k.name for k in kernels] == ["1", "2", "1", "2", "c"]
    assert all(k.size % 2 == 1 for k in kernels)
    np.testing.assert_allclose(kernels[0].psf, kernels[4].psf)
    np.testing.assert_allclose(kernels[0].psf, kernels[1].psf.T)
    named = create_kernel_set(f"file:{tmp_path}")
    assert len(named.kernels) == 5
    assert named.half_width == 3

    (tmp_path / "d.mat").write_bytes(b"not a matlab file")
    with pytest.raises(KernelError, match=r"d\.mat"):
        read_kernels(tmp_path / "d.mat")
    with pytest.raises(KernelError, match="does not exist"):
        read_kernels(tmp_path / "none.npy")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(KernelError, match="no kernel file"):
        read_kernels(empty)
    np.save(tmp_path / "e.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(KernelError, match=r"e\.npy"):
        read_kernels(tmp_path / "e.npy")
    np.savez(tmp_path / "f.npz", k1=-np.ones((3, 3)))
    with pytest.raises(KernelError, match=r"f\.npz.*negative"):
        read_kernels(tmp_path / "f.npz")


def test_sets_by_name() -> None:
    assert set(kernel_sets) >= {"levin8", "linear", "gp", "defocus", "file"}
    line = create_kernel_set("linear")
    assert [k.name for k in line.kernels] == ["L15@45"]
    assert len(create_kernel_set("linear:5,0;31,90").kernels) == 2
    trajectories_set = create_kernel_set("gp:3,7")
    assert trajectories_set.fingerprint() == create_kernel_set("gp:3,7").fingerprint()
    assert trajectories_set.fingerprint() != create_kernel_set("gp:3,8").fingerprint()
    assert [k.name for k in create_kernel_set("defocus:2,3.5").kernels] == ["R2", "R3.5"]
    for bad in ("linear:5", "gp:x", "gp:0", "defocus:-1", "linear:0,45"):
        with pytest.raises(KernelError):
            create_kernel_set(bad)
    with pytest.raises(UnknownNameError, match="levin8"):
        create_kernel_set("levin")
    assert Kernel("wide", np.full((3, 3), 5.0)).psf.sum() == pytest.approx(1)


@pytest.mark.real
def test_levin_s_kernels(shared: Path) -> None:
    published = create_kernel_set("levin8", data_root=shared / "data")
    assert tuple(k.size for k in published.kernels) == LEVIN_SIZES
    reference = np.load(shared / "baselines" / "reference" / "inputs" / "kernels.npz")
    for kernel in published.kernels:
        np.testing.assert_allclose(kernel.psf, reference[f"k{kernel.name}"], atol=1e-7)
    # as published they are off-centre by up to several pixels; centred, by half a pixel at most
    assert max(max(np.abs(centre_of_mass(k.psf))) for k in published.kernels) > 2
    centred = published.centred("mass")
    assert max(max(np.abs(centre_of_mass(k.psf))) for k in centred.kernels) <= 0.5
    assert centred.fingerprint() != published.fingerprint()


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
def test_kernels_of_any_scale_beside_what_is_none(tmp_path: Path, scale: float) -> None:
    psf = np.zeros((5, 5))
    psf[2, 1:4] = 1, 2, 1
    np.savez(tmp_path / "a.npz", k1=psf * scale, gamma=np.array([[2.2]]), note="camera 3")
    (kernel,) = read_kernels(tmp_path / "a.npz")
    np.testing.assert_allclose(kernel.psf, psf / 4, atol=1e-7)

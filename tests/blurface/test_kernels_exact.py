"""Kernels to the last digit and every message in full: what mutation testing found loosely held."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.nn import functional

from blurface.errors import InputError, KernelError
from blurface.kernels import (
    Kernel,
    KernelSet,
    centre_by_mass,
    centre_of_mass,
    check_psf,
    create_kernel_set,
    gaussian_process,
    join_kernel_sets,
    rms_radius,
)
from blurface.kernels.base import MAX_SIZE, odd_square, trim
from blurface.kernels.convolve import blur
from blurface.kernels.defocus import defocus_psf
from blurface.kernels.files import LEVIN_SIZES, read_kernels
from blurface.kernels.gaussian_process import (
    MAX_COUNT,
    STEP,
    TREMOR_SCALE,
    add_tremor,
    gp_set,
    matern52,
    render,
    sample_kernels,
    sample_paths,
    trajectories,
)
from blurface.kernels.linear import linear_psf

EYE = np.eye(3)


def test_every_refusal_says_what_and_how_to_mend_it() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: check_psf(np.ones((3, 5))),
            "kernel: a blur kernel is a square array, not (3, 5). Pad it with zeros.",
        ),
        (
            lambda: check_psf(np.ones(9), "k"),
            "k: a blur kernel is a square array, not (9,). Pad it with zeros.",
        ),
        (lambda: check_psf(np.ones((2, 2)), "k"), "k: its size 2 is even. Pad it to an odd size with zeros."),
        (
            lambda: check_psf(np.full((3, 3), np.inf), "k"),
            "k: it holds NaN or infinite values. Check the file it came from.",
        ),
        (
            lambda: check_psf(-EYE, "k"),
            "k: it holds negative values. A blur kernel is non-negative: clip it first.",
        ),
        (
            lambda: check_psf(0 * EYE, "k"),
            "k: its sum is zero. A blur kernel needs at least one positive value.",
        ),
        (
            lambda: check_psf(np.ones((1025, 1025)), "k"),
            "k: a kernel of 1,025 pixels a side is too large. At most 1023 are possible.",
        ),
        (
            lambda: blur(torch.zeros(2, 3, 9, 9), torch.ones(3, 3, 3) / 9),
            "Images (2, 3, 9, 9) and kernels (3, 3, 3) do not fit together.",
        ),
        (
            lambda: blur(torch.zeros(1, 3, 9, 9), torch.ones(5, 5) / 25, margin=1),
            "A 5x5 kernel needs a margin of 2 pixels, not 1. "
            "Crop with a larger margin or choose border='replicate'.",
        ),
        (lambda: defocus_psf(-1.0), "A disc of radius -1.0 is no kernel. The radius is a positive number."),
        (lambda: defocus_psf(0.0), "A disc of radius 0.0 is no kernel. The radius is a positive number."),
        (
            lambda: defocus_psf(1000.0),
            "defocus:1000: a kernel of 2,000 pixels a side is too large. At most 1023 are possible.",
        ),
        (
            lambda: linear_psf(0.5, 9.0),
            "A motion of length 0.5 at 9.0 degrees is no kernel. Length is 1 or more.",
        ),
        (
            lambda: linear_psf(2000.0, 9.0),
            "linear:2000,9: a kernel of 2,000 pixels a side is too large. At most 1023 are possible.",
        ),
        (lambda: create_kernel_set("defocus:x"), "defocus:x is not understood. Write defocus:RADIUS."),
        (lambda: create_kernel_set("linear:5"), "linear:5 is not understood. Write linear:LENGTH,ANGLE."),
        (lambda: create_kernel_set("gp:x"), "gp:x is not understood. Write gp:N or gp:N,SEED."),
        (lambda: create_kernel_set("gp:1,2,3"), "gp:1,2,3 is not understood. Write gp:N or gp:N,SEED."),
        (lambda: gp_set(n=0), f"A set of 0 kernels cannot be made. Ask for 1 to {MAX_COUNT}."),
        (
            lambda: gp_set(n=MAX_COUNT + 1),
            f"A set of {MAX_COUNT + 1} kernels cannot be made. Ask for 1 to {MAX_COUNT}.",
        ),
        (lambda: gp_set("8,-1"), "gp:8,-1: the seed is negative. Seeds are 0 or more."),
        (
            lambda: render(np.full((1, 1, 2), 1.5), 3),
            "A trajectory leaves a kernel of size 3. Choose a larger array size.",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message
    assert check_psf(np.ones((MAX_SIZE, MAX_SIZE))).shape == (MAX_SIZE, MAX_SIZE)


@pytest.mark.filterwarnings("error")
def test_values_whose_sum_overflows_have_unit_sum() -> None:
    assert check_psf(np.full((3, 3), 1.7e308)) == pytest.approx(np.full((3, 3), 1 / 9))


def test_padding_to_the_next_odd_square() -> None:
    for shape, size in (((3, 3), 3), ((4, 4), 5), ((2, 5), 5), ((6, 1), 7)):
        padded = odd_square(np.ones(shape, np.uint8))
        assert padded.dtype == np.float64
        assert padded.shape == (size, size)
        np.testing.assert_array_equal(padded[: shape[0], : shape[1]], 1)
        assert padded.sum() == shape[0] * shape[1]


def test_trimming_keeps_the_middle_and_the_least_size() -> None:
    psf = np.zeros((9, 9), np.float32)
    psf[4, 4] = 1
    assert trim(psf).shape == (1, 1)
    assert trim(psf, at_least=5).shape == (5, 5)
    psf[2, 4] = 1  # two rows up: columns alone would not see it
    assert trim(psf).shape == (5, 5)
    np.testing.assert_array_equal(trim(psf), psf[2:7, 2:7])
    np.testing.assert_array_equal(trim(psf.T.copy()), psf.T[2:7, 2:7])
    assert trim(psf, at_least=7).shape == (7, 7)
    assert trim(psf).flags.c_contiguous


def test_centring_moves_and_grows_only_where_mass_would_leave() -> None:
    corner = np.zeros((5, 5))
    corner[0, 0] = 1
    centred = centre_by_mass(corner)
    assert centred.shape == (5, 5)  # never smaller than it was
    assert centred[2, 2] == 1
    spread = np.zeros((5, 5))
    spread[0, 0], spread[4, 1] = 0.75, 0.25
    moved = centre_by_mass(spread)
    # The mass lies at (1, 0.25): one row and two columns off, and the light end would leave the array.
    assert moved.shape == (7, 7)
    assert moved[2, 3] == pytest.approx(0.75)
    assert moved[6, 4] == pytest.approx(0.25)


def test_radius_of_two_masses_is_half_their_distance() -> None:
    assert centre_of_mass(np.array([[0, 0, 0], [0, 0, 0], [2, 0, 6]])) == (1.0, 0.5)
    assert centre_of_mass(np.array([[0, 0, 2], [0, 0, 0], [0, 0, 6]])) == (0.5, 1.0)
    for transposed in (False, True):
        masses = np.zeros((7, 7), np.uint8)
        masses[0, 1], masses[0, 5] = 3, 3  # off the middle, and of no unit sum
        assert rms_radius(masses.T if transposed else masses) == pytest.approx(2)
        masses[0, 5] = 1  # at a quarter of the mass: 4 * sqrt(3/4 * 1/4)
        assert rms_radius(masses.T if transposed else masses) == pytest.approx(np.sqrt(3))


def test_centred_sets() -> None:
    off = np.zeros((5, 5))
    off[0, 0] = 1
    given = KernelSet("s", (Kernel("a", off),), "a source")
    assert given.centre == "published"
    assert given.centred("published") is given
    moved = given.centred("mass")
    assert (moved.name, moved.source, moved.centre) == ("s", "a source", "mass")
    assert moved.kernels[0].name == "a"
    assert moved.kernels[0].psf[2, 2] == 1
    assert moved.centred("mass") is moved
    assert moved.centred("published") is moved


def test_fingerprint_is_that_of_names_and_values() -> None:
    psf = np.arange(9, dtype=np.float32).reshape(3, 3)
    kernel = Kernel("a", psf)
    expected = hashlib.sha256(b"a:3;" + (psf / 36).astype("<f4").tobytes()).hexdigest()
    assert KernelSet("any", (kernel,)).fingerprint() == expected
    assert KernelSet("any", (Kernel("a", psf.T),)).fingerprint() != expected
    assert KernelSet("any", (Kernel("b", psf),)).fingerprint() != expected


@pytest.mark.parametrize(
    ("border", "mode"), [("replicate", "edge"), ("reflect", "reflect"), ("zero", "constant")]
)
@pytest.mark.parametrize("margin", [0, 1])
def test_borders_are_numpys(border: str, mode: str, margin: int) -> None:
    rng = np.random.default_rng(0)
    image, psf = rng.random((8, 11)), rng.random((5, 5), dtype=np.float32)
    got = blur(torch.from_numpy(image)[None, None], torch.from_numpy(psf), margin=margin, border=border)[0, 0]  # type: ignore[arg-type]
    assert got.dtype == torch.float64
    padded = torch.from_numpy(np.pad(image, 2 - margin, mode=mode))  # type: ignore[call-overload]
    expected = functional.conv2d(
        padded[None, None], torch.from_numpy(psf[::-1, ::-1].astype(float))[None, None]
    )
    torch.testing.assert_close(got, expected[0, 0], rtol=0, atol=1e-12)  # the images' precision
    assert got.shape == (8 - 2 * margin, 11 - 2 * margin)


def test_blur_refuses_other_shapes() -> None:
    psf = torch.ones(3, 3) / 9
    for images, kernels in (
        (torch.zeros(3, 9, 9), psf),
        (torch.zeros(1, 3, 9, 9), psf[None, None]),
        (torch.zeros(3, 1, 9, 9), psf.expand(2, 3, 3)),
    ):
        with pytest.raises(InputError, match="do not fit together"):
            blur(images, kernels, margin=1)


def test_defocus_shares_by_counting_points() -> None:
    radius, fine = 1.3, 16
    psf = defocus_psf(radius)
    assert psf.shape == (3, 3)
    assert psf.dtype == np.float32
    inside = np.zeros((3, 3))
    for i in range(3 * fine):
        for j in range(3 * fine):
            y, x = (i + 0.5) / fine - 1.5, (j + 0.5) / fine - 1.5
            inside[i // fine, j // fine] += x * x + y * y <= radius**2
    np.testing.assert_allclose(psf, inside / inside.sum(), rtol=1e-6)
    np.testing.assert_array_equal(psf, psf[::-1, ::-1])  # centred
    assert defocus_psf(0.01).tolist() == [[1.0]]  # smaller than the sampling: a point
    # A point exactly on the rim counts: with one point a pixel, radius 1 takes the four neighbours.
    np.testing.assert_allclose(
        defocus_psf(1.0, oversampling=1), np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5
    )


def test_sets_by_default_and_by_argument(tmp_path: Path) -> None:
    assert create_kernel_set("linear", data_root=tmp_path).name == "linear:15,45"  # needs no data, minds none
    disc = create_kernel_set("defocus")
    assert (disc.name, disc.source, [k.name for k in disc.kernels]) == ("defocus:4", "disc", ["R4"])
    assert disc.kernels[0].psf.tolist() == defocus_psf(4.0).tolist()
    assert create_kernel_set("defocus:2,3").name == "defocus:2,3"
    line = create_kernel_set("linear")
    assert (line.name, line.source) == ("linear:15,45", "section 4.5, table 4")
    assert line.kernels[0].psf.tolist() == linear_psf(15.0, 45.0).tolist()
    two = create_kernel_set("linear:5,0;7.5,90")
    assert (two.name, [k.name for k in two.kernels]) == ("linear:5,0;7.5,90", ["L5@0", "L7.5@90"])
    default = create_kernel_set("gp")
    assert (default.name, default.source) == ("gp:8,0", "section 3.1, eq. 4")
    assert [k.name for k in default.kernels] == [f"gp{i}" for i in range(1, 9)]
    for index, (kernel, extent) in enumerate(zip(default.kernels, np.linspace(8, 20, 8), strict=True)):
        rng = np.random.default_rng([0, index])
        np.testing.assert_array_equal(kernel.psf, sample_kernels(1, rng, valid_size=(extent, extent))[0])
    assert create_kernel_set("gp:1").kernels[0].psf.tolist() == default.kernels[0].psf.tolist()
    seeded = create_kernel_set("gp:2,5")
    assert seeded.name == "gp:2,5"
    other = sample_kernels(1, np.random.default_rng([5, 1]), valid_size=(20, 20))[0]
    np.testing.assert_array_equal(seeded.kernels[1].psf, other)


def test_the_largest_set_is_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian_process, "MAX_COUNT", 2)
    assert len(gp_set(n=2).kernels) == 2
    with pytest.raises(KernelError, match="Ask for 1 to 2"):
        gp_set(n=3)


def test_a_file_has_to_be_named() -> None:
    """Else the kernels of the working folder would be read."""
    with pytest.raises(KernelError, match=r"No file is named\. .*file:"):
        create_kernel_set("file:")


def test_joined_sets(tmp_path: Path) -> None:
    off = np.zeros((5, 5))
    off[0, 0] = 1
    np.save(tmp_path / "off.npy", off)
    file = f"file:{tmp_path / 'off.npy'}"
    alone, origin = join_kernel_sets([file], "mass")
    assert origin == {"off": file}
    assert (alone.name, alone.centre) == (file, "mass")
    assert alone.kernels[0].psf[2, 2] == 1
    both, origin = join_kernel_sets(["linear:5,0", file], "published")
    assert origin == {"L5@0": "linear:5,0", "off": file}
    assert both.name == f"linear:5,0+{file}"
    assert both.source == f"section 4.5, table 4; {tmp_path / 'off.npy'}"
    assert both.centre == "published"
    assert [kernel.name for kernel in both.kernels] == ["L5@0", "off"]
    np.testing.assert_array_equal(both.kernels[1].psf, off)
    assert join_kernel_sets(["linear:5,0", file], "mass")[0].centre == "mass"
    # Two kernels of one name: all are called by their sets.
    clash, origin = join_kernel_sets(["linear:5,0", "linear:5,0;7,0"], "published")
    names = ["linear:5,0/L5@0", "linear:5,0;7,0/L5@0", "linear:5,0;7,0/L7@0"]
    assert [kernel.name for kernel in clash.kernels] == names
    assert origin == dict(zip(names, ["linear:5,0", "linear:5,0;7,0", "linear:5,0;7,0"], strict=True))
    np.testing.assert_array_equal(clash.kernels[2].psf, linear_psf(7.0, 0.0))
    # Of files, by their last part, so that no name is a path.
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "off.npy", off)
    files = [file, f"file:{tmp_path / 'other' / 'off.npy'}"]
    clash, origin = join_kernel_sets(files, "mass")
    assert origin == {"off.npy/off": files[0], "off.npy-2/off": files[1]}
    # Within one set alone, names are its own matter.
    np.savez(tmp_path / "k.npz", k1=off, **{"1": off})
    assert [k.name for k in join_kernel_sets([f"file:{tmp_path / 'k.npz'}"], "mass")[0].kernels] == ["1", "1"]
    np.savez(tmp_path / "Levin09.npz", **{f"k{i}": np.eye(size) for i, size in enumerate(LEVIN_SIZES)})
    assert len(join_kernel_sets(["levin8"], "mass", tmp_path)[0].kernels) == 8


def test_trajectories_are_resampled_scaled_and_centred() -> None:
    """Each step of ``sample_paths`` done again by interpolation."""
    paths = sample_paths(4, np.random.default_rng(3), valid_size=(6, 12), duration=(0.3, 0.9))
    assert paths.shape == (4, 101, 2)
    rng = np.random.default_rng(3)
    raw = trajectories(4, rng, samples=101)
    spans = rng.uniform(0.3, 0.9, size=4)
    wanted = rng.uniform(6, 12, size=4)
    times = np.arange(101)
    weights = np.ones(101)
    weights[[0, -1]] = 0.5
    for number in range(4):
        at = np.linspace(0, spans[number] * 100, 101)
        path = np.stack([np.interp(at, times, raw[number, :, axis]) for axis in (0, 1)], 1)
        path *= (wanted[number] - 1) / np.ptp(path, axis=0).max()
        path -= np.average(path, axis=0, weights=weights)
        np.testing.assert_allclose(paths[number], path, atol=1e-9)


def test_a_tremor_has_the_variance_of_its_process() -> None:
    """Of a stationary process, E (z(t + lag) - z(t))^2 = 2 (k(0) - k(lag)), wherever its mean lies."""
    amplitudes = np.full(4_000, 0.8)
    shaken = add_tremor(np.zeros((4_000, 101, 2)), amplitudes, np.random.default_rng(0))
    for samples in (1, 5, 20):
        lag = np.array([0, samples * STEP])
        none, apart = matern52(lag, TREMOR_SCALE, 0.8)
        measured = np.square(shaken[:, samples:] - shaken[:, :-samples]).mean()
        assert measured == pytest.approx(2 * (none - apart), rel=0.02)
    weights = np.ones(101)
    weights[[0, -1]] = 0.5
    np.testing.assert_allclose(weights @ shaken, 0, atol=1e-9)
    path = sample_paths(1, np.random.default_rng(1))
    np.testing.assert_allclose(add_tremor(path, np.zeros(1), np.random.default_rng(0)), path, atol=1e-12)


def test_a_whole_trajectory_reaches_its_end() -> None:
    paths = sample_paths(1, np.random.default_rng(0), valid_size=(9, 9), duration=(1, 1))[0]
    raw = trajectories(1, np.random.default_rng(0), samples=101)[0]
    scaled = (raw - raw[0]) * (8 / np.ptp(raw, axis=0).max())
    np.testing.assert_allclose(paths - paths[0], scaled, atol=1e-9)


def test_an_extent_of_one_pixel_is_a_point() -> None:
    for extent in (0.0, 1.0):
        kernels = sample_kernels(2, np.random.default_rng(0), valid_size=(extent, extent))
        assert kernels.shape == (2, 1, 1)
        assert kernels.dtype == np.float32
        assert kernels.ravel().tolist() == [1, 1]
    assert sample_kernels(0, np.random.default_rng(0)).shape == (0, 1, 1)
    assert sample_kernels(2, np.random.default_rng(0), valid_size=(1, 1), size=5)[:, 2, 2].tolist() == [1, 1]


def test_rendering_by_hand() -> None:
    # From the middle one pixel to the right in equal times: the trapezoidal rule halves both ends.
    path = np.array([[[0.0, 0.0], [0.0, 1.0]]])
    kernel = render(path, 5)
    assert kernel.dtype == np.float32
    expected = np.zeros((5, 5))
    expected[2, 2:4] = 0.5
    np.testing.assert_allclose(kernel[0], expected, atol=1e-7)
    # A point between pixels is shared by distance.
    point = render(np.array([[[0.25, -0.5]]]), 3)[0]
    np.testing.assert_allclose(point, [[0, 0, 0], [0.375, 0.375, 0], [0.125, 0.125, 0]], atol=1e-7)
    # The outermost place is allowed, and lies in the last row.
    rim = render(np.array([[[1.0, -1.0], [1.0, -1.0]]]), 3)[0]
    assert rim[2, 0] == 1
    # Slow and fast: three equal times, of which two are spent on the first pixel.
    slow = render(np.array([[[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]]]), 5)[0]
    fine = np.concatenate([np.zeros(9), np.arange(1, 9) / 4])
    ends = np.ones(17)
    ends[[0, -1]] = 0.5
    row = sum(w * np.maximum(1 - np.abs(np.arange(-2, 3) - at), 0) for w, at in zip(ends, fine, strict=True))
    np.testing.assert_allclose(slow[2], row / ends.sum(), atol=1e-6)
    # Along a diagonal the four weights are products, so that the number of points shows: a quarter pixel
    # is one step, two pixels are eight.
    for end, count in ((0.25, 1), (2.0, 8)):
        drawn = render(np.array([[[0.0, 0.0], [end, end]]]), 7)[0]
        expected = np.zeros((7, 7))
        for number in range(count + 1):
            near = np.maximum(1 - np.abs(np.arange(-3, 4) - end * number / count), 0)
            expected += np.outer(near, near) * (0.5 if number in (0, count) else 1)
        np.testing.assert_allclose(drawn, expected / count, atol=1e-6)
    # Several at once, each of unit sum and none in another's array.
    both = render(np.concatenate([path, -path]), 5)
    np.testing.assert_allclose(both.sum((1, 2)), 1, atol=1e-6)
    np.testing.assert_allclose(both[1], both[0][::-1, ::-1], atol=1e-7)


# ---------------------------------------------------------------------------------------- files


PSF = np.array([[0, 1, 0], [2, 3, 0], [0, 0, 4]], float)


def test_every_kind_of_file_gives_the_same_kernel(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"k1": PSF})
    savemat(tmp_path / "B.MAT", {"k1": PSF})
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = PSF, PSF.T
    savemat(tmp_path / "c.mat", {"kernels": cells})
    with h5py.File(tmp_path / "d.mat", "w") as file:
        file["one"] = PSF.T  # MATLAB stores by columns
        file.create_group("other")["hidden"] = PSF
        file["vector"] = np.ones(3)
    with h5py.File(tmp_path / "e.mat", "w") as file:
        held = [file.create_dataset(f"#refs#/{i}", data=k.T) for i, k in enumerate((PSF, PSF.T))]
        file.create_dataset("kernels", data=np.array([[d.ref] for d in held], dtype=h5py.ref_dtype))
    np.savez(tmp_path / "f.npz", k1=PSF, k2=PSF.T, kx=PSF)
    np.save(tmp_path / "g.npy", PSF)
    np.save(tmp_path / "h.npy", np.stack([PSF, PSF.T]))
    scaled = (PSF * 60).astype(np.uint8)
    Image.fromarray(scaled).save(tmp_path / "i.png")
    Image.fromarray(np.dstack([scaled] * 3)).save(tmp_path / "j.png")
    Image.fromarray((PSF * 9000).astype(np.uint16)).save(tmp_path / "k.png")
    Image.fromarray((PSF / 10).astype(np.float32)).save(tmp_path / "l.tif")
    Image.fromarray((PSF * 9000).astype(np.int32)).save(tmp_path / "m.tiff")
    names = {
        "a.mat": ["1"], "B.MAT": ["1"], "c.mat": ["1", "2"], "d.mat": ["one"], "e.mat": ["1", "2"],
        "f.npz": ["1", "2", "kx"], "g.npy": ["g"], "h.npy": ["1", "2"], "i.png": ["i"], "j.png": ["j"],
        "k.png": ["k"], "l.tif": ["l"], "m.tiff": ["m"],
    }  # fmt: skip
    for file, expected in names.items():
        kernels = read_kernels(tmp_path / file)
        assert [kernel.name for kernel in kernels] == expected, file
        np.testing.assert_allclose(kernels[0].psf, PSF / 10, atol=1e-7, err_msg=file)
        if len(kernels) > 1:
            np.testing.assert_allclose(kernels[1].psf, PSF.T / 10, atol=1e-7, err_msg=file)
    (tmp_path / "notes.txt").write_text("no kernel")
    together = [kernel.name for kernel in read_kernels(tmp_path)]
    assert together == [name for file in sorted(names) for name in names[file]]
    named = create_kernel_set(f"file:{tmp_path / 'g.npy'}")
    assert (named.name, named.source) == (f"file:{tmp_path / 'g.npy'}", str(tmp_path / "g.npy"))


def test_every_refusal_of_a_file_says_what_and_how_to_mend_it(tmp_path: Path) -> None:
    known = "Expected .mat, .npz, .npy, .png, .tif, .tiff."
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "flat.npy", np.ones((2, 3)).astype("<U2"))
    np.save(tmp_path / "minus.npy", -PSF)
    np.save(tmp_path / "wide.npy", np.ones((1, 1024)))
    np.savez_compressed(tmp_path / "bomb.npz", k1=np.zeros((12000, 12000), np.uint8))
    with h5py.File(tmp_path / "bomb.mat", "w") as file:
        file.create_dataset("k", (10**6, 10**6), "f4", chunks=(100, 100))
    with h5py.File(tmp_path / "cells.mat", "w") as file:
        held = file.create_dataset("#refs#/a", (5000, 5000), "f4", chunks=(100, 100))
        file.create_dataset("kernels", data=np.array([held.ref], dtype=h5py.ref_dtype))
    savemat(tmp_path / "old.mat", {"k": np.zeros((5000, 5000), np.uint8)}, do_compression=True)
    Image.new("L", (1030, 1030), 9).save(tmp_path / "vast.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    cases = {
        "gone.npy": "does not exist. Give a kernel file or a folder of them.",
        "empty": f"holds no kernel file. {known}",
        "a.txt": f"is no kernel file. {known}",
        "none.npz": "holds no array. Expected one array a kernel.",
        "flat.npy": ": flat is no two-dimensional array of real numbers.",
        "minus.npy": ": minus: it holds negative values. A blur kernel is non-negative: clip it first.",
        "wide.npy": ": wide: a kernel of 1,024 pixels a side is too large. At most 1023 are possible.",
        "bomb.npz": ": k1.npy holds 18,000,016 values, too many for kernels. "
        "Kernels have at most 1023 pixels a side.",
        "bomb.mat": ": k holds 1,000,000,000,000 values, too many for kernels. "
        "Kernels have at most 1023 pixels a side.",
        "cells.mat": ": 1 holds 25,000,000 values, too many for kernels. "
        "Kernels have at most 1023 pixels a side.",
        "old.mat": ": k holds 25,000,000 values, too many for kernels. "
        "Kernels have at most 1023 pixels a side.",
        "vast.png": ": 1030 x 1030 pixels are more than the 1046529 that are decoded. "
        "Reduce the picture, or crop the face from it.",
        "text.png": "is not a picture in a known format. Save it again as PNG or JPEG.",
    }
    for name, rest in cases.items():
        path = tmp_path / name
        with pytest.raises(KernelError) as caught:
            read_kernels(path)
        separator = "" if rest.startswith(":") else " "
        assert str(caught.value) == f"{path}{separator}{rest}"
    with pytest.raises(
        KernelError, match=re.escape(f"{tmp_path / 'cut.npy'} cannot be read as a kernel: ")
    ) as caught:
        read_kernels(tmp_path / "cut.npy")
    assert caught.value.hint == "Is the file complete?"


def test_the_largest_kernel_is_read(tmp_path: Path) -> None:
    Image.new("L", (MAX_SIZE, MAX_SIZE), 9).save(tmp_path / "a.png")
    assert read_kernels(tmp_path / "a.png")[0].size == MAX_SIZE


def test_a_pickled_array_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[object()]]), allow_pickle=True)
    np.savez(tmp_path / "b.npz", k1=np.array([[{}]], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(KernelError, match="cannot be read as a kernel: Object arrays"):
            read_kernels(tmp_path / name)


def test_levins_set_is_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [rng.random((size, size)) for size in LEVIN_SIZES]
    np.savez(tmp_path / "Levin09.npz", **{f"k{i + 1}": kernel for i, kernel in enumerate(made)})
    levin = create_kernel_set("levin8", data_root=tmp_path)
    assert (levin.name, levin.source, levin.centre) == ("levin8", "Levin et al. 2009", "published")
    assert [kernel.name for kernel in levin.kernels] == list("12345678")
    for kernel, array in zip(levin.kernels, made, strict=True):
        np.testing.assert_allclose(kernel.psf, array / array.sum(), rtol=1e-5)
    np.savez(tmp_path / "Levin09.npz", **{f"k{i + 1}": kernel for i, kernel in enumerate(made[:7])})
    with pytest.raises(KernelError) as caught:
        create_kernel_set("levin8", data_root=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'Levin09.npz'} does not hold Levin's eight kernels: sizes {list(LEVIN_SIZES[:7])}. "
        f"Expected sizes {list(LEVIN_SIZES)}."
    )

"""Krishnan, Levin, Pan and the non-blind steps: what theory promises, and the authors' own outputs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classical_support import FACE, psnr, stroke
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import nnls
from skimage.data import camera

from blurface.restorers import create_restorer
from blurface.restorers.classical import core, krishnan, levin, nonblind, pan

Estimate = Callable[[torch.Tensor, int], torch.Tensor]
ESTIMATES: dict[str, Estimate] = {
    "krishnan": krishnan.estimate_kernels,
    "levin": levin.estimate_kernels,
    "pan": pan.estimate_kernels,
}


def _blocks(seed: int, height: int, width: int, cell: int = 6) -> torch.Tensor:
    """A piecewise constant picture."""
    rng = np.random.default_rng(seed)
    cells = rng.random((height // cell + 1, width // cell + 1))
    return torch.from_numpy(np.kron(cells, np.ones((cell, cell)))[:height, :width].copy())


def _blurred(seed: int, kernel: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(large sharp picture, its valid blur) with the blur of (1, height, width)."""
    margin = kernel.shape[-1] - 1
    sharp = _blocks(seed, height + margin, width + margin)[None]
    return sharp, core.ValidConvolution(kernel, (height + margin, width + margin)).forward(sharp)


# Non-blind steps


def test_a_point_kernel_gives_the_picture_back() -> None:
    picture = _blocks(0, 40, 36)[None]
    point = core.delta_kernels(1, 5, picture)
    sparse = nonblind.sparse_deconvolution(picture, point, nonblind.SparseDeconvSettings(weight=1e-9))
    torch.testing.assert_close(sparse, picture, atol=1e-6, rtol=0)
    fast = nonblind.fast_deconvolution(picture, point, nonblind.FastDeconvSettings(fidelity=1e9))
    torch.testing.assert_close(fast, picture, atol=1e-5, rtol=0)
    smooth = nonblind.total_variation(picture, point, fidelity=1e9)
    torch.testing.assert_close(smooth, picture, atol=1e-5, rtol=0)


def test_sparse_deconvolution_recovers_a_noise_free_picture_and_its_border() -> None:
    kernel = stroke()
    sharp, blurry = _blurred(1, kernel, 48, 42)
    tight = nonblind.SparseDeconvSettings(weight=1e-4, iterations=200)
    restored = nonblind.sparse_deconvolution(blurry, kernel, tight)
    truth = core.crop(sharp, 3)
    assert psnr(blurry, truth) < 16
    assert psnr(core.crop(restored, 4), core.crop(truth, 4)) > 42
    # No pixel beyond the frame is invented, so the border does not ring either.
    assert psnr(restored, truth) > 33


def test_sparse_energy_falls_with_every_reweighting() -> None:
    kernel = stroke()
    _, blurry = _blurred(2, kernel, 30, 30)
    energies = []
    for reweightings in range(4):
        chosen = nonblind.SparseDeconvSettings(iterations=200, reweightings=reweightings)
        x = nonblind.sparse_deconvolution(blurry, kernel, chosen, full=True)
        energies.append(float(nonblind.sparse_energy(x, blurry, kernel)))
    assert all(later < earlier for earlier, later in pairwise(energies))


def test_moving_the_kernel_moves_the_restoration_the_other_way() -> None:
    kernel = stroke(9)
    moved = core.shift(kernel, torch.tensor([[1, 0]]))
    _, blurry = _blurred(3, kernel, 48, 48)
    first = nonblind.sparse_deconvolution(blurry, kernel)
    second = nonblind.sparse_deconvolution(blurry, moved)
    torch.testing.assert_close(core.crop(second, 8), core.crop(first.roll(-1, -2), 8), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    "deconvolve",
    [nonblind.sparse_deconvolution, nonblind.fast_deconvolution, nonblind.total_variation],
)
def test_nonblind_steps_treat_both_directions_and_every_channel_alike(
    deconvolve: Callable[..., torch.Tensor],
) -> None:
    kernel = stroke()
    pictures = torch.stack([_blurred(seed, kernel, 36, 30)[1][0] for seed in range(3)])
    # Seventy steps of conjugate gradients are sensitive to rounding, hence not 1e-9.
    once = deconvolve(pictures, kernel)
    torch.testing.assert_close(deconvolve(pictures.mT, kernel.mT), once.mT, atol=1e-4, rtol=0)
    torch.testing.assert_close(deconvolve(pictures[None], kernel)[0], once, atol=1e-4, rtol=0)
    torch.testing.assert_close(deconvolve(pictures[1:2], kernel), once[1:2], atol=1e-4, rtol=0)


@given(st.floats(-4, 4), st.sampled_from([1.0, 8.0, 64.0]), st.sampled_from([0.5, 2 / 3, 0.8]))
@settings(max_examples=30, deadline=None)
def test_hyper_laplacian_shrinkage_finds_the_minimum(v: float, beta: float, exponent: float) -> None:
    w = float(nonblind.shrink_hyper_laplacian(torch.tensor(v, dtype=torch.float64), beta, exponent))
    candidates = np.linspace(-5, 5, 50001)
    cost = np.abs(candidates) ** exponent + beta / 2 * (candidates - v) ** 2
    assert abs(w) ** exponent + beta / 2 * (w - v) ** 2 <= cost.min() + 1e-3
    assert w * v >= 0


def test_hyper_laplacian_shrinkage_beyond_the_table() -> None:
    far = nonblind.shrink_hyper_laplacian(torch.tensor([-12.0, 12.0]).double(), 8.0, 0.5)
    assert far.tolist() == [-12.0, 12.0]


# Parts of the blind methods


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_nonnegative_quadratic_programme_is_solved_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    factor = rng.normal(size=(count + 5, count))
    target = rng.normal(size=count + 5)
    found = levin.minimise_nonnegative(factor.T @ factor, factor.T @ target, rng.random(count) > 0.5)
    expected, _ = nnls(factor, target)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_window_gram_is_the_sum_over_windows() -> None:
    x = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 3, 13, 11)))
    windows = x.unfold(2, 5, 1).unfold(3, 5, 1).reshape(2, -1, 25)
    torch.testing.assert_close(levin.window_gram(x, 5), windows.mT @ windows)


def test_expectation_solves_its_normal_equations() -> None:
    kernel = stroke(3)
    rng = np.random.default_rng(5)
    y = torch.from_numpy(rng.normal(scale=0.1, size=(1, 2, 3, 3)))
    mean, covariance = levin.expect(y, kernel, 0.1, rounds=1)
    operator = core.ValidConvolution(kernel.flip((-2, -1)), (5, 5))
    basis = torch.eye(25, dtype=torch.float64).view(25, 5, 5)
    matrix = operator.forward(basis).flatten(1).T
    precision = 0.30471011 * 7021.6804986 + 0.43436355 * 471.84142102 + 0.26092634 * 41.84820868
    system = matrix.T @ matrix + 0.01 * precision * torch.eye(25)
    expected = torch.linalg.solve(system, matrix.T @ y[0].flatten(1).T).T.view(2, 5, 5)
    torch.testing.assert_close(mean[0], expected, atol=1e-4, rtol=0)  # fifteen iterations
    diagonal = 1 / (precision + (matrix**2).sum(0).view(5, 5) / 0.01)
    torch.testing.assert_close(covariance[0, 0], diagonal)


def test_the_l0_step_keeps_a_piecewise_constant_picture() -> None:
    picture = _blocks(6, 40, 37)[None, None]
    point = core.delta_kernels(1, 3, picture)
    kept = pan.latent_pictures(picture, point, 0.0, 1e-6)
    torch.testing.assert_close(kept, picture, atol=1e-3, rtol=0)


def test_the_l0_step_does_not_depend_on_the_batch_where_weights_differ() -> None:
    kernel = stroke(5)
    pictures = torch.stack([_blurred(seed, kernel, 30, 27)[1] for seed in range(3)])
    kernels = kernel.expand(3, -1, -1)
    weights = torch.tensor([4e-3, 1e-3, 1.1e-3], dtype=torch.float64)
    together = pan.latent_pictures(pictures, kernels, weights, weights)
    for index in range(3):
        alone = pan.latent_pictures(pictures[index : index + 1], kernel, weights[index], weights[index])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-6, rtol=0)


def test_the_kernel_step_of_pan_finds_the_kernel_of_periodic_pictures() -> None:
    sharp = torch.from_numpy(np.random.default_rng(7).normal(size=(1, 2, 32, 30)))
    kernel = stroke()
    blurry = core.circular_convolve(sharp, kernel[:, None])
    found = pan.solve_kernels(sharp, blurry, 7, 1e-9)
    torch.testing.assert_close(found, kernel, atol=2e-3, rtol=0)


def test_the_kernel_step_of_krishnan_lowers_the_residual() -> None:
    kernel = stroke(5)
    sharp, _ = _blurred(8, kernel, 40, 40)
    x = core.derivatives(sharp)
    y = core.ValidConvolution(kernel[:, None], (x.shape[-2], x.shape[-1])).forward(x)
    padded = torch.nn.functional.pad(y, (2, 2, 2, 2))
    level = krishnan.Alternation(padded, 5, krishnan.KrishnanSettings())
    guess = core.project_kernels(torch.ones_like(kernel))
    errors = []
    for _ in range(30):
        otf = core.psf_to_otf(guess, level.fft)[:, None]
        spectrum = core.to_frequency(x, level.fft)
        residual = padded - level.same(spectrum * otf)
        errors.append(float(core.crop(residual, 2).square().sum()))
        guess = level.descend(guess, spectrum, residual)
    assert all(later < earlier for earlier, later in pairwise(errors[:10]))
    assert errors[-1] < 0.2 * errors[0]
    assert float((guess - kernel).norm()) < 0.6 * float((torch.full_like(kernel, 1 / 25) - kernel).norm())


# Blind methods


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimated_kernels_are_kernels_and_do_not_depend_on_the_batch(name: str) -> None:
    pictures = torch.cat([_blurred(seed, stroke(), 34, 30)[1] for seed in range(3)])
    pictures[2] *= 0.02  # nearly black: other thresholds, other numbers of rounds
    kernels = ESTIMATES[name](pictures, 7)
    assert kernels.shape == (3, 7, 7)
    assert (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    for index in range(3):
        alone = ESTIMATES[name](pictures[index : index + 1], 7)
        torch.testing.assert_close(alone, kernels[index : index + 1], atol=1e-5, rtol=0)


def test_levin_finds_the_kernel_of_a_natural_picture() -> None:
    kernel = stroke()
    sharp = torch.from_numpy(camera()[None, 100:186, 200:286] / 255)
    blurry = core.ValidConvolution(kernel, (86, 86)).forward(sharp)
    found = levin.estimate_kernels(blurry, 9)
    wide = torch.nn.functional.pad(kernel, (1, 1, 1, 1))
    spectra = [torch.fft.rfft2(k, s=(20, 20)) for k in (found, wide)]
    product = torch.fft.irfft2(spectra[0] * spectra[1].conj(), s=(20, 20))
    assert float(product.max() / (found.norm() * wide.norm())) > 0.85


@pytest.mark.parametrize("fails", [False, True])
def test_methods_compute_in_one_thread_and_give_the_others_back(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    restorer = create_restorer("krishnan", kernel_size=7)
    seen = []

    def estimate(pictures: torch.Tensor, kernels: None) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("no")
        return pictures, torch.full((len(pictures), 7, 7), 1 / 49).double()

    monkeypatch.setattr(restorer, "_estimate", estimate)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match="no") if fails else contextlib.nullcontext():
            restorer.restore(torch.rand(2, 3, 20, 16))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_krishnan_kernel_sizes_as_published() -> None:
    assert krishnan.kernel_sizes(19) == [3, 5, 9, 13, 19]
    assert krishnan.kernel_sizes(27) == [3, 5, 9, 13, 19, 27]
    assert krishnan.kernel_sizes(27, coarsest=5) == [5, 9, 13, 19, 27]
    assert krishnan.kernel_sizes(3) == [3]


# The authors' own outputs


def _picture(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")) / 255).permute(2, 0, 1)


def _case(reference: Path, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    kernels = np.load(reference / "inputs" / "kernels.npz")
    blurry = _picture(reference / "inputs" / f"blurry_{FACE}_k{number}.png")
    return blurry[None], torch.from_numpy(kernels[f"k{number}"])[None]


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "name", "options", "number"),
    [
        ("krishnan", "krishnan", {}, 1),
        ("krishnan", "krishnan", {}, 5),
        ("krishnan_kreg1", "krishnan", {"psi": 1.0}, 1),
        ("krishnan_later", "krishnan", {"psi": 1.0, "fidelity": 200.0, "coarsest": 5}, 5),
        ("pan", "pan", {}, 5),
        ("pan_ring1", "pan", {"ring_weight": 1.0}, 3),
        ("levin", "levin", {"colour": True}, 5),
    ],
)
def test_blind_restorers_meet_their_authors(
    reference: Path, folder: str, name: str, options: dict[str, Any], number: int
) -> None:
    blurry, true = _case(reference, number)
    restorer = create_restorer(name, kernel_size=true.shape[-1], **options)
    restored, kernel = restorer.restore(blurry.float(), return_kernel=True)
    theirs = np.load(reference / folder / f"kernel_{FACE}_k{number}.npy")
    assert np.abs(kernel[0].numpy() - theirs).max() < 1e-5 * theirs.max()  # float32 in and out
    picture = _picture(reference / folder / f"restored_{FACE}_k{number}.png")
    assert float((restored[0] - picture).abs().max()) < 1.51 / 255


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "name", "number", "largest"),
    [
        ("nonblind_deconvsps", "sparse-deconv", 1, 1),
        ("nonblind_deconvsps", "sparse-deconv", 5, 1),
        # Next to where the shrinkage switches to zero, a last digit moves isolated pixels.
        ("nonblind_fastdeconv", "fast-deconv", 1, 4),
        ("nonblind_fastdeconv", "fast-deconv", 5, 4),
    ],
)
def test_nonblind_restorers_meet_their_authors(
    reference: Path, folder: str, name: str, number: int, largest: int
) -> None:
    blurry, true = _case(reference, number)
    restored = create_restorer(name).restore(blurry.float(), kernels=true)
    theirs = _picture(reference / folder / f"restored_{FACE}_k{number}.png")
    difference = (restored[0] - theirs).abs() * 255
    assert float(difference.max()) < largest + 0.51
    assert float((difference > 0.51).double().mean()) < 1e-3


@pytest.mark.real
def test_every_level_of_krishnan_meets_the_trace(reference: Path) -> None:
    blurry, _ = _case(reference, 1)
    trace: list[krishnan.KrishnanLevel] = []
    krishnan.estimate_kernels(core.grey(blurry), 19, trace=trace)
    with np.load(reference / "trace" / f"krishnan_{FACE}_k1.npz") as file:
        assert len(trace) == sum(re.fullmatch(r"level\d+_kernel", name) is not None for name in file) > 0
        for level, state in enumerate(trace):
            theirs = file[f"level{level}_kernel"]
            np.testing.assert_allclose(state.kernels[0], theirs, atol=1e-9 * theirs.max())
            for axis in (0, 1):
                np.testing.assert_allclose(state.x[0, axis], file[f"level{level}_x{axis + 1}"], atol=1e-6)


@pytest.mark.real
def test_every_level_of_pan_meets_the_trace(reference: Path) -> None:
    blurry, _ = _case(reference, 1)
    trace: list[pan.PanLevel] = []
    pan.estimate_kernels(core.grey(blurry, eight_bit=True), 19, trace=trace)
    with np.load(reference / "trace" / f"pan_{FACE}_k1.npz") as file:
        assert len(trace) == sum(re.fullmatch(r"level\d+_kernel", name) is not None for name in file) > 0
        for level, state in enumerate(trace):
            theirs = file[f"level{level}_kernel"]
            np.testing.assert_allclose(state.kernels[0], theirs, atol=1e-6 * theirs.max())
            latent = state.latent[0].clamp(0, 1)
            np.testing.assert_allclose(latent, file[f"level{level}_latent"], atol=1e-6)
            weights = file["lambda_pixel_grad_threshold"][level, :2]
            np.testing.assert_allclose(state.weights[0, :2], weights, rtol=1e-12)


@pytest.mark.real
def test_every_iteration_of_levin_meets_the_trace(reference: Path) -> None:
    blurry, _ = _case(reference, 1)
    trace: list[levin.LevinLevel] = []
    levin.estimate_kernels(core.grey(blurry), 19, trace=trace)
    with np.load(reference / "trace" / f"levin_{FACE}_k1.npz") as file:
        assert len(trace) == sum(name.endswith("_kernels_per_iteration") for name in file) > 0
        for level, state in enumerate(trace):
            theirs = file[f"level{level}_kernels_per_iteration"]
            flipped = state.kernels[0].flip((-2, -1))
            np.testing.assert_allclose(flipped, theirs, atol=1e-6 * theirs.max())

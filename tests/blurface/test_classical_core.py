"""The blocks that the classical methods share, against closed forms and independent libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.signal import convolve2d
from skimage.color import rgb2ycbcr

from blurface.errors import InputError
from blurface.restorers.classical import core

seeds = st.integers(0, 2**32 - 1)


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def _kernels(seed: int, count: int, size: int) -> torch.Tensor:
    kernels = _random(seed, count, size, size) ** 4
    return kernels / kernels.sum((1, 2), keepdim=True)


# Colour and derivatives


def test_grey_weights_and_rounding() -> None:
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64).T[:, None]
    assert core.grey(rgb)[0].tolist() == [0.298936, 0.587043, 0.114021]
    assert (core.grey(rgb, eight_bit=True)[0] * 255).tolist() == [76, 150, 29]


def test_ycbcr_against_skimage_and_back() -> None:
    rgb = _random(1, 2, 3, 5, 7)
    ours = core.rgb_to_ycbcr(rgb)
    theirs = np.stack([rgb2ycbcr(p.permute(1, 2, 0).numpy()) for p in rgb]) / 255
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), theirs, atol=1e-12)
    torch.testing.assert_close(core.ycbcr_to_rgb(ours), rgb, atol=1e-12, rtol=0)


def test_derivatives_are_the_published_filters() -> None:
    u = _random(2, 6, 5)
    across, down = core.derivatives(u)
    np.testing.assert_allclose(across, convolve2d(u, [[-1, 1], [0, 0]], "valid"), atol=1e-15)
    np.testing.assert_allclose(down, convolve2d(u, [[-1, 0], [1, 0]], "valid"), atol=1e-15)


# Resizing


@pytest.mark.parametrize(("method", "filter_"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
@pytest.mark.parametrize("size", [(20, 17), (55, 61)])
def test_resize_agrees_with_pillow_off_the_border(
    method: core.Interpolation, filter_: Image.Resampling, size: tuple[int, int]
) -> None:
    picture = _random(3, 40, 36)
    ours = core.resize(picture, size=size, method=method).numpy()
    image = Image.fromarray(picture.numpy().astype(np.float32))
    theirs = np.asarray(image.resize(size[::-1], filter_), dtype=np.float64)
    np.testing.assert_allclose(ours[5:-5, 5:-5], theirs[5:-5, 5:-5], atol=1e-6)


@given(seeds, st.sampled_from([0.4, 0.71, 1.0, 1.5, math.sqrt(2)]))
@settings(max_examples=20, deadline=None)
def test_resize_keeps_constants_and_rounds_up(seed: int, scale: float) -> None:
    height, width = np.random.default_rng(seed).integers(5, 30, 2)
    resized = core.resize(torch.full((height, width), 0.3, dtype=torch.float64), scale=scale)
    assert resized.shape == (math.ceil(height * scale), math.ceil(width * scale))
    torch.testing.assert_close(resized, torch.full_like(resized, 0.3))


def test_resize_needs_a_size() -> None:
    with pytest.raises(InputError, match="how to resize"):
        core.resize(_random(0, 4, 4))


def test_pyramid_sizes_as_published() -> None:
    assert [size for size, _ in core.pyramid_sizes(19)] == [7, 11, 15, 19]
    assert [size for size, _ in core.pyramid_sizes(27)] == [7, 11, 15, 21, 27]
    assert core.pyramid_sizes(3) == [(3, 1.0)]


def test_pyramid_step_sizes_and_gain() -> None:
    picture = torch.ones((112, 96), dtype=torch.float64)
    shapes = [tuple(core.pyramid_step(picture, ratio).shape) for _, ratio in core.pyramid_sizes(19)]
    assert shapes == [(38, 33), (54, 46), (78, 66), (112, 96)]
    # At 1/2 the filter is a unit Gaussian without its tails beyond 2 pixels, not renormalised.
    taps = np.exp(-0.5 * np.arange(-50, 51) ** 2)
    gain = taps[48:53].sum() / taps.sum()
    low = core.pyramid_step(picture, 0.5)
    torch.testing.assert_close(low, torch.full_like(low, gain**2))


# Frequency


@pytest.mark.parametrize("shape", [(12, 15), (13, 12)])
def test_transfer_function_and_back(shape: tuple[int, int]) -> None:
    kernels = _kernels(4, 3, 5)
    torch.testing.assert_close(core.otf_to_psf(core.psf_to_otf(kernels, shape), 5, shape), kernels)
    picture = _random(5, 3, *shape)
    ours = core.circular_convolve(picture, kernels)
    for got, image, kernel in zip(ours, picture, kernels, strict=True):
        np.testing.assert_allclose(
            got, ndimage.convolve(image.numpy(), kernel.numpy(), mode="wrap"), atol=1e-12
        )


def test_circular_convolution_is_shift_equivariant() -> None:
    picture, kernels = _random(6, 1, 11, 14), _kernels(7, 1, 5)
    moved = core.circular_convolve(picture.roll((3, -2), (-2, -1)), kernels)
    torch.testing.assert_close(moved, core.circular_convolve(picture, kernels).roll((3, -2), (-2, -1)))


def test_difference_power_is_that_of_the_filters() -> None:
    picture = _random(8, 9, 12)
    energy = sum((picture.roll(-1, dim) - picture).square().sum() for dim in (0, 1))
    spectrum = torch.fft.fft2(picture).abs() ** 2
    full = torch.fft.fft2(torch.zeros(9, 12, dtype=torch.float64)).abs()
    half = core.difference_power((9, 12), picture)
    full[:, :7] = half
    full[:, 7:] = half[:, 1:6].flip(1)
    torch.testing.assert_close((spectrum * full).sum() / picture.numel(), energy)


@given(seeds, st.sampled_from([1, 3, 7]))
@settings(max_examples=15, deadline=None)
def test_valid_convolution_and_its_adjoint(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(size, 25, 2)
    x, kernels = _random(seed, 2, height, width), _kernels(seed, 2, size)
    y = _random(seed + 1, 2, height - size + 1, width - size + 1)
    operator = core.ValidConvolution(kernels, (int(height), int(width)))
    for got, image, kernel in zip(operator.forward(x), x, kernels, strict=True):
        np.testing.assert_allclose(got, convolve2d(image, kernel, "valid"), atol=1e-12)
    torch.testing.assert_close(core.inner(operator.forward(x), y), core.inner(x, operator.adjoint(y)))
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)))


def test_valid_convolution_refuses_a_kernel_larger_than_the_picture() -> None:
    with pytest.raises(InputError, match="does not fit"):
        core.ValidConvolution(_kernels(0, 1, 9), (8, 20))


# Borders


def test_pad_edge_and_crop() -> None:
    picture = _random(9, 2, 4, 5)
    padded = core.pad_edge(picture, 3)
    np.testing.assert_array_equal(padded, np.pad(picture, ((0, 0), (3, 3), (3, 3)), mode="edge"))
    assert torch.equal(core.crop(padded, 3), picture)


def test_edgetaper_joins_the_borders_and_spares_the_inside() -> None:
    ramp = torch.linspace(0, 1, 40, dtype=torch.float64).expand(1, 36, 40).contiguous()
    kernel = torch.full((1, 7, 7), 1 / 49, dtype=torch.float64)
    tapered = core.edgetaper(ramp, kernel)
    assert (tapered[..., 0] - tapered[..., -1]).abs().max() < 0.35 * (ramp[0, 0, -1] - ramp[0, 0, 0])
    torch.testing.assert_close(tapered[..., 8:-8, 8:-8], ramp[..., 8:-8, 8:-8])
    assert tapered.min() >= 0
    assert tapered.max() <= 1
    flat = torch.full((1, 20, 20), 0.4, dtype=torch.float64)
    torch.testing.assert_close(core.edgetaper(flat, kernel), flat)


@pytest.mark.parametrize(("length", "expected"), [(130, 130), (114, 117), (97, 98), (121, 121 + 4), (22, 22)])
def test_smooth_length(length: int, expected: int) -> None:
    assert core.smooth_length(length) == expected


def test_smooth_length_has_an_end() -> None:
    with pytest.raises(InputError, match="too long"):
        core.smooth_length(9000)


def test_circular_padding_is_harmonic_beside_the_picture() -> None:
    picture = _random(10, 2, 20, 17)
    padded = core.pad_circular(picture, (30, 26))
    assert torch.equal(padded[:, :20, :17], picture)
    # To the right of the picture every pixel is the mean of its neighbours.
    inside = padded[:, 1:19, 17:25]
    around = padded[:, :18, 17:25] + padded[:, 2:20, 17:25] + padded[:, 1:19, 16:24] + padded[:, 1:19, 18:26]
    torch.testing.assert_close(inside, around / 4)
    flat = torch.full((1, 12, 9), 0.7, dtype=torch.float64)
    torch.testing.assert_close(core.pad_circular(flat, (18, 18)), torch.full((1, 18, 18), 0.7).double())
    assert torch.equal(core.pad_circular(picture, (20, 17)), picture)


# Kernels


@given(seeds, st.sampled_from([0.0, 0.05, 0.5]))
@settings(max_examples=25, deadline=None)
def test_projected_kernels_are_kernels(seed: int, threshold: float) -> None:
    raw = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 5, 5)))
    projected = core.project_kernels(raw, threshold)
    assert (projected >= 0).all()
    torch.testing.assert_close(projected.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(core.project_kernels(projected, threshold), projected)


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf])
def test_a_kernel_without_mass_becomes_a_point(value: float) -> None:
    projected = core.project_kernels(torch.full((1, 3, 3), value, dtype=torch.float64))
    assert torch.equal(projected, core.delta_kernels(1, 3, projected))


def test_small_components_go_each_kernel_by_itself() -> None:
    kernels = torch.zeros((2, 5, 5), dtype=torch.float64)
    kernels[0, 0, 0], kernels[0, 1, 1], kernels[0, 4, 4] = 0.05, 0.9, 0.05  # the first touches diagonally
    kernels[1, 0, 0], kernels[1, 4, 4] = 0.5, 0.5
    cleaned = core.remove_small_components(kernels)
    assert cleaned[0].nonzero().tolist() == [[0, 0], [1, 1]]
    assert torch.equal(cleaned[1], kernels[1])


def test_centring_moves_the_mass_to_the_middle() -> None:
    kernels = torch.zeros((2, 7, 7), dtype=torch.float64)
    kernels[0, 1, 5] = 1
    kernels[1, 3, 2:4] = 0.5  # half a pixel off: rounded away from zero
    moves = core.centre_shifts(kernels)
    assert moves.tolist() == [[2, -2], [0, 1]]
    moved = core.shift(kernels, moves)
    assert moved[0, 3, 3] == 1
    assert moved[1, 3, 3:5].tolist() == [0.5, 0.5]


def test_shift_brings_in_zeros() -> None:
    pictures = torch.ones((2, 2, 4, 5))
    moved = core.shift(pictures, torch.tensor([[1, -2], [9, 0]]))
    assert moved[0, 0, 0].sum() == 0
    assert moved[0, 1, 1:].tolist() == [[1, 1, 1, 0, 0]] * 3
    assert moved[1].sum() == 0


@pytest.mark.parametrize("size", [5, 7, 9, 11])
def test_resized_kernels_are_kernels_of_the_size(size: int) -> None:
    resized = core.resize_kernels(_kernels(11, 3, 7), math.sqrt(2), size)
    assert resized.shape == (3, size, size)
    assert (resized >= 0).all()
    torch.testing.assert_close(resized.sum((1, 2)), torch.ones(3, dtype=torch.float64))


# Edges


def test_edge_threshold_leaves_enough_in_every_direction() -> None:
    gradient = torch.from_numpy(np.random.default_rng(12).normal(scale=0.2, size=(2, 2, 60, 50)))
    threshold = core.edge_threshold(gradient, 5)
    squared = (gradient**2).sum(1)
    angle = torch.atan(gradient[:, 1] / gradient[:, 0])
    for index in range(2):
        counts = [
            int(
                (
                    (squared[index] >= threshold[index] + margin)
                    & (squared[index] <= 2)
                    & (angle[index] >= quarter * math.pi / 4)
                    & (angle[index] < (quarter + 1) * math.pi / 4)
                ).sum()
            )
            for margin in (0.0, 6e-5)
            for quarter in range(-2, 2)
        ]
        assert min(counts[:4]) >= 100
        assert min(counts[4:]) < 100
    assert core.edge_threshold(torch.zeros_like(gradient), 5).tolist() == [0, 0]


def test_selected_edges_reach_the_threshold() -> None:
    gradient = _random(13, 2, 2, 6, 6)
    gradient[1] *= 1e-3
    kept, threshold = core.select_edges(gradient, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert ((kept**2).sum(1)[0].unique()[1:] >= 0.5).all()
    assert threshold[0] == pytest.approx(0.5 / 1.1)
    assert (kept[1] != 0).any()
    assert threshold[1] < 2e-6
    flat, _ = core.select_edges(torch.zeros_like(gradient), threshold)
    assert flat.abs().max() == 0


# Conjugate gradients


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_conjugate_gradients_solve_each_system_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(3, 6, 6))
    matrices = torch.from_numpy(factors @ factors.transpose(0, 2, 1) + np.eye(6))
    right = torch.from_numpy(rng.normal(size=(3, 2, 3)))
    right[1] = 0

    def apply(m: torch.Tensor) -> object:
        return lambda x: (m @ x.flatten(1)[..., None])[..., 0].view_as(x)

    start = torch.zeros_like(right)
    solved = core.conjugate_gradients(apply(matrices), right, start, 60, 1e-24)  # type: ignore[arg-type]
    exact = np.linalg.solve(matrices.numpy(), right.flatten(1).numpy()[..., None])[..., 0]
    np.testing.assert_allclose(solved.flatten(1), exact, atol=1e-9)
    one = core.conjugate_gradients(apply(matrices[:1]), right[:1], start[:1], 3)  # type: ignore[arg-type]
    all_ = core.conjugate_gradients(apply(matrices), right, start, 3)  # type: ignore[arg-type]
    torch.testing.assert_close(one, all_[:1])

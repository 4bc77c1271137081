"""Networks: the paper's numbers, any size, two forms of the transform, weights on disk."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from blurface.errors import UnknownNameError, WeightsError
from blurface.kernels.convolve import blur
from blurface.kernels.gaussian_process import sample_kernels
from blurface.networks import build_network, deepdeblur, packed
from blurface.networks.deepdeblur import DeepDeblurNet, Inception, SameConv
from blurface.networks.fast import (
    WINDOW,
    FastNet,
    _continue,
    _Grid,
    _Problem,
    centre_of_mass,
    grow_state,
)
from blurface.networks.fourier import (
    FastTransforms,
    MatrixTransforms,
    Spectrum,
    Transforms,
    phase_ramp,
    phase_tables,
)
from blurface.restorers import create_restorer
from blurface.restorers.network import NetworkRestorer
from blurface.weights import FOLDER, list_models, load_model, model_path, save_model


def count(network: torch.nn.Module) -> tuple[int, float]:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, 3, 112, 96))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 1e9


def test_paper_s_network_has_the_paper_s_size() -> None:
    parameters, gflop = count(DeepDeblurNet().eval())
    assert round(parameters / 1e6, 2) == 1.84
    assert round(gflop, 1) == 39.5


def test_inception_module_by_hand() -> None:
    # 1x1 branch, four reduced ones and the merge; biases included
    module = Inception(64)
    branches = 64 * 32 + 32 + sum(64 * 32 + 32 + s * s * 32 * 32 + 32 for s in (3, 5, 7, 14))
    assert sum(p.numel() for p in module.parameters()) == branches + 160 * 64 + 64
    x = torch.rand(1, 64, 9, 8)
    assert module(x).shape == x.shape
    assert [r.shape[1] for r in module.responses(x)] == [32] * 5
    without = sum(p.numel() for p in DeepDeblurNet(reduction=False).parameters())
    assert without / sum(p.numel() for p in DeepDeblurNet().parameters()) == pytest.approx(1.904, abs=0.01)


@pytest.mark.parametrize("reduction", [True, False])
def test_near_identity_copies_and_learns(reduction: bool) -> None:
    torch.manual_seed(0)
    network = DeepDeblurNet(channels=16, reduction=reduction, near_identity=True)
    face = torch.rand(2, 3, 40, 32)
    restored = network(face)
    assert float((restored - face).detach().abs().max()) < 0.02
    restored.square().mean().backward()
    gradients = [float(p.grad.abs().max()) for p in network.parameters() if p.grad is not None]
    assert len(gradients) == len(list(network.parameters()))
    assert min(gradients) > 0


@pytest.mark.parametrize(("name", "limit"), [("fast", 3.0), ("plain", 1.05)])
def test_budgets(name: str, limit: float) -> None:
    _, gflop = count(build_network(name).eval())
    assert gflop <= limit


@pytest.mark.parametrize("name", ["fast", "plain", "deepdeblur"])
@pytest.mark.parametrize("size", [(112, 96), (112, 112), (1, 1), (50, 37)])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    options = {"channels": 8, "modules": 1} if name == "deepdeblur" else {"width": 8, "deep": 16}
    network = build_network(name, **options).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_unknown_network() -> None:
    with pytest.raises(UnknownNameError, match="fast"):
        build_network("slow")


@pytest.mark.parametrize("kind", [FastTransforms, MatrixTransforms])
def test_transforms_invert(kind: type[Transforms]) -> None:
    image = torch.rand(2, 3, 30, 40, dtype=torch.float32)
    size = (48, 64)
    transforms = kind(size, image.device, {"picture": (30, 40), "whole": size})
    spectrum = transforms.forward(image, "picture")
    order = transforms.rows()
    assert sorted(order.tolist()) == list(range(48))
    exact = torch.fft.rfft2(image.double(), s=size)[..., order, :]
    torch.testing.assert_close(spectrum.real.double(), exact.real, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(spectrum.imag.double(), exact.imag, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(transforms.inverse(spectrum, "picture"), image, atol=1e-5, rtol=0)
    padded = functional.pad(image, (0, 24, 0, 18))
    torch.testing.assert_close(transforms.inverse(spectrum, "whole"), padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [FastTransforms, MatrixTransforms])
def test_shift_is_a_roll(kind: type[Transforms]) -> None:
    image = torch.rand(1, 1, 16, 16)
    transforms = kind((16, 16), image.device, {"whole": (16, 16)})
    moved = phase_ramp(transforms, phase_tables(transforms, 5)).times(transforms.forward(image, "whole"))
    back = transforms.inverse(moved, "whole")
    torch.testing.assert_close(back, image.roll((-5, -5), (2, 3)), atol=1e-5, rtol=0)
    assert isinstance(moved, Spectrum)


@pytest.mark.parametrize("kind", [FastTransforms, MatrixTransforms])
def test_a_phase_ramp_moves_by_parts_of_a_pixel(kind: type[Transforms]) -> None:
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")

    def wave(down: float, right: float) -> Tensor:
        turn = 2 * math.pi * (3 * (rows - down) / 24 + 5 * (columns - right) / 32)
        return turn.cos() + 0.5 * (2 * math.pi * 7 * (rows - down) / 24).sin()

    images = torch.stack([wave(0, 0), wave(0, 0)])[:, None]
    by = torch.tensor([[1.25, -0.5], [-3.0, 2.0]])
    transforms = kind((24, 32), images.device, {"whole": (24, 32)})
    spectrum = transforms.forward(images, "whole")
    expected = torch.stack([wave(-1.25, 0.5), wave(3.0, -2.0)])[:, None]
    for shift in (0, 5):
        moved = spectrum.times(phase_ramp(transforms, phase_tables(transforms, shift), by))
        back = transforms.inverse(moved, "whole")
        torch.testing.assert_close(back.roll((shift, shift), (2, 3)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [FastTransforms, MatrixTransforms])
def test_spectra_are_complex_numbers(kind: type[Transforms]) -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    transforms = kind((8, 8), first.device, {"whole": (8, 8)})
    a, b = (transforms.forward(image, "whole") for image in (first, second))
    order = transforms.rows()
    exact, other = (torch.fft.rfft2(image)[..., order, :] for image in (first, second))
    factor = torch.rand(2, 1, 8, 5)
    head, rest = a.each(lambda part: part[:, :1]), a.each(lambda part: part[:, 1:])
    for ours, theirs in (
        (a.times(b), exact * other),
        (a.conj_times(b), exact.conj() * other),
        (a.scaled(factor), exact * factor),
        (a.conj(), exact.conj()),
        (a.each(lambda part: part.sum(1, keepdim=True)), exact.sum(1, keepdim=True)),
        (rest.joined(head, b), torch.cat([exact[:, 1:], exact[:, :1], other], 1)),
    ):
        torch.testing.assert_close(ours.real, theirs.real, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(ours.imag, theirs.imag, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(a.power(), exact.abs().square(), atol=1e-3, rtol=1e-4)


def faces_like(count: int, height: int = 112, width: int = 96) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 3, height, width, generator=rng)
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1, 4, count_include_pad=False)
    return ((smooth - 0.5) * 4 + 0.5).clamp(0, 1)


def draw_convolutions(network: torch.nn.Module, std: float) -> None:
    """Weights that let every part have its say: the last of a block are zero at first."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=std)


def test_closed_form_steps_know_the_truth() -> None:
    """With sharp edges the quotient is the kernel; with the kernel the Wiener image is the face."""
    face = faces_like(1, 112 + 44, 96 + 44)
    psf = torch.from_numpy(sample_kernels(1, np.random.default_rng(3), valid_size=(12, 12), size=45))
    blurry = blur(face, psf, margin=22)
    sharp = face[..., 22:-22, 22:-22]
    kernel = psf[:, None, :WINDOW, :WINDOW]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    problem = _Problem(blurry - 0.5, luma, matrix=False)
    # mask one (a large logit), no extra edges
    edges = torch.zeros(1, 3, 112, 96)
    edges[:, 0] = 20
    quotient = problem.kernel_maps(sharp, edges, torch.tensor([-6.0, 0.0]))[:, 0]
    similarity = torch.nn.functional.cosine_similarity(quotient.flatten(), kernel.flatten(), dim=0)
    assert similarity > 0.9
    restored, turned = problem.deconvolve(kernel, torch.tensor([[[-9.0, -9.0], [-3.0, -6.0]]]), None)
    restored, turned = restored + 0.5, turned + 0.5

    def inner_psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
        error = (image - truth)[..., 24:-24, 24:-24].square().mean()
        return -10 * math.log10(float(error))

    gain = inner_psnr(restored[:, :3], sharp) - inner_psnr(blurry, sharp)
    assert gain > 6
    # the turned kernel gives another picture
    grey = (sharp * luma).sum(1, keepdim=True)
    assert inner_psnr(turned, grey) < inner_psnr(restored[:, :3], sharp) - 3


@pytest.mark.parametrize("matrix", [False, True])
def test_a_picture_is_continued_by_its_blurred_estimate(matrix: bool) -> None:
    """Where the estimate is the truth, out to the joined borders, nothing is left to guess.

    The spectrum is then that of the circular blur, and deconvolution gives the face back to its edge.
    """
    face = faces_like(1, 112, 96)
    psf = torch.from_numpy(sample_kernels(1, np.random.default_rng(3), valid_size=(12, 12), size=45))
    kernel = psf[:, None, :WINDOW, :WINDOW]
    size = (144, 128)
    whole = _continue(face, _Grid.of((112, 96), size, face.device, matrix=False).ramps)
    placed = torch.zeros(1, 1, *size)
    placed[..., :WINDOW, :WINDOW] = kernel
    placed = placed.roll((-(WINDOW // 2), -(WINDOW // 2)), (2, 3))
    circular = torch.fft.irfft2(torch.fft.rfft2(whole) * torch.fft.rfft2(placed), s=size)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    problem = _Problem(circular[..., :112, :96] - 0.5, luma, matrix=matrix)
    regularisers = torch.tensor([[[-12.0, -12.0], [-12.0, -12.0]]])

    def psnr(estimate: torch.Tensor | None) -> float:
        restored, _ = problem.deconvolve(kernel, regularisers, None, estimate)
        return -10 * math.log10(float((restored[:, :3] + 0.5 - face).square().mean()))

    assert psnr(face - 0.5) > 40
    assert psnr(face - 0.5) > psnr(None) + 15


@pytest.mark.parametrize("centring", [0.0, 0.6])
@pytest.mark.parametrize("reblurred", [0, 1])
def test_fast_kernels_are_kernels_and_forms_agree(centring: float, reblurred: int) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"centring": centring, "reblurred": reblurred}
    network = FastNet(width=16, deep=24, kernel_width=8, kernel_deep=8, **options).eval()
    draw_convolutions(network, std=0.05)
    x = faces_like(2, 60, 52)
    with torch.no_grad():
        restored, kernel = network(x, return_kernel=True)
        assert kernel.shape == (2, 43, 43)
        assert kernel.min() >= 0
        torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(2))
        network.matrix_fourier = True
        torch.testing.assert_close(network(x), restored, atol=1e-3, rtol=0)
        # faces of a batch do not see each other
        network.matrix_fourier = False
        torch.testing.assert_close(network(x[:1]), restored[:1], atol=1e-5, rtol=0)


def test_stages_start_from_shared_weights_and_then_differ() -> None:
    torch.manual_seed(0)
    sizes = {"width": 8, "deep": 8, "kernel_width": 8, "kernel_deep": 8, "loops": 4}
    shared, own = FastNet(**sizes).eval(), FastNet(**sizes, stages=3).eval()
    draw_convolutions(shared, std=0.1)
    own.load_state_dict(grow_state(shared.state_dict(), own))
    x = faces_like(1, 48, 40)
    with torch.no_grad():
        before, after = shared.estimate(x), own.estimate(x)
        for one, other in zip(before.images, after.images, strict=True):
            torch.testing.assert_close(one, other)
        # The third stage serves the third loop and the one beyond.
        own.later[1].kernel.head.bias[0] += 1
        changed = own.estimate(x)
    same = [torch.equal(one, other) for one, other in zip(after.logits, changed.logits)]
    assert same == [True, True, False, False]
    state = own.state_dict()
    assert all(value is state[key] for key, value in grow_state(state, own).items())
    again = FastNet(**sizes, stages=3)
    again.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    for wrong in (2, 4):  # nothing is filled in silently
        with pytest.raises(RuntimeError, match=r"later\.[12]"):
            FastNet(**sizes, stages=wrong).load_state_dict(state)


@pytest.mark.parametrize("size", [(112, 96), (37, 50)])
def test_settled_pictures_save_the_loops_and_change_no_other(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = FastNet(loops=2, stages=2, centring=1.0, reblurred=1).eval()
    draw_convolutions(network, 0.05)
    x = faces_like(4, *size).requires_grad_()
    whole, kernels = network(x, return_kernel=True)
    seen: list[Tensor] = []

    def settled(first: Tensor) -> Tensor:
        seen.append(first)
        return torch.tensor([True, False, True, False])

    restored, found = network(x, True, settled)
    torch.testing.assert_close(restored[1::2], whole[1::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1::2], kernels[1::2], atol=1e-5, rtol=0)
    assert torch.equal(restored[::2], x[::2])
    assert torch.equal(found[::2], seen[0][::2])
    torch.testing.assert_close(seen[0].sum((1, 2)), torch.ones(4))
    assert not torch.allclose(seen[0][1], kernels[1], atol=1e-3)
    gradient = torch.autograd.grad(restored[::2].sum(), x)[0]
    assert torch.equal(gradient[::2], torch.ones_like(x[::2]))
    assert gradient[1::2].abs().max() == 0
    torch.testing.assert_close(network(x, False, settled), restored)
    for every, expected in ((True, x), (False, whole)):
        alike = torch.full((4,), every)
        torch.testing.assert_close(network(x, False, lambda _, alike=alike: alike), expected)


def test_added_kernel_blocks_change_nothing_at_first_and_learn() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 8, "deep": 8, "kernel_width": 8, "kernel_deep": 8}
    small = FastNet(**sizes).eval()
    draw_convolutions(small, std=0.1)
    large = FastNet(**sizes, kernel_blocks=(2, 3, 2), stages=2).eval()
    with pytest.raises(RuntimeError, match=r"kernel\.net\.before\.1"):  # nothing is filled in silently
        large.load_state_dict(small.state_dict())
    large.load_state_dict(grow_state(small.state_dict(), large))
    x = faces_like(1, 48, 40)
    restored = large(x)
    torch.testing.assert_close(restored, small(x))
    restored.square().sum().backward()
    for block in ("kernel.net.before.1", "later.0.kernel.net.below.2"):
        weight = large.get_submodule(block).get_parameter("second.weight")
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0


def test_the_borders_of_the_last_stages_alone_are_reblurred() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "width": 8,
        "deep": 8,
        "kernel_width": 8,
        "kernel_deep": 8,
        "loops": 4,
        "stages": 3,
    }
    plain = FastNet(**sizes).eval()
    draw_convolutions(plain, std=0.1)
    x = faces_like(1, 48, 40)
    with torch.no_grad():
        ramps = plain.estimate(x).deconvolved
        for count, first in ((1, 2), (2, 1), (3, 0)):
            network = FastNet(**sizes, reblurred=count).eval()
            network.load_state_dict(plain.state_dict())
            changed = [
                not torch.equal(one, other)
                for one, other in zip(ramps, network.estimate(x).deconvolved, strict=True)
            ]
            assert changed == [index >= first for index in range(4)]


def test_an_estimated_kernel_is_moved_towards_the_middle_and_a_true_one_is_not() -> None:
    torch.manual_seed(0)
    network = FastNet(width=8, deep=8, kernel_width=8, kernel_deep=8, loops=1).eval()
    torch.nn.init.normal_(network.kernel.head.weight, std=0.5)
    x = faces_like(2, 48, 40)
    with torch.no_grad():
        raw = network.estimate(x).kernels[-1]
        off = centre_of_mass(raw)
        assert off.abs().max() > 0.1
        alone = network.estimate(x).images[-1]
        network.centring = 0.5
        kernel = network(x, return_kernel=True)[1]
        # The window that is handed out lacks the first row and column: what they hold is little.
        places = torch.arange(-21.0, 22)
        found = torch.stack([(kernel.sum(2) * places).sum(1), (kernel.sum(1) * places).sum(1)], 1)
        torch.testing.assert_close(found, 0.5 * off, atol=0.3, rtol=0)
        assert not torch.equal(network.estimate(x).images[-1], alone)
        # In the Wiener layer the move is exact: that of a kernel that was moved by whole pixels undoes it.
        problem = _Problem(x - 0.5, network.luma, False)
        regularisers = network.wiener[None].expand(2, -1, -1)
        plain, _ = problem.deconvolve(raw, regularisers, None)
        moved = functional.pad(raw, (2, 0, 3, 0))[..., :WINDOW, :WINDOW]
        back, _ = problem.deconvolve(moved, regularisers, torch.tensor([[3.0, 2.0]]).expand(2, -1))
        assert (back - plain).abs().mean() < 0.02 * plain.abs().mean()
        # A true kernel stays where it is, a blend moves by the estimate's share.
        blend = torch.ones(2, 1, 1, 1)
        forced = network.estimate(x, kernel=moved, blend=blend).deconvolved[-1]
        network.centring = 0.0
        torch.testing.assert_close(network.estimate(x, kernel=moved, blend=blend).deconvolved[-1], forced)


def test_teacher_forcing_uses_the_true_kernel() -> None:
    network = FastNet(width=8, deep=8, kernel_width=8, kernel_deep=8, loops=1).eval()
    x = faces_like(1)
    delta = torch.zeros(1, 1, WINDOW, WINDOW)
    delta[..., WINDOW // 2, WINDOW // 2] = 1
    with torch.no_grad():
        estimate = network.estimate(x, kernel=delta, blend=torch.ones(1, 1, 1, 1))
    # a delta kernel and small regularisers: the deconvolved face is the face
    error = (estimate.deconvolved[-1][:, :3] - x).abs().mean()
    assert error < 0.01


def test_weights_round_trip_and_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = FastNet(width=8, deep=8, kernel_width=8, kernel_deep=8)
    path = tmp_path / "small.safetensors"
    options = {"width": 8, "deep": 8, "kernel_width": 8, "kernel_deep": 8}
    save_model(path, network.state_dict(), "fast", options, {"steps": 3})
    loaded, note = load_model(path)
    assert note == {"steps": 3}
    assert not loaded.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value)

    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match=r"small\.safetensors"):
        load_model(path)
    save_model(path, network.state_dict(), "fast", {"width": 16}, {})
    with pytest.raises(WeightsError, match="does not fit"):
        load_model(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    with pytest.raises(WeightsError, match="no safetensors"):
        load_model(tmp_path / "pickle.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        load_model(tmp_path / "missing.safetensors")
    with pytest.raises(UnknownNameError, match="blurface train"):
        load_model("nonesuch")
    monkeypatch.setattr("blurface.weights.FORMAT", "2")
    save_model(path, network.state_dict(), "fast", options, {})
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"format '2'; this blurface reads '1'\. Update"):
        load_model(path)


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(("height", "width"), [(112, 96), (32, 33), (41, 70)])
def test_convolution_in_tiles_is_the_convolution(size: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = SameConv(5, 6, size).eval()
    x = torch.randn(2, 5, height, width)
    with torch.no_grad():
        expected = layer.double()(x.double()).float()
        layer.float().prepare()
        assert layer.tiled is not None
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
        small = layer(x[..., :20, :20])  # directly: no tile is filled
    assert small.shape == (2, 6, 20, 20)
    assert layer(x.requires_grad_()).requires_grad
    layer.train()
    assert layer.tiled is None


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 17), (17, 16)])
@pytest.mark.parametrize(("height", "width"), [(56, 48), (32, 33)])
def test_gradients_of_training_in_tiles_are_the_convolution_s(
    size: int, inputs: int, outputs: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, exact = SameConv(inputs, outputs, size), SameConv(inputs, outputs, size).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(3, inputs, height, width, requires_grad=True)
    y = x.detach().double().requires_grad_()
    weight = torch.randn(3, outputs, height, width)
    in_tiles = []
    real = deepdeblur.tiled_convolution
    monkeypatch.setattr(
        deepdeblur, "tiled_convolution", lambda *given: in_tiles.append(given) or real(*given)
    )
    (layer(x) * weight).sum().backward()
    assert len(in_tiles) == 1
    (exact(y) * weight).sum().backward()
    assert len(in_tiles) == 1  # not in float64
    for found, expected in zip((x, *layer.parameters()), (y, *exact.parameters())):
        scale = float(expected.grad.abs().max())  # type: ignore[union-attr]
        torch.testing.assert_close(found.grad.double(), expected.grad, atol=1e-6 * scale, rtol=0)  # type: ignore[union-attr]


def relative(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the error, as a share of what was expected."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("size", [7, 14])
def test_tiles_in_bfloat16_are_as_near_as_direct_sums(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, exact = SameConv(32, 17, size).eval(), SameConv(32, 17, size).eval().double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(2, 32, 56, 48)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        directly = layer(x)
        layer.prepare(torch.bfloat16)
        tiled = layer(x)
    with torch.no_grad():
        expected = exact(x.double())
        torch.testing.assert_close(
            layer(x), expected.float(), atol=1e-5, rtol=0
        )  # outside: float32, directly
    assert tiled.dtype == directly.dtype == torch.bfloat16
    assert 0 < relative(tiled, expected) < 2.5 * relative(directly, expected) < 0.02

    in_tiles = []
    real = deepdeblur.tiled_convolution
    monkeypatch.setattr(
        deepdeblur, "tiled_convolution", lambda *given: in_tiles.append(given) or real(*given)
    )
    layer.train()
    y = x.double().requires_grad_()
    x.requires_grad_()
    weight = torch.randn(2, 17, 56, 48).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (layer(x).float() * weight).sum().backward()
    assert len(in_tiles) == 1
    (exact(y) * weight).sum().backward()
    for found, wanted in zip((x, *layer.parameters()), (y, *exact.parameters())):
        assert found.grad is not None
        assert wanted.grad is not None
        assert found.grad.dtype == torch.float32
        assert relative(found.grad, wanted.grad) < 0.02


def test_float16_and_evaluation_take_gradients_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepdeblur, "tiled_convolution", lambda *given: pytest.fail("tiles"))
    layer = SameConv(2, 2, 14)
    with torch.autocast("cpu", dtype=torch.float16):
        layer(torch.randn(1, 2, 40, 40))
    layer.eval()
    layer(torch.randn(1, 2, 40, 40, requires_grad=True)).sum().backward()
    assert layer.weight.grad is not None


def test_small_kernels_are_never_tiled() -> None:
    layer = SameConv(2, 2, 5).eval()
    layer.prepare()
    assert layer.tiled is None


@pytest.mark.parametrize("name", list_models())
def test_the_card_of_every_packaged_model_tells_what_the_file_holds(name: str) -> None:
    _, note = load_model(name)
    restorer = create_restorer(name)
    card = (FOLDER / f"{name}.md").read_text()
    assert f"{restorer.parameters() / 1e6:.2f} M parameters" in card
    assert f"{restorer.gflop(112, 96):.2f} GFLOP a face" in card
    assert f"{note['faces']:,} faces" in card
    assert model_path(name).stat().st_size <= 16e6


@pytest.mark.skipif("plain" not in list_models(), reason="the package holds no weights of 'plain'")
def test_the_control_has_a_sharp_face_pass() -> None:
    face = torch.from_numpy(astronaut()[20:132, 176:272].copy()).permute(2, 0, 1)[None] / 255
    restored = create_restorer("plain").restore(face)
    assert -10 * (restored - face).square().mean().log10() > 45


@pytest.mark.parametrize("network", ["fast", "plain", "deepdeblur"])
def test_weights_rounded_ahead_give_what_autocast_gives(network: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"channels": 8, "modules": 1} if network == "deepdeblur" else {}
    weights = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    state = build_network(network, **options).state_dict()  # some start as the identity
    state = {name: value + 0.02 * torch.randn_like(value) for name, value in state.items()}
    save_model(weights, state, network, options, {})
    restorer = create_restorer(network, weights=weights, precision="bfloat16")
    assert isinstance(restorer, NetworkRestorer)
    assert all(parameter.dtype == torch.float32 for parameter in restorer.module.parameters())
    batch = torch.rand(2, 3, 30, 24)  # too small for tiles, which round elsewhere
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = restorer.module(batch.contiguous(memory_format=torch.channels_last)).float()
    torch.testing.assert_close(restorer.restore(batch), expected.clamp(0, 1), atol=0, rtol=0)
    exact = restorer.in_float32().restore(batch)
    torch.testing.assert_close(exact, restorer.module(batch).clamp(0, 1), atol=1e-6, rtol=0)
    assert not torch.equal(exact, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_convolutions_are_the_convolutions(dtype: torch.dtype) -> None:
    if not packed.packing_serves(dtype):
        pytest.skip(f"this PyTorch does not take ordered weights in {dtype} here")
    torch.manual_seed(0)
    for options in ({"padding": 1}, {"stride": 2}, {"padding": 1, "bias": False}):
        layer = nn.Conv2d(10, 12, 3, **options).to(dtype)  # type: ignore[arg-type]
        ready = packed.PackedConvolution(layer, dtype)
        batch = torch.rand(2, 10, 11, 9)
        expected = layer(batch.to(dtype))
        for other in (ready, copy.deepcopy(ready), pickle.loads(pickle.dumps(ready))):
            result = other(batch)
            assert result.dtype == dtype
            torch.testing.assert_close(
                result, expected, atol=1e-6 if dtype == torch.float32 else 0.01, rtol=0
            )
    rectified = packed.PackedConvolution(layer, dtype, slope=0)(batch)
    torch.testing.assert_close(rectified, ready(batch).clamp_min(0), atol=0, rtol=0)
    leaky = packed.PackedConvolution(layer, dtype, slope=0.01, padding=2)
    assert leaky(batch).shape[-2:] == (13, 11)
    expected = functional.leaky_relu(ready(batch), 0.01)
    result = leaky(batch)[..., 1:-1, 1:-1]
    torch.testing.assert_close(result, expected, atol=1e-6 if dtype == torch.float32 else 0.01, rtol=0)


@pytest.mark.parametrize("reduction", [True, False])
@pytest.mark.parametrize("size", [(112, 96), (33, 47), (5, 3)])
def test_the_prepared_network_of_the_paper_is_the_network(reduction: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = DeepDeblurNet(channels=8, modules=2, reduction=reduction, slope=0.1).eval()
    batch = torch.rand(2, 3, *size)
    with torch.inference_mode():
        expected = network(batch)
        network.prepare()
        torch.testing.assert_close(network(batch), expected, atol=1e-5, rtol=0)
    if packed.packing_serves(torch.float32):
        # What is not packed is in tiles.
        left = [part for part in _outside_of_packed(network) if isinstance(part, nn.Conv2d)]
        assert {part.kernel_size[0] for part in left} == {7, 14}


def test_network_stays_as_it_is_where_packing_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("fast", width=16, deep=16, kernel_width=8, kernel_deep=8, loops=1).eval()
    nn.init.normal_(network.first.head.weight, std=0.1)  # type: ignore[arg-type, union-attr]
    batch = torch.rand(1, 3, 32, 24)

    def missing(*given: Any) -> None:
        raise AttributeError("no such operator")

    with torch.inference_mode():
        expected = network(batch)
        other = copy.deepcopy(network)
        monkeypatch.setattr(packed.PackedConvolution, "forward", missing)
        packed.packing_serves.cache_clear()
        other.prepare(torch.float32)  # type: ignore[operator]
        monkeypatch.undo()
        assert not any(isinstance(part, packed.PackedConvolution) for part in other.modules())
        torch.testing.assert_close(other(batch), expected, atol=0, rtol=0)
        packed.packing_serves.cache_clear()
        if packed.packing_serves(torch.float32):
            other.prepare(torch.float32)  # type: ignore[operator]
            assert not any(isinstance(part, nn.Conv2d) for part in _outside_of_packed(other))
            torch.testing.assert_close(other(batch), expected, atol=1e-5, rtol=0)


def _outside_of_packed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if not isinstance(child, packed.PackedConvolution):
            yield child
            yield from _outside_of_packed(child)


def test_gradient_through_a_restorer_whose_inference_is_packed() -> None:
    restorer = create_restorer("fast", precision="float32")
    batch = torch.from_numpy(astronaut()[20:132, 176:272].copy()).permute(2, 0, 1)[None] / 255
    plain = restorer.restore(batch)
    leaf = batch.clone().requires_grad_()
    result = restorer.restore(leaf)
    torch.testing.assert_close(result.detach(), plain, atol=1e-4, rtol=0)
    result.square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() > 0

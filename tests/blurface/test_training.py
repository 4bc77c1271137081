"""Training: losses by their equations, pairs, exact resume, two processes, sources, the guards."""

from __future__ import annotations

import csv
import io
import os
import socket
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from blurface.errors import BlurfaceError, DataError, InputError, WeightsError
from blurface.kernels.convolve import blur
from blurface.networks import build_network
from blurface.networks.fast import Estimate
from blurface.training import losses
from blurface.training.config import Schedule, TrainConfig, interpolate, read_config
from blurface.training.distributed import Group
from blurface.training.facial import frozen_embedder
from blurface.training.log import append_row, drop_after
from blurface.training.loop import Trainer, central_face, split_by_identity
from blurface.training.losses import LossWeights
from blurface.training.optim import Muon, orthogonalise
from blurface.training.pack import Faces, Gathering, PackedFace, encode, read_pack, write_pack
from blurface.training.pairs import (
    RENDER,
    WIDE,
    Degradation,
    PairStream,
    draw_kernels,
    is_evaluation_line,
    make_pairs,
)
from blurface.training.sources import _records, read_faces
from blurface.weights import load_model, model_digest, save_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def some_faces(count: int = 24, margin: int = 22, seed: int = 0) -> Faces:
    rng = np.random.default_rng(seed)
    small = rng.random((count, 3, 20, 18)).astype(np.float32)
    size = [112 + 2 * margin, 96 + 2 * margin]
    smooth = functional.interpolate(torch.from_numpy(small), size, mode="bicubic").clamp(0, 1)
    pictures = (smooth * 255).byte().permute(0, 2, 3, 1).numpy()
    return Faces(
        pictures, (margin, margin), [str(i) for i in range(count)], [str(i // 2) for i in range(count)]
    )


def small_config(**changes: Any) -> TrainConfig:
    schedule = {"steps": 6, "batch_size": 8, "warmup": 2, "decay": 3, "ema": 0.9} | changes.pop(
        "schedule", {}
    )
    values: dict[str, Any] = {
        "name": "small",
        "network": "fast",
        "data": (),
        "network_options": {"width": 16, "deep": 16, "kernel_width": 8, "kernel_deep": 8, "loops": 1},
        "held_out": 4,
        "validate_every": 3,
        "sample_every": 100,
        "checkpoint_every": 3,
    }
    return TrainConfig(**(values | changes), schedule=Schedule(**schedule))


# -- losses ----------------------------------------------------------------------------------


def test_losses_are_the_paper_s_equations() -> None:
    x, y = torch.rand(2, 2, 3, 6, 5, dtype=torch.float64)
    elements = 3 * 6 * 5
    by_hand = sum(float(((x[n] - y[n]) ** 2).sum()) / elements for n in range(2)) / 2
    assert float(losses.l2(x, y)) == pytest.approx(by_hand)
    array = x.numpy()
    variation = (np.diff(array, axis=3) ** 2).sum() + (np.diff(array, axis=2) ** 2).sum()
    assert float(losses.total_variation(x)) == pytest.approx(variation / elements / 2)
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert float(losses.total_variation(flat)) == 0
    assert float(losses.charbonnier(flat, flat)) == pytest.approx(1e-3)
    target = functional.normalize(x.mean((2, 3)), dim=1)
    assert float(losses.facial(x, target, lambda v: 5 * v.mean((2, 3)))) == pytest.approx(0, abs=1e-12)
    # squared distances 2 and 2 - 2 * 0.6: their squares' mean
    near = torch.tensor([[1.0, 0], [0.6, 0.8]], dtype=torch.float64)
    far = torch.tensor([[0, 1.0], [1, 0]], dtype=torch.float64)
    assert float(losses.facial(near, far, lambda v: v, power=2)) == pytest.approx((4 + 0.64) / 2)


def test_kernel_cross_entropy_is_least_at_the_truth() -> None:
    kernels = torch.rand(2, 1, 44, 44)
    kernels /= kernels.sum((2, 3), keepdim=True)
    entropy = float(-(kernels * kernels.log()).sum((1, 2, 3)).mean())
    assert float(losses.kernel_cross_entropy(kernels.log() + 7, kernels)) == pytest.approx(entropy, rel=1e-5)
    assert float(losses.kernel_cross_entropy(torch.zeros_like(kernels), kernels)) == pytest.approx(
        np.log(44 * 44)
    )
    smooth = losses.smooth_kernels(kernels, 1.0)
    torch.testing.assert_close(smooth.sum((2, 3)), torch.ones(2, 1))
    assert losses.smooth_kernels(kernels, 0) is kernels


def test_restoration_loss_adds_its_terms() -> None:
    sharp = torch.rand(2, 3, 8, 8)
    kernels = torch.full((2, 1, 44, 44), 1 / 44**2)
    images = [sharp + 0.1, sharp + 0.01]
    wiener = torch.cat([sharp + 0.02, sharp], 1)
    estimate = Estimate(images, [kernels], [wiener], [torch.zeros_like(kernels)])
    none = {"pixel": "l2", "intermediate": 0, "deconvolved": 0, "kernel": 0, "kernel_sigma": 0}

    def total(**changes: Any) -> float:
        terms = losses.restoration_terms(
            estimate,
            sharp,
            kernels,
            losses.LossWeights(**(none | changes)),
            facial_weight=0.5,
            embed=lambda v: v.flatten(1),
            facial_target=torch.zeros(2, 192),
            taught=sharp + 0.04,
        )
        used = {name for name, weight in changes.items() if weight}
        assert set(terms) - {"intermediate", "deconvolved", "kernel"} - used == {"pixel"}
        assert set(terms) <= set(losses.TERMS)
        return float(sum(terms.values()))

    terms = {
        "intermediate": (0.3, 0.3e-2),
        "deconvolved": (0.1, 0.1 * 0.02**2),
        "kernel": (0.02, 0.02 * np.log(44 * 44)),
        "tv": (2.0, 2 * float(losses.total_variation(images[-1]))),
        "facial": (0.5, 0.25),  # unit vectors against zero
        "distilled": (3.0, 3 * 0.03**2),
    }
    assert total() == pytest.approx(1e-4, rel=1e-3)
    for name, (weight, term) in terms.items():
        assert total(**{name: weight}) == pytest.approx(1e-4 + term, rel=1e-3), name
    together = total(**{name: weight for name, (weight, _) in terms.items()})
    assert together == pytest.approx(1e-4 + sum(term for _, term in terms.values()), rel=1e-4)


def test_frozen_embedder_is_the_embedder() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.PReLU(8), torch.nn.Conv2d(8, 4, 3),
        torch.nn.BatchNorm2d(4), torch.nn.Flatten(),
    ).eval()  # fmt: skip
    network[3].running_mean.normal_()
    network[3].running_var.uniform_(0.5, 2)
    network[1].weight.data.uniform_(0.1, 0.5)
    embed = frozen_embedder(network)
    x = torch.rand(2, 3, 9, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(network(x).square().sum(), x)
    torch.testing.assert_close(embed(x), network(x), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(embed(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(9, 10), (12, 7)])
@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        torch.nn.Conv2d(8, 6, 3, stride=(1, 2), padding=(1, 0), groups=2),
        torch.nn.Conv2d(8, 5, (1, 4), padding=(0, 2), bias=False),
        torch.nn.Conv2d(8, 5, 3, padding=2, dilation=2),
        torch.nn.Conv2d(8, 8, (7, 6), groups=8),
    ],
    ids=str,
)
def test_frozen_convolutions_have_autograd_s_gradient(layer: torch.nn.Conv2d, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 8, *size, dtype=torch.float64, requires_grad=True)
    layer = layer.double()
    embed = frozen_embedder(torch.nn.Sequential(layer))
    expected = layer(x)
    torch.testing.assert_close(embed(x), expected)
    upstream = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(embed(x), x, upstream)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, upstream)[0])


def test_frozen_embedder_follows_autocast() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.PReLU(16), torch.nn.Conv2d(16, 32, 3)
    )
    embed = frozen_embedder(network)
    x = torch.rand(2, 3, 12, 12, requires_grad=True)
    exact = embed(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embed(x)
    assert exact.dtype == torch.float32
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.02, rtol=0.02)
    (expected,) = torch.autograd.grad(exact.square().sum(), x)
    (gradient,) = torch.autograd.grad(rounded.float().square().sum(), x)
    assert gradient.dtype == torch.float32
    assert functional.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.999


# -- optimiser -------------------------------------------------------------------------------


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_minimises_and_its_updates_have_the_stated_size() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(32, 8, 3, 3))
    optimiser = Muon([weight], lr=0.1)
    before = weight.detach().clone()
    (weight**2).sum().backward()
    optimiser.step()
    rms = (weight.detach() - before).square().mean().sqrt()
    # a semi-orthogonal 32 x 72 matrix has RMS 1/sqrt(72)
    assert float(rms) == pytest.approx(0.2 * 0.1, rel=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        (weight**2).sum().backward()
        optimiser.step()
    assert float(weight.detach().square().mean()) < 0.2 * float(before.square().mean())


# -- pairs -----------------------------------------------------------------------------------


def test_kernels_follow_the_settings() -> None:
    settings = Degradation(sharp=0.25, off_centre=0.0)
    kernels = draw_kernels(800, np.random.default_rng(0), settings)
    assert kernels.shape == (800, RENDER, RENDER)
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-4)
    still = kernels[:, RENDER // 2, RENDER // 2] == 1
    assert 0.2 < still.mean() < 0.3
    axis = np.arange(RENDER) - RENDER // 2
    assert np.abs(kernels.sum(1) @ axis).max() < 1e-3


def test_a_tremor_is_drawn_where_it_is_asked_for() -> None:
    plain = Degradation(sharp=0, linear=0, defocus=0, off_centre=0, valid_size=(14, 14))
    smooth, none, shaken, half = (
        draw_kernels(300, np.random.default_rng(0), replace(plain, tremor=share))
        for share in (0.0, 1e-9, 1.0, 0.5)
    )
    np.testing.assert_allclose(none, smooth, atol=1e-6)
    changed = np.abs(half - smooth).max((1, 2)) > 1e-4
    assert 0.4 < changed.mean() < 0.6
    axis = np.arange(RENDER) - RENDER // 2
    assert np.abs(shaken.sum(1) @ axis).max() < 1e-3


def test_evaluation_kernels_never_come_up() -> None:
    assert is_evaluation_line(15, 45)
    assert is_evaluation_line(15.5, 225)
    assert not is_evaluation_line(15, 135)
    assert not is_evaluation_line(20, 45)
    from blurface.kernels.linear import linear_psf

    test_line = np.pad(linear_psf(15, 45), (RENDER - linear_psf(15, 45).shape[0]) // 2).ravel()
    settings = Degradation(linear=1.0, off_centre=0.0, small=0.0, valid_size=(12, 18))
    kernels = draw_kernels(4_000, np.random.default_rng(0), settings).reshape(4_000, -1)
    cosine = kernels @ test_line / np.linalg.norm(kernels, axis=1) / np.linalg.norm(test_line)
    # nearest lines differ by more than 6 degrees or two pixels of length
    assert cosine.max() < 0.98


@pytest.mark.real
def test_levin_s_kernels_never_come_up(shared: Path) -> None:
    from blurface.kernels import create_kernel_set

    rng = np.random.default_rng(0)
    kernels = np.concatenate(
        [draw_kernels(3_000, rng, Degradation(tremor=share)).reshape(3_000, -1) for share in (0, 1)]
    )
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    for kernel in create_kernel_set("levin8", data_root=shared / "data").centred("mass").kernels:
        pad = (RENDER - kernel.size) // 2
        levin = np.pad(kernel.psf, pad).ravel()
        assert (kernels @ levin / np.linalg.norm(levin)).max() < 0.97


def test_pairs_are_eq_1() -> None:
    faces = some_faces()
    settings = Degradation(noise=0, jpeg=0, varying=0, off_centre=0.5)
    index = np.arange(6)
    batch = make_pairs(faces, index, np.random.default_rng(1), settings, augment=False)
    np.testing.assert_array_equal(
        (batch.sharp[2] * 255).permute(1, 2, 0).numpy(), faces.pictures[2][22:-22, 22:-22]
    )
    psf = functional.pad(batch.kernels[:, 0], (0, 1, 0, 1))
    context = torch.from_numpy(faces.pictures[:6][:, 2:-2, 2:-2]).permute(0, 3, 1, 2).float() / 255
    expected = (blur(context, psf, margin=20, border="replicate") * 255).round() / 255
    assert (batch.blurry - expected).abs().max() <= 1 / 255 + 1e-6
    replicated = make_pairs(faces, index, np.random.default_rng(1), settings, augment=False, replicate=True)
    expected = (blur(batch.sharp, psf, border="replicate") * 255).round() / 255
    assert (replicated.blurry - expected).abs().max() <= 1 / 255 + 1e-6


def test_wide_pairs_are_the_same_faces_with_more_around() -> None:
    faces = some_faces()
    settings = Degradation(noise=0, jpeg=0, varying=0, valid_size=(5, 20))
    index = np.arange(6)
    face = make_pairs(faces, index, np.random.default_rng(1), settings, augment=False)
    wide = make_pairs(faces, index, np.random.default_rng(1), settings, augment=False, frame=WIDE)
    assert wide.sharp.shape == wide.blurry.shape == (6, 3, 112, 112)
    torch.testing.assert_close(central_face(wide.sharp), face.sharp, atol=0, rtol=0)
    # 14 real pixels on either side of the wide one: kernels of up to 20 reach no further from its middle
    inner = (central_face(wide.blurry) - face.blurry).abs()
    assert inner[..., 8:-8].max() <= 1 / 255 + 1e-6
    share = [len(PairStream(faces, Degradation(wide=0.25), 8, 0).batch(n).sharp[0, 0, 0]) for n in range(60)]
    assert set(share) == {96, 112}
    assert 5 <= share.count(112) <= 26
    # 4 pixels of margin hold the face, not 8 more columns on either side
    with pytest.raises(InputError, match="112x112"):
        make_pairs(some_faces(margin=4), index, np.random.default_rng(1), settings, frame=WIDE)


def test_context_beyond_a_narrow_picture_repeats_its_edge() -> None:
    narrow, settings = some_faces(margin=3), Degradation(noise=0, jpeg=0, varying=0)
    index = np.arange(6)
    batch = make_pairs(narrow, index, np.random.default_rng(1), settings, augment=False)
    context = torch.from_numpy(narrow.pictures[:6]).permute(0, 3, 1, 2).float() / 255
    psf = functional.pad(batch.kernels[:, 0], (0, 1, 0, 1))
    expected = blur(context, psf, margin=3, border="replicate")
    assert (batch.blurry - expected.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_stream_is_a_function_of_the_step_however_many_processes() -> None:
    faces = some_faces(40)
    whole = PairStream(faces, Degradation(), 16, seed=3)
    a, b = whole.batch(7), PairStream(faces, Degradation(), 16, seed=3).batch(7)
    torch.testing.assert_close(a.blurry, b.blurry, atol=0, rtol=0)
    parts = [PairStream(faces, Degradation(), 8, 3, rank, 2).batch(7) for rank in (0, 1)]
    torch.testing.assert_close(torch.cat([p.blurry for p in parts]), a.blurry, atol=0, rtol=0)
    torch.testing.assert_close(torch.cat([p.kernels for p in parts]), a.kernels, atol=0, rtol=0)
    assert not torch.equal(whole.batch(8).blurry, a.blurry)


# -- the loop --------------------------------------------------------------------------------


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.network.parameters()])


def test_killed_run_resumes_exactly(tmp_path: Path) -> None:
    faces = some_faces()
    config = small_config(schedule={"teacher": ((0, 1.0), (4, 0.2))})
    whole = Trainer(config, faces, tmp_path / "whole")
    rows = list(whole.run())
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "whole" / "small.safetensors").exists()
    log = tmp_path / "whole" / "log.csv"
    with open(log, newline="") as file:
        logged = list(csv.DictReader(file))
    assert len(logged) == 2
    for row in logged:
        terms = [float(row[f"loss_{term}"] or 0) for term in losses.TERMS]
        assert sum(terms) == pytest.approx(float(row["loss"]), abs=1e-4)
    # A log of fewer columns, begun by an earlier version, goes on with all of them.
    log.write_text("step,loss\n3,0.5\n6,0.25\n")
    drop_after(log, 4)
    append_row(log, logged[1])
    with open(log, newline="") as file:
        mended = list(csv.DictReader(file))
    assert [(row["step"], row["loss"]) for row in mended] == [("3", "0.5"), ("6", logged[1]["loss"])]
    assert mended[1] == logged[1]

    first = Trainer(config, faces, tmp_path / "part")
    for row in first.run():
        if row["step"] == 4:
            break  # killed one step after the checkpoint at step 3
    second = Trainer(config, faces, tmp_path / "part")
    second.load(tmp_path / "part" / "checkpoint.pt")
    assert second.step == 3
    list(second.run())
    torch.testing.assert_close(weights_of(second), weights_of(whole), atol=0, rtol=0)
    for a, b in zip(second.average.parameters(), whole.average.parameters()):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_published_weights_are_a_start(tmp_path: Path) -> None:
    faces = some_faces()
    first = Trainer(small_config(), faces, tmp_path / "first")
    list(first.run())
    for file in ("small.safetensors", "checkpoint.pt"):
        second = Trainer(small_config(seed=1), faces, tmp_path / "second")
        assert not torch.equal(weights_of(second), weights_of(first))
        second.start_from(tmp_path / "first" / file)
        for network in (second.network, second.average):
            for ours, published in zip(network.parameters(), first.average.parameters(), strict=True):
                torch.testing.assert_close(ours, published, atol=0, rtol=0)
        assert second.step == 0
    other = Trainer(small_config(network="plain", network_options={}), faces, tmp_path / "other")
    with pytest.raises(WeightsError, match=r"small\.safetensors .* belongs to another network than 'plain'"):
        other.start_from(tmp_path / "first" / "small.safetensors")


def test_shared_weights_are_a_start_for_more_stages(tmp_path: Path) -> None:
    faces = some_faces()
    config = small_config()
    first = Trainer(config, faces, tmp_path / "first")
    list(first.run())
    own = small_config(network_options=config.network_options | {"stages": 2})
    second = Trainer(own, faces, tmp_path / "second")
    second.start_from(tmp_path / "first" / "small.safetensors")
    state, before = second.network.state_dict(), first.average.state_dict()
    for key in [key for key in state if key.startswith("later.0.")]:
        torch.testing.assert_close(state[key], before[key.removeprefix("later.0.")], atol=0, rtol=0)


def test_weights_may_be_written_in_half_precision(tmp_path: Path) -> None:
    sizes = []
    for kind in ("float32", "float16"):
        trainer = Trainer(small_config(weights_type=kind), some_faces(), tmp_path / kind)
        trainer.publish(tmp_path / f"{kind}.safetensors")
        sizes.append((tmp_path / f"{kind}.safetensors").stat().st_size)
        loaded, _ = load_model(tmp_path / f"{kind}.safetensors")
        for ours, theirs in zip(loaded.parameters(), trainer.average.parameters(), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0 if kind == "float32" else 2**-11)
    with safe_open(tmp_path / "float16.safetensors", framework="pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    assert sizes[1] < 0.75 * sizes[0]  # the header is a good part of a small network's file


def test_a_teacher_is_learned_from(tmp_path: Path) -> None:
    """With hardly another target the network comes nearer to the teacher, not to the sharp face."""
    torch.manual_seed(0)
    options = {"width": 8, "deep": 8, "blocks": (1, 1, 1)}
    teacher = build_network("plain", **options)
    torch.nn.init.constant_(teacher.get_parameter("head.bias"), 0.2)
    save_model(tmp_path / "teacher.safetensors", teacher.state_dict(), "plain", options, {})
    config = small_config(
        network="deepdeblur",
        network_options={"channels": 8, "modules": 1, "near_identity": True},
        loss=losses.LossWeights(pixel="l2", distilled=1e3),
        teacher_network=str(tmp_path / "teacher.safetensors"),
        schedule={"steps": 40, "optimiser": "adamw", "lr": 1e-3, "decay": 10},
        validate_every=40,
    )
    trainer = Trainer(config, some_faces(), tmp_path / "student")
    blurry = trainer.validation[0].blurry

    def distances() -> list[float]:
        with torch.no_grad():
            made, taught = trainer.average(blurry), teacher.eval()(blurry)
        return [float((made - target).square().mean()) for target in (taught, trainer.validation[0].sharp)]

    before = distances()
    list(trainer.run())
    after = distances()
    assert after[0] < 0.5 * before[0]
    assert after[1] > before[1]


def test_interrupt_saves(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), some_faces(), tmp_path)
    for row in trainer.run():
        if row["step"] == 2:
            trainer.stop()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2


def test_samples_show_what_is_validated(tmp_path: Path) -> None:
    """The network of two loops runs one of them while the schedule says so."""
    options = small_config().network_options | {"loops": 2}
    config = small_config(network_options=options, schedule={"loops": ((0, 1),)})
    trainer = Trainer(config, some_faces(), tmp_path)
    path = tmp_path / "samples" / "first.png"
    trainer.samples(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["first.png"]
    with torch.no_grad(), trainer._autocast():
        image = trainer.average.estimate(trainer.validation[0].blurry, loops=1).images[-1][0]
    shown = np.asarray(Image.open(path))[112:224, :96]
    expected = (image.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_a_full_disk_leaves_no_half_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(small_config(), some_faces(), tmp_path)
    path = tmp_path / "samples" / "first.png"
    trainer.samples(path)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.samples(path)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_training_learns(tmp_path: Path) -> None:
    # defocus of one kind is a task that a small network learns in seconds
    disc = Degradation(valid_size=(5, 8), defocus=1.0, linear=0, sharp=0, varying=0, noise=0, jpeg=0)
    config = small_config(
        network="plain",
        network_options={"width": 16, "deep": 16, "blocks": (1, 1, 1)},
        degradation=disc,
        schedule={"steps": 60, "lr": 1e-3, "adam_lr": 2e-3, "decay": 30},
        validate_every=60,
        checkpoint_every=60,
    )
    rows = list(Trainer(config, some_faces(), tmp_path).run())
    assert rows[-1]["psnr"] > rows[-1]["blurry_psnr"] + 0.5


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), some_faces(), tmp_path)
    trainer.save()
    data = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(data[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        trainer.load(tmp_path / "checkpoint.pt")


def test_people_of_the_validation_are_not_trained_on() -> None:
    train, held_out = split_by_identity(some_faces(40), 8, seed=0)
    assert not set(train.identities) & set(held_out.identities)
    assert len(train) + len(held_out) == 40
    assert len(held_out) == 8


def test_a_batch_that_the_processes_cannot_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Group, "join", lambda device: Group(device, 0, 3))
    for size in (8, 9):
        with pytest.raises(InputError, match=rf"batch_size is {size}, which 3 processes .*batch_size=24"):
            Trainer(small_config(schedule={"batch_size": size}), some_faces(), tmp_path)
    Trainer(small_config(schedule={"batch_size": 24}), some_faces(), tmp_path)


def test_means_are_taken_where_the_process_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL refuses a tensor of the CPU; the device without memory stands for a GPU here."""
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", seen.append)
    with pytest.raises(RuntimeError, match="meta"):  # it has no value to return
        Group(torch.device("meta"), 0, 2).mean(1.0)
    assert [tensor.device.type for tensor in seen] == ["meta"]


SCRIPT = """
import sys
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_training import small_config, some_faces
from blurface.training.log import append_row, drop_after
from blurface.training.loop import Trainer
torch.set_num_threads(1)
config = small_config(schedule={"steps": 2, "batch_size": 16})
trainer = Trainer(config, some_faces(), Path(sys.argv[1]))
rows = list(trainer.run())
if trainer.group.rank == 0:
    result = {"loss": [r["loss"] for r in rows], "weights": trainer.network.state_dict()}
    torch.save(result, Path(sys.argv[1]) / "done.pt")
trainer.group.leave()
assert not torch.distributed.is_initialized()
"""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    results = []
    for size in (1, 2):
        out = tmp_path / str(size)
        out.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(script), str(out), str(Path(__file__).parent)]
        # what torchrun sets, without its agent
        group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [
            subprocess.Popen(
                command, env=os.environ | group | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
            )
            for rank in range(size)
        ]
        try:
            assert [process.wait(timeout=200) for process in ranks] == [0] * size
        finally:
            for process in ranks:
                process.kill()
        results.append(torch.load(out / "done.pt", weights_only=True))
    one, two = results
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    # the sum of two halves rounds differently, and AdamW's first steps amplify it where gradients vanish
    difference = torch.cat([(two["weights"][n] - v).abs().flatten() for n, v in one["weights"].items()])
    assert difference.median() < 1e-5


# -- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
def test_configurations_load(path: Path) -> None:
    config = read_config(path)
    assert config.name == path.stem
    # the verifiers that judge are never in a loss
    assert config.embedder in ("", "mobilefacenet")


def test_configuration_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('name = "x"\nnetwork = "fast"\ndata = []\n[schedule]\nstep = 3\n')
    with pytest.raises(BlurfaceError, match="'step' is no setting"):
        read_config(path)
    path.write_text('name = "x"\nnetwork = "fast"\ndata = []\nweights_type = "int8"\n')
    with pytest.raises(BlurfaceError, match=r"weights_type is 'int8'. Known: float32, float16"):
        read_config(path)
    path.write_text('name = "x"\n')
    with pytest.raises(BlurfaceError, match="network, data must be set"):
        read_config(path)
    path.write_text("name = \n")
    with pytest.raises(BlurfaceError, match="not TOML"):
        read_config(path)
    points = "[[10, 1.0], [5, 0.0]]"
    path.write_text(f'name = "x"\nnetwork = "fast"\ndata = []\n[schedule]\nteacher = {points}\n')
    with pytest.raises(BlurfaceError, match="Its steps must not fall"):
        read_config(path)
    with pytest.raises(BlurfaceError, match="does not exist"):
        read_config(tmp_path / "none.toml")


def test_schedule() -> None:
    schedule = Schedule(
        steps=100, warmup=10, decay=20, loops=((0, 1), (50, 2)), teacher=((0, 1.0), (10, 0.0))
    )
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(50) == 1
    assert schedule.rate(90) == pytest.approx(0.5)
    assert schedule.loops_at(49) == 1
    assert schedule.loops_at(50) == 2
    assert schedule.teacher_at(5) == pytest.approx(0.5)
    assert interpolate((), 3) == 0
    points = ((10, 1.0), (20, 3.0), (20, 5.0), (40, 5.0))
    assert [interpolate(points, step) for step in (0, 10, 15, 21, 50)] == [1, 1, 2, 5, 5]


# -- sources ---------------------------------------------------------------------------------


def picture(seed: int, size: tuple[int, int] = (112, 112)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def test_packed_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    faces = [PackedFace(f"{i}.jpg", str(i), encode(picture(i, (158, 140)), 100), 23, 20) for i in range(3)]
    assert write_pack(path, faces, {"dropped": {"near": 2}}) == 3
    read = read_pack(path)
    assert read.corner == (23, 20)
    assert read.note == {"dropped": {"near": 2}}
    assert np.abs(read.pictures[1].astype(int) - picture(1, (158, 140))).mean() < 3
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cut\.parquet"):
        read_pack(tmp_path / "cut.parquet")
    write_pack(path, [PackedFace("x", "y", b"no jpeg", 0, 0)], {})
    with pytest.raises(DataError, match="'x' cannot be decoded"):
        read_pack(path)
    write_pack(path, [], {})
    with pytest.raises(DataError, match="holds no face"):
        read_pack(path)


def test_folder_tar_and_recordio_hold_the_same_faces(tmp_path: Path) -> None:
    encoded = []
    for i in range(4):
        buffer = io.BytesIO()
        Image.fromarray(picture(i)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    for i, data in enumerate(encoded):
        (tmp_path / "folder" / f"person{i // 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"person{i // 2}" / f"{i}.png").write_bytes(data)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for i, data in enumerate(encoded):
            for suffix, content in (("png", data), ("cls", f"person{i // 2}".encode())):
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    with open(tmp_path / "train.rec", "wb") as file:
        # an index record without a picture comes first, as in the files that are passed around
        records = [struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<2f", 5, 9)]
        records += [struct.pack("<IfQQ", 0, i // 2, i, 0) + data for i, data in enumerate(encoded)]
        for record in records:
            file.write(struct.pack("<II", 0xCED7230A, len(record)) + record + b"\0" * (-len(record) % 4))
    sources = [read_faces([tmp_path / name]) for name in ("folder", "shard.tar", "train.rec")]
    for faces in sources:
        assert faces.corner == (0, 8)
        assert len(set(faces.identities)) == 2
        np.testing.assert_array_equal(faces.pictures, np.stack([picture(i) for i in range(4)]))
    both = read_faces([tmp_path / "folder", tmp_path / "train.rec"])
    assert len(both) == 8
    assert len(set(both.identities)) == 4
    # Who is held out comes from the first source, with and without another one.
    people = {*split_by_identity(both, 1, seed=0)[1].identities}
    assert people == {f"folder/{pick}" for pick in split_by_identity(sources[0], 1, seed=0)[1].identities}

    data = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "cut.rec").write_bytes(data[:-10])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "shard.tar").read_bytes()[:700])
    (tmp_path / "empty").mkdir()
    (tmp_path / "faces.xyz").write_bytes(b"")
    messages = {
        "cut.rec": "inside record",
        "cut.tar": "no complete tar",
        "empty": "holds no face",
        "faces.xyz": "no source",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=message):
            read_faces([tmp_path / name])


def test_a_record_that_holds_the_magic_word_comes_in_parts(tmp_path: Path) -> None:
    """As dmlc-core writes it: cut where the word stands; 1 marks the first part, 3 the last, 2 others."""
    magic = struct.pack("<I", 0xCED7230A)
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "PNG")
    whole = struct.pack("<IfQQ", 0, 7, 1, 0) + buffer.getvalue()
    cuts = [whole[:400], whole[400:1000], whole[1000:]]

    def written(kind: int, data: bytes) -> bytes:
        return magic + struct.pack("<I", kind << 29 | len(data)) + data + b"\0" * (-len(data) % 4)

    path = tmp_path / "parts.rec"
    path.write_bytes(written(0, whole) + b"".join(map(written, (1, 2, 3), cuts)) + written(0, whole))
    found = list(_records(path))
    assert found == [whole, magic.join(cuts), whole]
    for bad in (written(1, whole) + written(0, whole), written(2, whole), written(3, whole)):
        path.write_bytes(bad)
        with pytest.raises(DataError, match="does not begin as one"):
            list(_records(path))
    path.write_bytes(written(1, whole))
    with pytest.raises(DataError, match="ends inside record 0"):
        list(_records(path))


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_faces_are_cut_to_what_all_pictures_hold(margins: list[tuple[int, int, int, int]], seed: int) -> None:
    """Whatever the order in which larger and smaller surroundings come."""
    rng = np.random.default_rng(seed)
    gathered = Gathering()
    for index, (above, before, below, after) in enumerate(margins):
        pixels = np.zeros((above + 112 + below, before + 96 + after, 3), np.uint8)
        pixels[above : above + 112, before : before + 96] = index + 1
        gathered.add(str(index), "x", pixels, (above, before))
    faces = gathered.faces({})
    least = np.min(margins, 0)
    assert faces.corner == tuple(least[:2])
    assert faces.pictures.shape == (len(margins), 112 + least[0] + least[2], 96 + least[1] + least[3], 3)
    inside = faces.pictures[:, least[0] : least[0] + 112, least[1] : least[1] + 96]
    assert (inside == np.arange(1, len(margins) + 1)[:, None, None, None]).all()
    assert (faces.pictures > 0).sum() == inside.size
    order = rng.permutation(len(margins))
    part = faces.subset(np.isin(np.arange(len(margins)), order[::2]))
    np.testing.assert_array_equal(
        part.pictures[part.places(np.arange(len(part))), least[0], least[1], 0], np.sort(order[::2]) + 1
    )


def test_faces_are_held_once(tmp_path: Path) -> None:
    """Neither decoding a pack, nor joining two sources, nor holding people out makes a copy."""
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    data = encode(crop_of(7))
    for path in paths:
        write_pack(path, [PackedFace(str(i), str(i // 2), data, 0, 0) for i in range(1000)], {})
    tracemalloc.start()
    try:
        faces = read_faces(paths)
        train, held_out = split_by_identity(faces, 100, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(train), len(held_out)) == (1900, 100)
    assert faces.pictures.nbytes == 2000 * 112 * 96 * 3
    assert peak < 1.2 * faces.pictures.nbytes


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> dict[int, np.ndarray]:
    """A verifier that embeds a crop as what stands under its first pixel, over a benchmark of four faces."""
    table: dict[int, np.ndarray] = {}

    class Verifier:
        def embed(self, batch: torch.Tensor) -> np.ndarray:
            return np.stack([table[round(float(crop[0, 0, 0]) * 255)] for crop in batch])

    images = [f"Person_{i}/{i}.png" for i in range(4)]
    protocol = SimpleNamespace(
        pairs=SimpleNamespace(images=images), read=lambda image: crop_of(int(image[-5]))
    )
    monkeypatch.setattr("protocols.datasets.create_protocol", lambda *a, **k: protocol)
    monkeypatch.setattr("verification.create_embedder", lambda *a, **k: Verifier())
    monkeypatch.setattr("verification.align.crop_prealigned", lambda pixels, frame: pixels)
    return table


def crop_of(level: int) -> np.ndarray:
    return np.full((112, 96, 3), level, np.uint8)


def test_a_benchmark_face_without_an_embedding_drops_nobody(
    embedded: dict[int, np.ndarray],
) -> None:
    from protocols.commands.pack import Benchmark

    nothing = np.full(3, np.nan, np.float32)
    embedded |= dict(enumerate(np.eye(3, dtype=np.float32))) | {3: nothing}
    # One near the first of the benchmark, one far from all, one that cannot be embedded.
    embedded |= {10: embedded[0], 11: np.float32([1, 1, 1]), 12: nothing}
    progress = SimpleNamespace(track=lambda items, name, total: items)
    benchmark = Benchmark(0.5, None, progress)
    faces = [(PackedFace(str(level), "x", b"", 0, 0), crop_of(level)) for level in (10, 11, 12)]
    assert [face.name for face in benchmark.apart(faces)] == ["11"]
    assert (benchmark.near, benchmark.unknown) == (1, 1)
    embedded |= dict.fromkeys(range(4), nothing)
    with pytest.raises(DataError, match="embeds no face"):
        Benchmark(0.5, None, progress)


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_two_processes_compute_what_one_does(share: float, tmp_path: Path) -> None:
    """Teacher shares and the facial term's faces included: the mean of both gradients is that of one."""
    schedule: dict[str, Any] = {
        "batch_size": 16,
        "teacher": ((0, 0.5),),
        "facial": ((0, 1.0),),
        "clip": 0.0,
    }
    gradients = []
    for size in (1, 2):
        parts = []
        for rank in range(size):
            trainer = Trainer(
                small_config(schedule=schedule | {"facial_share": share}, loss=LossWeights(facial=0.1)),
                some_faces(),
                tmp_path / f"{size}{rank}",
                lambda images: functional.avg_pool2d(images, 8).flatten(1),
            )
            trainer.group = Group(trainer.device, rank, size)
            trainer.stream = PairStream(
                trainer.stream.faces, trainer.config.degradation, 16 // size, trainer.config.seed, rank, size
            )
            monkey = pytest.MonkeyPatch()
            monkey.setattr(Group, "average", lambda self, network: None)
            monkey.setattr(Group, "mean", lambda self, value: value)
            for optimiser in trainer.optimisers:
                monkey.setattr(optimiser, "step", lambda: None)
                monkey.setattr(optimiser, "zero_grad", lambda **_: None)
            trainer.train_step()
            monkey.undo()
            grads = [p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]
            parts.append(torch.cat(grads))
        gradients.append(torch.stack(parts).mean(0))
    one, two = gradients
    assert float((one - two).norm() / one.norm()) < 1e-4


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(small_config(), some_faces(), tmp_path)
    trainer.save("checkpoint.pt")
    kept = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(torch.nan)
    with pytest.raises(BlurfaceError, match="diverges"):
        trainer.train_step()
    assert trainer.step == 0
    with pytest.raises(BlurfaceError, match="diverges"):
        list(trainer.run())
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept


def test_frozen_convolutions_can_be_asked_for_their_weights() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projection = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.projection(x.to(self.projection.weight.dtype))
            return y.mean((2, 3))

    module, x = Asks(), torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(frozen_embedder(module)(x), module(x))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """A finite loss may have a gradient that is not: the weights are spoilt before the next loss is seen."""
    trainer = Trainer(small_config(), some_faces(), tmp_path)
    trainer.save()
    trainer.publish(tmp_path / "small.safetensors")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*t*")}
    assert {"checkpoint.pt", "small.safetensors"} <= set(before)
    with torch.no_grad():
        for network in (trainer.network, trainer.average):
            next(network.parameters()).fill_(torch.inf)
    with pytest.raises(BlurfaceError, match=r"NaN or infinite weights.*schedule\.lr"):
        trainer.save()
    with pytest.raises(BlurfaceError, match="NaN or infinite weights"):
        trainer.publish(tmp_path / "small.safetensors")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*t*")} == before


@pytest.mark.parametrize(("first", "second"), [("muon", "adamw"), ("adamw", "rmsprop")])
def test_another_optimiser_on_resume_is_named(first: str, second: str, tmp_path: Path) -> None:
    Trainer(small_config(schedule={"optimiser": first}), some_faces(), tmp_path).save()
    resumed = Trainer(small_config(schedule={"optimiser": second}), some_faces(), tmp_path)
    with pytest.raises(WeightsError, match=f"trained with the optimiser '{first}', not '{second}'"):
        resumed.load(tmp_path / "checkpoint.pt")


def test_faces_are_counted_over_a_change_of_batch_size(tmp_path: Path) -> None:
    faces = some_faces()
    list(Trainer(small_config(schedule={"steps": 1}), faces, tmp_path).run())
    longer = small_config(schedule={"steps": 2, "batch_size": 16})
    second = Trainer(longer, faces, tmp_path)
    second.load(tmp_path / "checkpoint.pt")
    assert [row["faces"] for row in second.run()] == [8 + 16]
    assert load_model(tmp_path / "small.safetensors")[1]["faces"] == 24
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["faces"]  # as in checkpoints of earlier versions
    torch.save(state, tmp_path / "old.pt")
    second.load(tmp_path / "old.pt")
    assert second.faces == 2 * 16


def test_published_weights_say_what_they_started_from(tmp_path: Path) -> None:
    first = Trainer(small_config(), some_faces(), tmp_path / "first")
    first.publish(tmp_path / "start.safetensors")
    second = Trainer(small_config(data=("/here/faces.parquet",)), some_faces(), tmp_path / "second")
    second.start_from(tmp_path / "start.safetensors")
    second.save()
    resumed = Trainer(second.config, some_faces(), tmp_path / "second")
    resumed.load(tmp_path / "second" / "checkpoint.pt")
    resumed.publish(tmp_path / "done.safetensors")
    note = load_model(tmp_path / "done.safetensors")[1]
    assert note["init"] == {
        "name": "start.safetensors", "sha256": model_digest(tmp_path / "start.safetensors")
    }  # fmt: skip
    assert note["config"]["data"] == ["faces.parquet"]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("degradation.valid_size", [5, 44], "1 to 43"),
        ("degradation.linear", 0.95, "linear, defocus and sharp are 1.07 together"),
        ("loss.tv", -0.1, "0 or more"),
        ("schedule.loops", [[0, 0]], "whole numbers, 1 or more"),
        ("schedule.loops", [[0, 1.5]], "whole numbers, 1 or more"),
        ("schedule.teacher", [[0, 1.5]], r"shares must lie in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('name = "x"\nnetwork = "fast"\ndata = []\n')
    read_config(path, {"degradation.valid_size": [5, 43]})
    with pytest.raises(BlurfaceError, match=message):
        read_config(path, {setting: value})
    # And where no file was read.
    config = read_config(path)
    section, name = setting.split(".")
    made = replace(
        config,
        **{
            section: replace(
                getattr(config, section), **{name: tuple(value) if isinstance(value, list) else value}
            )
        },
    )
    with pytest.raises(BlurfaceError, match=message):
        Trainer(made, some_faces(), tmp_path)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("fast", "width", 0), ("fast", "stages", 0), ("plain", "deep", 1.5), ("deepdeblur", "channels", 1)],
)
def test_a_network_of_no_size_is_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{option} must be a whole number, [12] or more"):
        build_network(name, **{option: value})


@pytest.mark.parametrize("identity", ["George W Bush", "george_w_bush", " George-W  Bush", "George_W_Bush"])
def test_people_of_the_benchmark_are_known_however_they_are_spelled(identity: str) -> None:
    from protocols.commands.pack import Benchmark, _spelling

    benchmark = object.__new__(Benchmark)
    benchmark.people = {_spelling("George_W_Bush")}
    assert benchmark.names(identity)
    assert not benchmark.names("George Bush")


def test_lines_of_identities_are_read_whatever_separates_them(tmp_path: Path) -> None:
    from protocols.commands.pack import find_faces

    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    (tmp_path / "identities.txt").write_text("a.jpg\tA B\n\nb.jpg  C \n")
    assert [identity for _, identity in find_faces(tmp_path)] == ["A B", "C"]
    (tmp_path / "identities.txt").write_text("a.jpg A\nb.jpg\n")
    with pytest.raises(DataError, match=r"identities\.txt, line 2"):
        find_faces(tmp_path)

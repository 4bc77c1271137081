"""The stage with the packaged network, on real faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import blurface
from blurface.cli import main
from blurface.images import read_rgb
from blurface.kernels.convolve import blur
from blurface.kernels.linear import linear_psf
from blurface.weights import list_models

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("fast" not in list_models(), reason="the package holds no weights of 'fast'"),
]


def faces(shared: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sharp 112x96 training faces, and the same blurred by a straight motion of 15 pixels."""
    files = sorted((shared / "data" / "celeba-5k").glob("*.jpg"))[:count]
    pictures = (
        torch.from_numpy(np.stack([read_rgb(path) for path in files])).permute(0, 3, 1, 2).float() / 255
    )
    corner = (22, 20)  # of the face in these crops of 140 x 158
    blurry = blur(pictures, torch.from_numpy(linear_psf(15, 20)), border="replicate")
    cut = (..., slice(corner[0], corner[0] + 112), slice(corner[1], corner[1] + 96))
    return pictures[cut], (blurry[cut] * 255).round() / 255


def test_blurred_faces_gain_and_sharp_ones_pass(shared: Path) -> None:
    stage = blurface.DeblurStage.from_pretrained("fast", device="cpu")
    sharp, blurry = faces(shared, 24)
    restored, info = stage(blurry, return_info=True)

    def psnr(x: torch.Tensor) -> float:
        return float((-10 * (x - sharp).square().mean((1, 2, 3)).log10()).mean())

    assert psnr(restored) > psnr(blurry) + 1.5
    assert sum(d.action != "pass" for d in info) >= 23
    if stage.gate is not None:
        untouched, info = stage(sharp, return_info=True)
        passed = [i for i, d in enumerate(info) if d.action == "pass"]
        assert len(passed) >= 20
        assert torch.equal(untouched[passed], sharp[passed])


def test_a_recogniser_trains_behind_the_stage_and_gradients_reach_its_input(shared: Path) -> None:
    _, blurry = faces(shared, 2)
    for differentiable in (False, True):
        stage = blurface.DeblurStage.from_pretrained(
            "fast", device="cpu", differentiable=differentiable, gate=False
        )
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=4), torch.nn.Flatten())
        x = blurry.clone().requires_grad_()
        with blurface.attach(model, stage, preset="unit"):
            model(x).square().mean().backward()
        gradient = model[0].weight.grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert (x.grad is not None) == differentiable
        if x.grad is not None:
            assert torch.isfinite(x.grad).all()
            assert float(x.grad.abs().sum()) > 0


def test_really_blurred_pictures_through_the_command(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "real-blur"
    result = CliRunner().invoke(main, ["restore", str(source), "--out", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in source.glob("*.png")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        assert Image.open(tmp_path / name).size == Image.open(source / name).size


def test_a_large_picture_in_tiles_is_scored_by_its_middle(shared: Path) -> None:
    _, blurry = faces(shared, 1)
    large = torch.nn.functional.interpolate(blurry, (400, 343), mode="bicubic").clamp(0, 1)
    stage = blurface.DeblurStage.from_pretrained("fast", device="cpu", gate=False)
    restored, kernels, info = stage(large, return_kernel=True, return_info=True)
    assert restored.shape == large.shape
    assert kernels.shape[0] == 1
    assert info[0].score is not None

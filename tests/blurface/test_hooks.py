"""A stage in front of any module: put there, taken away, in every convention, also in training."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from stage_support import BrightenRestorer
from torch import Tensor, nn

import blurface
from blurface.errors import ImageError, InputError, UnknownNameError
from blurface.gate import Gate
from blurface.hooks import PRESETS
from blurface.stage import DeblurStage, Decision


class Recogniser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor, scale: float = 1.0, extra: Tensor | None = None) -> Tensor:
        out: Tensor = scale * self.layer(pixels).mean((2, 3))
        return out


class Echo(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


def stage(**options: Any) -> DeblurStage:
    return DeblurStage(BrightenRestorer(), **options)


def test_attached_and_removed() -> None:
    model, x = Recogniser(), torch.rand(2, 3, 8, 8) * 2 - 1
    before = model(x)
    handle = blurface.attach(model, stage(), value_range=(-1, 1))
    # Brighten in [0, 1] is (1 + x) / 2 in [-1, 1] as well.
    torch.testing.assert_close(model(x), (lambda y: model.layer(y).mean((2, 3)))((1 + x) / 2))
    handle.remove()
    handle.remove()
    assert torch.equal(model(x), before)
    with blurface.attach(model, stage()):
        assert not torch.allclose(model(x), before)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_restore_in_the_convention_of_the_recogniser(name: str) -> None:
    """Standardised input, restored and brought back, is the standardised restored picture."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    conventions = {
        "facenet-pytorch": lambda p: (p - 127.5) / 128,
        "arcface": lambda p: (p - 127.5) / 128,
        "insightface": lambda p: (p - 127.5) / 127.5,
        "imagenet": lambda p: (p / 255 - mean[:, None, None]) / std[:, None, None],
        "opencv": lambda p: p.flip(1),
        "unit": lambda p: p / 255,
    }
    seen = []

    class Spy(BrightenRestorer):
        def _restore(self, batch: Tensor, kernels: Any, return_kernel: bool) -> Any:
            seen.append(batch)
            return super()._restore(batch, kernels, return_kernel)

    pixels = torch.randint(0, 256, (2, 3, 6, 5), generator=torch.Generator().manual_seed(1)).float()
    model = Echo()
    blurface.attach(model, DeblurStage(Spy()), preset=name)
    torch.testing.assert_close(
        model(conventions[name](pixels)), conventions[name]((255 + pixels) / 2), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(seen[0], pixels / 255, atol=1e-5, rtol=0)


def test_gradients_reach_the_recogniser_always_and_the_input_on_request() -> None:
    for differentiable in (False, True):
        model, x = Recogniser(), (torch.rand(2, 3, 8, 8) * 2 - 1).requires_grad_()
        blurface.attach(model, stage(differentiable=differentiable, gate=Gate(0.2, 2)))
        model(x).sum().backward()
        assert model.layer.weight.grad is not None
        assert float(model.layer.weight.grad.abs().sum()) > 0
        assert (x.grad is not None) == differentiable


def test_without_gradients_and_in_inference_mode() -> None:
    model, x = Recogniser().eval(), torch.rand(2, 3, 8, 8)
    blurface.attach(model, stage(), value_range=(0, 1))
    with torch.no_grad():
        expected = model(x)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)


def test_pictures_by_position_or_name() -> None:
    x = torch.rand(1, 3, 8, 8)
    model = Recogniser()
    plain = model((1 + x) / 2)
    with blurface.attach(model, stage(), value_range=(0, 1), argument="pixels"):
        torch.testing.assert_close(model(pixels=x, scale=2.0), 2 * plain)
        with pytest.raises(InputError, match="pixels"):
            model(x)
    with blurface.attach(model, stage(), value_range=(0, 1)):
        torch.testing.assert_close(model(x, 2.0), 2 * plain)
        with pytest.raises(InputError, match="argument="):
            model(pixels=x)


def test_decisions_are_reported() -> None:
    seen: list[list[Decision]] = []
    model = Echo()
    blurface.attach(model, stage(gate=Gate(0.5, 2)), value_range=(0, 1), on_info=seen.append)
    model(torch.cat([torch.full((1, 3, 4, 4), 0.1), torch.full((1, 3, 4, 4), 0.9)]))
    assert [d.action for d in seen[0]] == ["pass", "restore"]


def test_mistakes_are_told() -> None:
    model = Recogniser()
    with pytest.raises(UnknownNameError, match="facenet"):
        blurface.attach(model, stage(), preset="face-net")
    with pytest.raises(InputError, match="Both"):
        blurface.attach(model, stage(), value_range=(0, 1), preset="arcface")
    with pytest.raises(ImageError, match="value_range"):
        blurface.attach(model, stage(), value_range=(1, 1))
    assert not model._forward_pre_hooks
    blurface.attach(model, stage())
    with pytest.raises(InputError, match="already attached"):
        blurface.attach(model, stage())
    # Around it a second one would restore what the first restores again.
    with pytest.raises(InputError, match="already attached to this Sequential, in 1"):
        blurface.attach(torch.nn.Sequential(torch.nn.Identity(), model), stage())
    with pytest.raises(ImageError, match="outside its range"):
        model(torch.full((1, 3, 8, 8), 200.0))


def test_a_hooked_model_copies_and_pickles() -> None:
    model = Recogniser()
    blurface.attach(model, DeblurStage.from_pretrained("none"))
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


class TwoPictures(nn.Module):
    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor | None:
        return b


@pytest.mark.parametrize("argument", [-1, True, 1.0, None])
def test_argument_is_a_place_or_a_name(argument: Any) -> None:
    with pytest.raises(InputError, match="names none"):
        blurface.attach(TwoPictures(), DeblurStage.from_pretrained("none"), argument=argument)


def test_what_takes_no_stage_is_told_when_attaching() -> None:
    stage = DeblurStage.from_pretrained("none")
    for model in (None, len, torch.jit.script(nn.ReLU())):
        with pytest.raises(InputError, match="takes no hook"):
            blurface.attach(model, stage)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no stage"):
        blurface.attach(nn.ReLU(), "fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="channel_order"):
        blurface.attach(nn.ReLU(), stage, channel_order="BGR")  # type: ignore[arg-type]


def test_value_range_may_be_an_array() -> None:
    with blurface.attach(nn.Identity(), DeblurStage.from_pretrained("none"), np.array([-1.0, 1.0])):  # type: ignore[arg-type]
        pass

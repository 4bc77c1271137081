"""Blur scores in closed form, and thresholds that do what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from skimage import data
from stage_support import BrightenRestorer

from blurface.errors import InputError, KernelError, WeightsError
from blurface.gate import Gate, action, kernel_spread
from blurface.kernels.convolve import blur
from blurface.kernels.linear import linear_psf
from blurface.restorers import create_restorer
from blurface.restorers.network import NetworkRestorer
from blurface.stage import DeblurStage
from blurface.tiles import TILE
from blurface.weights import list_models


def line(length: int, side: int = 31) -> torch.Tensor:
    kernel = torch.zeros(1, side, side)
    kernel[0, side // 2, (side - length) // 2 : (side + length) // 2] = 1 / length
    return kernel


def test_spread_in_closed_form() -> None:
    """Point 0; line of L pixels sqrt((L^2 - 1) / 12); box sqrt((L^2 - 1) / 6); Gaussian sqrt(2) sigma."""
    assert kernel_spread(line(1)).item() == 0
    for length in (3, 9, 27):
        assert kernel_spread(line(length)).item() == pytest.approx(math.sqrt((length**2 - 1) / 12), rel=1e-5)
    assert kernel_spread(torch.ones(1, 9, 9)).item() == pytest.approx(math.sqrt(80 / 6), rel=1e-5)
    at = torch.arange(-20.0, 21)
    bell = torch.exp(-at.square() / (2 * 3.0**2))
    spread = kernel_spread((bell[:, None] * bell)[None], floor=0).item()
    assert spread == pytest.approx(3 * math.sqrt(2), rel=1e-4)


@given(st.integers(-6, 6), st.integers(-6, 6), st.floats(0.01, 100))
def test_spread_ignores_shift_scale_and_turn(down: int, right: int, scale: float) -> None:
    kernel = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    moved = torch.nn.functional.pad(kernel, (8, 8, 8, 8)).roll((down, right), (1, 2)) * scale
    expected = kernel_spread(kernel).item()
    assert kernel_spread(moved).item() == pytest.approx(expected, rel=1e-4)
    assert kernel_spread(moved.flip(1, 2)).item() == pytest.approx(expected, rel=1e-4)


def test_haze_is_ignored_and_no_mass_is_no_sharpness() -> None:
    hazy = line(1) + 0.001
    assert kernel_spread(hazy).item() == 0
    assert kernel_spread(hazy, floor=0).item() > 5
    assert kernel_spread(torch.zeros(2, 5, 5)).tolist() == [math.inf] * 2
    assert kernel_spread(torch.zeros(0, 5, 5)).shape == (0,)
    with pytest.raises(KernelError, match="3, 4, 5"):
        kernel_spread(torch.zeros(3, 4, 5))


@given(st.floats(0, 10), st.floats(0, 10), st.lists(st.floats(0, 20), min_size=2, max_size=9))
def test_weight_is_monotone_from_zero_to_one(a: float, b: float, scores: list[float]) -> None:
    gate = Gate(min(a, b), max(a, b))
    weights = gate.weight(torch.tensor(sorted(scores)))
    assert bool((weights.diff() >= 0).all())
    assert gate.weight(torch.tensor([gate.low], dtype=torch.float64)).item() == 0
    assert gate.weight(torch.tensor([gate.high + 1e-3, math.inf])).tolist() == [1, 1]


def test_words() -> None:
    assert [action(w) for w in (0.0, 0.5, 1.0)] == ["pass", "blend", "restore"]


@pytest.mark.parametrize(("low", "high"), [(2, 1), (-1, 1), (0, math.inf), (math.nan, 1)])
def test_impossible_thresholds(low: float, high: float) -> None:
    with pytest.raises(InputError, match="low"):
        Gate(low, high)


@pytest.mark.parametrize("given", [("a", "b"), (None, 1), (1, 2, "x")])
def test_thresholds_are_numbers(given: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="Its thresholds are numbers"):
        Gate(*given)


@pytest.mark.parametrize("early", [-0.1, 1.1, math.nan, math.inf])
def test_impossible_early_threshold(early: float) -> None:
    with pytest.raises(InputError, match="early <= low"):
        Gate(1, 2, early)


def test_thresholds_come_from_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Gate.from_card({}) is None
    assert Gate.from_card({"gate": {"low": 0.5, "high": 1}}) == Gate(0.5, 1)
    assert Gate.from_card({"gate": {"low": 0.5, "high": 1, "early": 0.25}}) == Gate(0.5, 1, 0.25)
    bad: list[Any] = [1, {}, {"low": 1}, {"low": "x", "high": 2}, {"low": 2, "high": 1}]
    bad += [{"low": 1, "high": 2, "early": 1.5}, {"low": 1, "high": 2, "early": "x"}]
    for entry in bad:
        with pytest.raises(WeightsError, match="malformed"):
            Gate.from_card({"gate": entry})
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr("blurface.gate.resources.files", lambda package: tmp_path)
    assert Gate.of_weights("mine") is None
    card = tmp_path / "weights" / "mine.json"
    card.write_text(json.dumps({"gate": {"low": 1, "high": 2}}))
    assert Gate.of_weights("mine") == Gate(1, 2)
    (tmp_path / "own.json").write_text(json.dumps({"gate": {"low": 3, "high": 4}}))
    assert Gate.of_weights(str(tmp_path / "own.safetensors")) == Gate(3, 4)
    card.write_text("{")
    with pytest.raises(WeightsError, match=r"not JSON .* Install blurface again"):
        Gate.of_weights("mine")
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(WeightsError, match=r"not JSON .* Mend or remove it"):
        Gate.of_weights(str(tmp_path / "own.safetensors"))


def test_gated_restorer_is_what_the_stage_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The restorer for the tables and the stage for users give the same pictures."""
    from blurface.restorers import restorers
    from blurface.restorers.gated import Gated

    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    restorers.register("brighten", BrightenRestorer)
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x *= torch.linspace(0.1, 2, 6)[:, None, None, None].clamp(max=1)
    gated = Gated("brighten", low=0.5, high=2)
    expected = DeblurStage(BrightenRestorer(), gate=Gate(0.5, 2))(x)
    assert torch.equal(gated.restore(x), expected)  # type: ignore[arg-type]
    assert gated.restore(x, return_kernel=True)[1].shape == (6, 9, 9)
    assert gated.fingerprint()["options"] == {"low": 0.5, "high": 2, "early": None}
    for incomplete in ({"low": 1.0}, {"early": 1.0}):
        with pytest.raises(InputError, match="not both"):
            Gated("brighten", **incomplete)
    with pytest.raises(InputError, match="No gate"):
        Gated("brighten")


@pytest.mark.skipif("fast" not in list_models(), reason="the package holds no weights of 'fast'")
def test_the_packaged_network_behind_its_gate_says_what_it_did() -> None:
    """One photograph, sharp and blurred, alone and in a list, as pictures and as the tables have it."""
    stage = DeblurStage.from_pretrained("fast", device="cpu")
    if stage.gate is None:
        pytest.skip("no gate is calibrated for 'fast'")
    sharp = torch.from_numpy(data.astronaut()[60:172, 172:268].copy()).permute(2, 0, 1)[None] / 255
    faces = torch.cat([sharp, blur(sharp, torch.from_numpy(linear_psf(17, 30)), border="replicate")])
    restored, kernels, info = stage(faces, return_kernel=True, return_info=True)
    assert [d.score for d in info] == pytest.approx(kernel_spread(kernels).tolist(), rel=1e-5)
    assert info[1].score is not None
    assert info[1].score > max(stage.gate.high, 2 * (info[0].score or 0))
    assert info[1].action == "restore"
    assert info[1].weight == 1
    for face, after, decision in zip(faces, restored, info, strict=True):
        assert decision.weight == pytest.approx(
            stage.gate.weight(torch.tensor([decision.score], dtype=torch.float64)).item(), abs=1e-5
        )
        assert torch.equal(face, after) == (decision.action == "pass")
    error = (restored - sharp).square().mean((1, 2, 3)), (faces - sharp).square().mean((1, 2, 3))
    assert error[0][1] < 0.7 * error[1][1]
    torch.testing.assert_close(create_restorer("gated:fast").restore(faces), restored, atol=1e-6, rtol=0)


class TwoLooks(BrightenRestorer):
    """Its early estimate is the later one, two pixels longer; counts what it restores in full."""

    def _restore_blurred(
        self, batch: torch.Tensor, kernels: torch.Tensor | None, return_kernel: bool, sharp_below: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        found = self.module(batch, return_kernel=True)[1]
        first = torch.nn.functional.max_pool2d(found, (1, 3), 1, (0, 1))
        stays = kernel_spread(first) > sharp_below
        restored, found = batch.clone(), first / first.sum((1, 2), keepdim=True)
        if stays.any():
            full = self._restore(batch[stays], kernels, return_kernel)
            restored[stays], found[stays] = full[0], full[1]  # type: ignore[assignment]
        return restored, found


def test_what_the_first_estimate_settles_is_not_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Early passing saves the work, and the tables' gate decides as the stage from full restorations."""
    from blurface.restorers import restorers
    from blurface.restorers.gated import Gated

    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    restorers.register("brighten", TwoLooks)
    # Lines of 1, 3, 5 and 7 pixels, by the first look of 3, 5, 7 and 9.
    x = torch.tensor([0.1, 0.3, 0.5, 0.7])[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    three, five, seven = (math.sqrt((length**2 - 1) / 12) for length in (3, 5, 7))
    gate = Gate(low=five, high=seven, early=three)
    restorer = TwoLooks()
    restored, info = DeblurStage(restorer, gate=gate)(x, return_info=True)
    assert [d.action for d in info] == ["pass", "pass", "pass", "restore"]
    assert [d.score for d in info] == pytest.approx([three, three, five, seven], abs=1e-6)
    assert restorer.shapes == [(3, 3, 8, 8)]  # all but the first
    gated = Gated("brighten", low=five, high=seven, early=three)
    inner, kernels = gated.inner.restore(x, return_kernel=True)
    assert isinstance(inner, torch.Tensor)
    for found in (gated.restore(x), gated.mix(x, inner, kernel_spread(kernels))):
        assert torch.equal(found, restored)  # type: ignore[arg-type]
    # What the first look alone would let pass, passes.
    loose = Gated("brighten", low=three, high=three, early=three)
    monkeypatch.setattr(loose.inner, "_restore_blurred", lambda batch, *rest: (batch, torch.ones(4, 1, 1)))
    assert torch.equal(loose.mix(x, inner, torch.full((4,), 5.0)), x)


@pytest.mark.skipif("fast" not in list_models(), reason="the package holds no weights of 'fast'")
def test_the_packaged_network_stops_at_a_sharp_face() -> None:
    """One loop less than none is run for it, alone and in a batch; a large picture is never settled early."""
    sharp = torch.from_numpy(data.astronaut()[60:172, 172:268].copy()).permute(2, 0, 1)[None] / 255
    blurry = blur(sharp, torch.from_numpy(linear_psf(17, 30)), border="replicate")
    restorer = create_restorer("fast")
    assert isinstance(restorer, NetworkRestorer)
    batches: list[int] = []
    ready: Any = restorer._ready
    ready.loop.register_forward_hook(lambda module, taken, made: batches.append(len(taken[0])))
    gate = Gate(low=2, high=3, early=2)
    stage = DeblurStage(restorer, gate=gate)
    assert torch.equal(stage(sharp), sharp)
    assert batches == []
    both, kernels = stage(torch.cat([sharp, blurry, sharp]), return_kernel=True)
    assert batches == [1]
    assert torch.equal(both[[0, 2]], sharp.expand(2, -1, -1, -1))
    alone, kernel = restorer.restore(blurry, return_kernel=True)
    torch.testing.assert_close(both[1:2], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(kernels[1:2], kernel, atol=1e-5, rtol=0)
    first = restorer.restore(sharp, return_kernel=True, sharp_below=math.inf)[1]
    torch.testing.assert_close(kernels[0], first[0], atol=1e-5, rtol=0)
    batches.clear()
    wide = torch.nn.functional.pad(sharp, (0, TILE + 8 - 96, 0, 0), mode="replicate")
    stage(wide)
    assert batches

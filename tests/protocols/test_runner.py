from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runner_support import (
    Breaks,
    Brighter,
    Estimates,
    NarrowThumbnails,
    SquareThumbnails,
    Thumbnails,
    draw_crops,
    random_mobilefacenet,
    toy_kernels,
    toy_protocol,
)
from scipy.ndimage import convolve

from blurface.errors import BlurfaceError, InputError, UnknownNameError
from blurface.kernels import Kernel, KernelSet
from blurface.restorers import create_restorer, restorers
from protocols import results
from protocols.commands.tables import Maker
from protocols.datasets import Protocol
from protocols.degradation import Degradation
from protocols.experiments import Experiment
from protocols.pictures import Pictures
from protocols.quality import psnr
from protocols.run_tables import run_tables
from protocols.runner import Choice, Evaluation, Settings, build_embedder, build_restorer, evaluate
from protocols.store import CellWarning
from verification import embedders


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    return toy_protocol(draw_crops(tmp_path_factory.mktemp("toy") / "crops"))


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    monkeypatch.setattr(embedders, "_entries", dict(embedders._entries))
    for restorer in (Brighter, Breaks, Estimates):
        restorers.register(restorer.name, restorer)
    for embedder in (Thumbnails, NarrowThumbnails, SquareThumbnails):
        embedders.register(embedder.name, embedder)


def _settings(*names: str, verifiers: tuple[str, ...] = ("thumbnails",), **options: object) -> Settings:
    # The toys are registered in this process only.
    options.setdefault("jobs", 1)
    return Settings(
        tuple(Choice(name) for name in names),
        tuple(Choice(name) for name in verifiers),
        **options,  # type: ignore[arg-type]
    )


def _picture(protocol: Protocol, image: str) -> np.ndarray:
    return np.asarray(Image.open(protocol.path(image)).convert("RGB"))


def _csv(evaluation: Evaluation) -> str:
    return results.results_csv(results.summarise(evaluation).rows)


def test_a_cell_is_what_the_chain_says(protocol: Protocol, tmp_path: Path) -> None:
    """Embedding and quality of one probe, worked out by hand."""
    kernels = toy_kernels()
    evaluation = evaluate(protocol, kernels, _settings("none", "brighter"), cache=tmp_path)
    row = 3
    image = protocol.pairs.probes[row]
    picture = _picture(protocol, image)
    psf = kernels.kernels[1].psf
    # Columns 8 to 103 of the crop, blurred with its own neighbours; what lies beyond repeats its edge.
    blurred = np.stack([convolve(picture[..., c] / 255.0, psf, mode="nearest") for c in range(3)], 2)[
        :, 8:104
    ]
    blurred = np.round(blurred * 255) / 255
    for restorer, expected in (
        ("none", blurred),
        ("brighter", np.round((blurred + 0.11).clip(0, 1) * 255) / 255),
    ):
        embedding = expected.reshape(14, 8, 12, 8, 3).mean((1, 3)).transpose(2, 0, 1).ravel() - 0.5
        got = evaluation.probe_embeddings("thumbnails", restorer, "2")[row]
        np.testing.assert_allclose(got, embedding, atol=1e-4)
        decibel = -10 * np.log10(np.mean((expected - picture[:, 8:104] / 255) ** 2))
        assert evaluation.quality("112x96", restorer, "2")["psnr"][row] == pytest.approx(decibel, abs=0.02)
    sharp = evaluation.sharp_embeddings("thumbnails")[protocol.pairs.images.index(image)]
    np.testing.assert_array_equal(evaluation.probe_embeddings("thumbnails", "none", "sharp")[row], sharp)
    assert evaluation.quality("112x96", "none", "sharp")["psnr"][row] == 100
    equal = results.summarise(evaluation).row("thumbnails", "none", "sharp", "psnr")
    assert equal is not None
    assert (equal.ci_low, equal.ci_high) == (100, 100)  # no spread is an interval of no width


def test_replicate_border_sees_the_face_only(protocol: Protocol, tmp_path: Path) -> None:
    kernels = KernelSet("one", (toy_kernels().kernels[0],))
    evaluation = evaluate(protocol, kernels, _settings("none", border="replicate"), cache=tmp_path)
    assert results.summarise(evaluation).about["invented_share"] == {}
    picture = _picture(protocol, protocol.pairs.probes[0])[:, 8:104] / 255.0
    blurred = np.stack(
        [convolve(picture[..., c], kernels.kernels[0].psf, mode="nearest") for c in range(3)], 2
    )
    embedding = blurred.reshape(14, 8, 12, 8, 3).mean((1, 3)).transpose(2, 0, 1).ravel() - 0.5
    np.testing.assert_allclose(
        evaluation.probe_embeddings("thumbnails", "none", "1")[0], embedding, atol=4e-3 / 8
    )


def test_second_run_computes_nothing_and_says_the_same(protocol: Protocol, tmp_path: Path) -> None:
    settings = _settings("brighter")
    Thumbnails.calls = 0
    first = evaluate(protocol, toy_kernels(), settings, cache=tmp_path)
    calls = Thumbnails.calls
    second = evaluate(protocol, toy_kernels(), settings, cache=tmp_path)
    assert Thumbnails.calls == calls
    # Sharp faces; three kernels of the control; three and no blur of the other; a quality cell beside each.
    assert (first.computed, first.reused) == (1 + 2 * (3 + 4), 0)
    assert (second.computed, second.reused) == (0, 15)
    assert _csv(first) == _csv(second)
    third = evaluate(protocol, toy_kernels(), settings, cache=tmp_path, fresh=True)
    assert Thumbnails.calls == 2 * calls
    assert third.reused == 0
    assert _csv(third) == _csv(first)


def test_what_determines_a_cell_makes_another(protocol: Protocol, tmp_path: Path) -> None:
    base = evaluate(protocol, toy_kernels(), _settings("brighter"), cache=tmp_path)

    def computed(**changes: object) -> int:
        options = {"by": changes.pop("by", 0.11)}
        changes.setdefault("jobs", 1)
        settings = Settings((Choice("none"), Choice("brighter", options)), (Choice("thumbnails"),), **changes)  # type: ignore[arg-type]
        return evaluate(protocol, toy_kernels(), settings, cache=tmp_path).computed

    assert computed() == 0
    assert computed(batch_size=3) == 0  # bounds memory, changes nothing
    assert computed(by=0.2) == 2 * 4  # the other restorer's cells
    assert computed(border="replicate") == 2 * (3 + 3)  # the blurred ones
    assert computed(degradation=Degradation(jpeg=50)) == 2 * (3 + 3)
    assert computed(degradation=Degradation(noise=0.02)) == 2 * (3 + 3)
    assert computed(degradation=Degradation(noise=0.02, seed=1)) == 2 * (3 + 3)
    assert computed(degradation=Degradation(seed=1)) == 0  # no noise: the seed does not matter
    renamed = KernelSet("other", tuple(Kernel(f"k{i}", k.psf) for i, k in enumerate(toy_kernels().kernels)))
    assert evaluate(protocol, renamed, _settings("brighter"), cache=tmp_path).computed == 0
    assert base.computed == 15


def test_tables_do_not_depend_on_batch_size(protocol: Protocol, tmp_path: Path) -> None:
    settings = [_settings("brighter", batch_size=n, degradation=Degradation(0.01, 90)) for n in (1, 5, 64)]
    texts = {
        _csv(evaluate(protocol, toy_kernels(), each, cache=tmp_path / str(i)))
        for i, each in enumerate(settings)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("stop", [1, 4, 9, 14])
def test_stopped_run_goes_on_where_it_was(protocol: Protocol, tmp_path: Path, stop: int) -> None:
    settings = _settings("brighter", batch_size=4)
    whole = evaluate(protocol, toy_kernels(), settings, cache=tmp_path / "whole")
    Thumbnails.calls = 0
    steps = 0

    def interrupt(phase: str, done: int, total: int) -> None:
        nonlocal steps
        if phase not in ("aligning", "finding faces") and done:
            steps += 1
            if steps == stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(protocol, toy_kernels(), settings, cache=tmp_path / "cut", progress=interrupt)
    assert Thumbnails.calls > 0
    resumed = evaluate(protocol, toy_kernels(), settings, cache=tmp_path / "cut")
    # Nothing was computed twice.
    assert Thumbnails.calls == len(protocol.pairs.images) + 7 * len(protocol.pairs.probes)
    assert _csv(resumed) == _csv(whole)
    assert not list((tmp_path / "cut" / "cells").glob("**/*.parts"))


def test_damaged_cells_and_faces_are_made_again(protocol: Protocol, tmp_path: Path) -> None:
    settings = _settings("brighter")
    first = _csv(evaluate(protocol, toy_kernels(), settings, cache=tmp_path))
    cells = sorted((tmp_path / "cells").glob("*/*.npz"))
    cells[0].write_bytes(cells[0].read_bytes()[:100])
    (faces,) = (tmp_path / "faces").glob("*/*.npy")
    damaged = bytearray(faces.read_bytes())
    damaged[5000] ^= 255
    faces.write_bytes(damaged)
    with pytest.warns(CellWarning) as caught:
        again = evaluate(protocol, toy_kernels(), settings, cache=tmp_path)
    assert {str(warning.message).partition(":")[0] for warning in caught} == {str(cells[0]), str(faces)}
    assert again.computed == 1
    assert _csv(again) == first


def test_temporaries_of_killed_runs_go(protocol: Protocol, tmp_path: Path) -> None:
    old = []
    for folder in ("cells", "faces"):
        for name, age in (("old", 2 * 86400), ("new", 0)):
            path = tmp_path / folder / "ab" / f".blurface-{name}.part"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (time.time() - age,) * 2)
            old += [path] if age else []
    evaluate(protocol, toy_kernels(), _settings("none"), cache=tmp_path)
    assert not any(path.exists() for path in old)
    assert all(path.with_name(".blurface-new.part").exists() for path in old)


def test_verifiers_of_two_frames_share_what_they_can(protocol: Protocol, tmp_path: Path) -> None:
    names = ("thumbnails", "square-thumbnails")
    evaluation = evaluate(protocol, toy_kernels(), _settings("none", verifiers=names), cache=tmp_path)
    assert evaluation.frames == {"thumbnails": "112x96", "square-thumbnails": "112x112"}
    summary = results.summarise(evaluation)
    for verifier in names:
        # 12 pairs and thresholds from 6: far from chance is all that can be asked
        assert summary.value(verifier, "none", "sharp", "accuracy") > 0.8
    together = run_tables(summary)[-1]
    assert together.name == "verifiers"
    assert [row[:2] for row in together.rows] == [[name, "none (blurry)"] for name in names]
    assert together.rows[1][2] == summary.value("square-thumbnails", "none", "mean", "accuracy")
    # The same pixels: the smaller frame is a window of the larger.
    wide = evaluation.sharp_embeddings("square-thumbnails").reshape(-1, 3, 14, 14)
    narrow = evaluation.sharp_embeddings("thumbnails").reshape(-1, 3, 14, 12)
    np.testing.assert_array_equal(wide[..., 1:-1], narrow)


GATE = "gated:estimates"
GATED = Choice(GATE, {"low": 2.1, "high": 2.7})


def test_one_restoration_serves_all_verifiers_and_the_gate(protocol: Protocol, tmp_path: Path) -> None:
    """A run of several equals runs of one, and restores each probe once a kernel and frame."""
    verifiers = ("thumbnails", "narrow-thumbnails", "square-thumbnails")
    probes, columns = len(protocol.pairs.probes), 3 + 1

    def run(chosen: tuple[Choice, ...], names: tuple[str, ...], cache: str) -> Evaluation:
        settings = Settings(chosen, tuple(map(Choice, names)), degradation=Degradation(0.01, 80), jobs=1)
        return evaluate(protocol, toy_kernels(), settings, cache=tmp_path / cache)

    def rows(csv: str, verifier: str, restorer: str) -> list[str]:
        return [line for line in csv.splitlines() if f",{verifier},{restorer}," in line]

    Estimates.faces = 0
    joint = run((Choice("none"), Choice("estimates"), GATED), verifiers, "joint")
    assert Estimates.faces == 2 * columns * probes  # two frames
    together = _csv(joint)
    cases = [("thumbnails", Choice("estimates")), ("narrow-thumbnails", GATED), ("square-thumbnails", GATED)]
    for verifier, choice in cases:
        alone = run((Choice("none"), choice), (verifier,), verifier)
        separate = _csv(alone)
        for name in ("none", choice.name):
            assert rows(separate, verifier, name)
            assert rows(separate, verifier, name) == rows(together, verifier, name)
        for column in joint.columns:
            np.testing.assert_array_equal(
                alone.probe_embeddings(verifier, choice.name, column),
                joint.probe_embeddings(verifier, choice.name, column),
            )
    # The gate passes some, blends some and restores some, so that the two restorers really differ.
    spread = joint.spread("112x96", "estimates", "2")
    assert spread is not None
    assert (spread < 2.1).any()
    assert ((spread > 2.1) & (spread < 2.7)).any()
    plain, gated = (joint.quality("112x96", name, "2")["psnr"] for name in ("estimates", GATE))
    blurry = joint.quality("112x96", "none", "2")["psnr"]
    np.testing.assert_array_equal(gated[spread < 2.1], blurry[spread < 2.1])
    np.testing.assert_array_equal(gated[spread > 2.7], plain[spread > 2.7])


def test_a_verifier_more_computes_its_own_cells_only(protocol: Protocol, tmp_path: Path) -> None:
    chosen = (Choice("none"), Choice("estimates"))
    first = Settings(chosen, (Choice("thumbnails"),), jobs=1)
    evaluate(protocol, toy_kernels(), first, cache=tmp_path)
    both = Settings((*chosen, GATED), (Choice("thumbnails"), Choice("narrow-thumbnails")), jobs=1)
    Thumbnails.calls = 0
    evaluation = evaluate(protocol, toy_kernels(), both, cache=tmp_path)
    # Sharp faces, three blurry columns, four of each restorer; the gate's quality; spreads are there.
    assert evaluation.computed == (1 + 3 + 4 + 4) + 4 + 4
    assert Thumbnails.calls == 4 * len(protocol.pairs.probes)  # of the gate alone
    assert evaluate(protocol, toy_kernels(), both, cache=tmp_path).computed == 0


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_stopped_run_of_a_group_goes_on_where_it_was(protocol: Protocol, tmp_path: Path, stop: int) -> None:
    settings = Settings(
        (Choice("none"), Choice("estimates"), GATED), (Choice("thumbnails"),), jobs=1, batch_size=4
    )
    whole = evaluate(protocol, toy_kernels(), settings, cache=tmp_path / "whole")
    steps = 0

    def interrupt(phase: str, done: int, total: int) -> None:
        nonlocal steps
        steps += phase.startswith("estimates") and done > 0
        if steps == stop:
            raise KeyboardInterrupt

    Estimates.faces = 0
    with pytest.raises(KeyboardInterrupt):
        evaluate(protocol, toy_kernels(), settings, cache=tmp_path / "cut", progress=interrupt)
    resumed = evaluate(protocol, toy_kernels(), settings, cache=tmp_path / "cut")
    assert Estimates.faces == 4 * len(protocol.pairs.probes)
    assert _csv(resumed) == _csv(whole)


def test_spread_is_that_of_the_estimates_and_goes_with_the_scores(protocol: Protocol, tmp_path: Path) -> None:
    kernels = toy_kernels()
    evaluation = evaluate(protocol, kernels, _settings("none", "estimates"), cache=tmp_path)
    row = 3
    picture = _picture(protocol, protocol.pairs.probes[row])
    length = 1 + np.round(picture[:16, 8:24].mean() / 255 * 14)
    expected = np.sqrt((length**2 - 1) / 12)  # of as many points in a row
    spread = evaluation.spread("112x96", "estimates", "sharp")
    assert spread is not None
    assert spread[row] == pytest.approx(expected, abs=1e-5)
    assert evaluation.spread("112x96", "none", "1") is None
    lines = results.summarise(evaluation).scores["thumbnails"]
    probe = protocol.pairs.probes[row]
    shown = lines[(lines.restorer == "estimates") & (lines.kernel == "sharp") & (lines.probe == probe)]
    np.testing.assert_allclose(shown["blur"], expected, atol=1e-5)
    assert lines[lines.restorer == "none"]["blur"].isna().all()


def test_unreadable_picture_is_a_failure_to_enrol(tmp_path: Path) -> None:
    root = draw_crops(tmp_path / "crops")
    protocol = toy_protocol(root)
    bad = protocol.pairs.pairs[0].probe
    protocol.path(bad).write_bytes(b"\x89PNG no picture")
    evaluation = evaluate(protocol, toy_kernels(), _settings("none"), cache=tmp_path)
    assert evaluation.faces.unreadable_images == [bad]
    row = protocol.pairs.probes.index(bad)
    assert np.isnan(evaluation.probe_embeddings("thumbnails", "none", "1")[row]).all()
    summary = results.summarise(evaluation)
    touched = [bad in (pair.reference, pair.probe) for pair in protocol.pairs]
    assert summary.value("thumbnails", "none", "1", "fte") == pytest.approx(np.mean(touched))
    failed = summary.scores["thumbnails"].query("failed")
    assert not failed.decision.any()
    assert np.isneginf(failed.score).all()
    row_psnr = summary.row("thumbnails", "none", "1", "psnr")
    assert row_psnr is not None
    assert row_psnr.n == len(protocol.pairs.probes) - 1
    assert np.isfinite(row_psnr.value)


def test_restorer_that_returns_nan_is_named(protocol: Protocol, tmp_path: Path) -> None:
    with pytest.raises(BlurfaceError, match="breaks returned NaN"):
        evaluate(protocol, toy_kernels(), _settings("breaks"), cache=tmp_path)


def test_wrong_settings(protocol: Protocol, tmp_path: Path) -> None:
    assert [c.name for c in _settings("brighter").restorers] == ["none", "brighter"]
    assert [c.name for c in _settings("brighter", "none").restorers] == ["brighter", "none"]
    with pytest.raises(InputError, match="twice"):
        _settings("brighter", "brighter")
    with pytest.raises(InputError, match="border"):
        _settings("none", border="mirror")
    with pytest.raises(InputError, match="border='reflect'"):
        Experiment(border="reflect").settings()  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch size"):
        _settings("none", batch_size=0)
    with pytest.raises(InputError, match="verifier"):
        _settings("none", verifiers=())
    with pytest.raises(UnknownNameError, match="brightest"):
        evaluate(protocol, toy_kernels(), _settings("brightest"), cache=tmp_path)
    taken = KernelSet("bad", (Kernel("sharp", np.ones((3, 3))),))
    with pytest.raises(InputError, match="'sharp' is taken"):
        evaluate(protocol, taken, _settings("none"), cache=tmp_path)


def test_the_device_goes_to_what_takes_one(
    protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anywhere(by: float = 0.1) -> Brighter:
        return Brighter(by)

    restorers.register("anywhere", anywhere)
    assert build_restorer(Choice("anywhere", {"by": 0.2}), "meta").device.type == "cpu"
    assert build_restorer(Choice("brighter"), "meta").device.type == "meta"
    assert build_restorer(Choice("brighter", {"device": "cpu"}), "meta").device.type == "cpu"
    assert build_embedder(Choice("thumbnails"), "meta", tmp_path).device.type == "meta"
    # Pictures are made where the run was, and tables build what takes no device.
    monkeypatch.setenv("BLURFACE_CACHE", str(tmp_path))
    chosen = (Choice("none"), Choice("brighter", {"by": 0.2}))
    experiment = Experiment(restorers=chosen, kernel_sets=("linear:5,0",), device="meta")
    made = Pictures(experiment, protocol=protocol, cache=tmp_path).restorer("brighter")
    assert isinstance(made, Brighter)
    assert (made.device.type, made.by) == ("meta", 0.2)
    maker = Maker(experiment, tmp_path, [], (2,), (0,), None, {}, lambda *_: None)
    assert maker._build(Choice("anywhere")).device.type == "cpu"


def test_processes_change_nothing(protocol: Protocol, tmp_path: Path) -> None:
    """One process and two, with a real network: the same bytes."""
    weights = random_mobilefacenet(tmp_path / "mobilefacenet.ckpt")
    verifier = (Choice("mobilefacenet", {"weights": str(weights)}),)
    kernels = KernelSet("one", toy_kernels().kernels[:2])
    texts = []
    for jobs in (1, 2):
        settings = Settings((Choice("none"), Choice("wiener")), verifier, jobs=jobs, batch_size=4)
        texts.append(_csv(evaluate(protocol, kernels, settings, cache=tmp_path / str(jobs))))
    assert texts[0] == texts[1]


def test_psnr_of_a_known_change(protocol: Protocol, tmp_path: Path) -> None:
    """Sharp faces made brighter by ten grey levels, where nothing saturates."""
    by = 10 / 255
    settings = Settings((Choice("none"), Choice("brighter", {"by": by})), (Choice("thumbnails"),), jobs=1)
    evaluation = evaluate(protocol, toy_kernels(), settings, cache=tmp_path)
    image = protocol.pairs.probes[0]
    sharp = torch.from_numpy(_picture(protocol, image)[:, 8:104].copy()).permute(2, 0, 1)[None]
    expected = psnr((sharp.int() + 10).clamp(max=255).to(torch.uint8), sharp)
    got = evaluation.quality("112x96", "brighter", "sharp")["psnr"][0]
    assert got == pytest.approx(expected.item(), abs=1e-9)


def test_another_name_for_the_control_is_a_row_like_it(
    protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorers, "_entries", dict(restorers._entries))
    restorers.register("alias", lambda **options: create_restorer("none", **options))
    settings = Settings((Choice("none"), Choice("alias")), (Choice("thumbnails"),), jobs=1)
    evaluation = evaluate(protocol, toy_kernels(), settings, cache=tmp_path)
    for column in evaluation.columns:
        np.testing.assert_array_equal(
            evaluation.probe_embeddings("thumbnails", "alias", column),
            evaluation.probe_embeddings("thumbnails", "none", column),
        )

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_support import register_toys, toy_run

from blurface.errors import DataError, InputError
from blurface.kernels import Kernel
from blurface.kernels.linear import linear_psf
from protocols import analysis, paper, results
from protocols.analysis import error_against_reject, harm, ranked_pairs, reject_curves
from protocols.datasets import Pair, PairList, Protocol
from protocols.reduced import reduce_and_enlarge, reduced
from protocols.results import Summary
from protocols.run_folder import cell, read_run
from protocols.run_tables import run_tables
from protocols.runner import CONTROL, SHARP


def _scores(rows: list[tuple[bool, float, bool, float, bool]], kernel: str = "1") -> pd.DataFrame:
    """Lines of one kernel: genuine, blurry score and decision, restored score and decision."""
    lines = []
    for restorer in (CONTROL, "mine"):
        for i, (genuine, blurry, matched, restored, rematched) in enumerate(rows):
            score, decision = (blurry, matched) if restorer == CONTROL else (restored, rematched)
            lines.append(
                {
                    "pair": i,
                    "reference": f"a{i}",
                    "probe": f"b{i}",
                    "genuine": genuine,
                    "fold": i % 2,
                    "restorer": restorer,
                    "kernel": kernel,
                    "score": score,
                    "sharp_score": 0.9,
                    "score_fixed": score,
                    "decision": decision,
                    "decision_fixed": decision,
                    "failed": not math.isfinite(score),
                }
            )
    return pd.DataFrame(lines)


ROWS = [
    (True, 0.1, False, 0.8, True),  # put right
    (True, 0.6, True, 0.7, True),  # right either way, better
    (True, 0.6, True, 0.2, False),  # put wrong: a false reject
    (False, 0.2, False, 0.9, True),  # put wrong: a false accept
    (False, 0.8, True, 0.1, False),  # put right
    (False, 0.1, False, 0.3, False),  # right either way, worse
    (True, -math.inf, False, 0.9, True),  # blurry probe not enrolled: right after, but no change of score
]


def test_harm_counts_what_turned() -> None:
    found = harm(_scores(ROWS), "mine", "1")
    assert (found.helped_genuine, found.helped_impostor) == (2, 1)
    assert (found.harmed_genuine, found.harmed_impostor) == (1, 1)
    assert (found.helped, found.harmed, found.pairs) == (3, 2, 7)
    # Mid-p of 2 or fewer of 5: 2 (1 + 5 + 10) / 32 - 10 / 32.
    assert found.p == pytest.approx(22 / 32)


def test_ranked_pairs_turned_decisions_first_no_pair_twice() -> None:
    worst, best = ranked_pairs(_scores(ROWS), "mine", ["1"], 3)
    # Both turned wrong: the impostor by 0.7, the genuine by 0.4; then the one that merely lost 0.2.
    assert [pair.pair for pair in worst] == [3, 2, 5]
    assert worst[0].gain == pytest.approx(-0.7)
    assert worst[0].right_blurry
    assert not worst[0].right_restored
    # A tie at 0.7 goes by number; the pair without a blurry score is in neither list.
    assert [pair.pair for pair in best] == [0, 4, 1]


def test_ranked_pairs_names_each_pair_under_its_most_extreme_kernel() -> None:
    mild = [(genuine, b, m, (b + r) / 2, n) for genuine, b, m, r, n in ROWS[:6]]
    both = pd.concat([_scores(ROWS[:6], "strong"), _scores(mild, "mild")])
    worst, best = ranked_pairs(both, "mine", ["mild", "strong"], 10)
    pairs = [pair.pair for pair in (*worst, *best)]
    assert len(pairs) == len(set(pairs))
    assert {pair.kernel for pair in (*worst, *best)} == {"strong"}


def test_error_against_reject_in_closed_form() -> None:
    wrong = np.array([False, True, False, True])
    curve = error_against_reject(wrong, [1.0, 4.0, 2.0, 3.0])  # the wrong ones are the most blurred
    np.testing.assert_allclose(curve.reject, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(curve.error, [0.5, 1 / 3, 0, 0])
    assert curve.area == curve.area_ideal == pytest.approx((0.5 + 1 / 3) / 4)
    assert curve.area_random == 0.5
    assert curve.at(0.3) == pytest.approx(1 / 3)
    assert curve.at(0.0) == 0.5


def test_reject_table_is_the_curve() -> None:
    curve = error_against_reject([False, True, False, True], [1.0, 4.0, 2.0, 3.0])
    table = analysis.reject_table({"none": curve}, "x", "t")
    row = dict(zip((column.title for column in table.columns), table.cells()[0], strict=True))
    assert row["Probes"] == "blurry"
    assert row["0% refused"] == "50.00"
    assert row["30% refused"] == "33.33"
    assert row["50% refused"] == "0.00"
    assert row["at random"] == "50.00"


def test_a_score_that_says_nothing_is_as_good_as_chance() -> None:
    curve = error_against_reject([True, False, False, False], np.ones(4))
    np.testing.assert_allclose(curve.error, 0.25)
    assert curve.area == pytest.approx(curve.area_random)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40), st.randoms())
def test_reject_curve_is_bounded_and_ignores_order(pairs: list[tuple[bool, int]], random: object) -> None:
    wrong, blur = np.array([w for w, _ in pairs]), np.array([b for _, b in pairs], float)
    curve = error_against_reject(wrong, blur)
    assert curve.error[0] == pytest.approx(wrong.mean())
    assert ((curve.error >= 0) & (curve.error <= 1)).all()
    assert curve.area >= curve.area_ideal - 1e-12
    turned = np.random.default_rng(0).permutation(len(wrong))
    np.testing.assert_allclose(
        error_against_reject(wrong[turned], blur[turned]).error, curve.error, atol=1e-12
    )


@pytest.mark.parametrize(("wrong", "blur"), [([], []), ([True], [1.0, 2.0]), ([True], [math.nan])])
def test_reject_curve_refuses(wrong: list[bool], blur: list[float]) -> None:
    with pytest.raises(InputError):
        error_against_reject(wrong, blur)


def test_extent_of_a_line_is_its_length() -> None:
    kernels = [Kernel(str(length), linear_psf(length, 0)) for length in (5, 15, 31)]
    extents = analysis.blur_extents(kernels)
    for length in (5, 15, 31):
        # A row of n equal pixels has the variance (n^2 - 1) / 12.
        assert extents[str(length)] == pytest.approx(math.sqrt(length**2 - 1), rel=1e-5)


def test_the_papers_means_are_those_of_its_rows() -> None:
    """A slip in copying would show."""
    for method, values in paper.SUBSET_ACCURACY.items():
        assert np.mean(values) == paper.SUBSET_MEAN[method]


def test_reducing_takes_detail_and_keeps_the_rest() -> None:
    rng = np.random.default_rng(0)
    fine = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    smooth = np.linspace(40, 200, 64).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    assert reduce_and_enlarge(fine, 0.5).std() < 5  # a checkerboard is beyond half the resolution
    assert np.abs(reduce_and_enlarge(smooth, 0.5).astype(int) - smooth)[:, 3:-3].max() <= 2
    noise = rng.integers(0, 256, (31, 45, 3), np.uint8)
    assert reduce_and_enlarge(noise, 0.35).shape == noise.shape
    np.testing.assert_array_equal(reduce_and_enlarge(noise, 1.0), noise)


def test_only_probes_are_reduced(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    files = {}
    for name in ("p/a", "p/b"):
        files[name] = tmp_path / f"{name[-1]}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(files[name])
    pairs = PairList("toy", (Pair("p/a", "p/b", True, 0), Pair("p/b", "p/a", True, 1)), 2)
    whole = Protocol("toy", pairs, files)
    half = reduced(whole, 0.5)
    assert half.pairs.references == whole.pairs.references
    np.testing.assert_array_equal(half.read("p/a"), whole.read("p/a"))
    probe = half.pairs.pairs[1].probe
    np.testing.assert_array_equal(half.read(probe), reduce_and_enlarge(whole.read("p/a"), 0.5))
    assert len({p.fingerprint() for p in (whole, half, reduced(whole, 0.25))}) == 3
    assert reduced(whole, 1.0) is whole
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(InputError):
            reduced(whole, share)


def test_a_reference_whose_name_looks_reduced_is_not(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    name = "Ann@xerox/Ann_0001"
    pairs = PairList("toy", (Pair(name, "Bob/Bob_0001", False, 0), Pair("Bob/Bob_0001", name, False, 0)), 1)
    whole = Protocol("toy", pairs, dict.fromkeys(pairs.images, path))
    half = reduced(whole, 0.5)
    np.testing.assert_array_equal(half.read(name), whole.read(name))
    probe = half.pairs.pairs[1].probe
    np.testing.assert_array_equal(half.read(probe), reduce_and_enlarge(whole.read(name), 0.5))


def test_a_run_read_back_is_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_toys(monkeypatch)
    run = toy_run(tmp_path)
    again = read_run(run.folder)
    assert results.results_csv(again.summary.rows) == (run.folder / "results.csv").read_text()
    written = {path.name: path.read_text() for path in (run.folder / "tables").iterdir()}
    for table in run_tables(again.summary):
        assert written[f"{table.name}.md"] == table.markdown()
    lines = cell(again.summary.scores["thumbnails"], "wiener", SHARP)
    assert list(lines["pair"]) == list(range(again.summary.about["pairs"]))
    # The harm of a restorer that leaves sharp faces nearly alone is nil; totals are sums.
    table = analysis.harm_table(again.summary, "thumbnails")
    rows = {row[1]: row for row in table.rows}
    assert rows["all blurred"][2] == sum(rows[k][2] for k in again.summary.kernels)
    shares = analysis.pair_shares(again.summary, "thumbnails", CONTROL)
    assert shares.mean() == pytest.approx(again.summary.value("thumbnails", CONTROL, "mean", "accuracy"))


def test_folders_that_are_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"results\.json"):
        read_run(tmp_path)
    register_toys(monkeypatch)
    run = toy_run(tmp_path)
    scores = run.folder / "scores" / "thumbnails.parquet"
    content = scores.read_bytes()
    scores.write_bytes(content[:200])
    with pytest.raises(DataError, match=r"thumbnails\.parquet"):
        read_run(run.folder)
    # A folder may be kept without the scores of the pairs: what needs them says so.
    scores.unlink()
    without = read_run(run.folder)
    assert not without.has_scores("thumbnails")
    assert len(run_tables(without.summary)) == len(run_tables(run.summary))
    with pytest.raises(DataError, match="scores of the pairs under thumbnails"):
        analysis.pair_shares(without.summary, "thumbnails", CONTROL)
    for text in ("{", "[]", '{"about": {}, "results": []}', '{"about": {}, "results": [{"value": 1}]}'):
        (run.folder / "results.json").write_text(text)
        with pytest.raises(DataError, match=r"results\.json"):
            read_run(run.folder)


def test_reject_curves_of_a_run_use_the_gates_score() -> None:
    """Two kernels and sharp: what is refused first, and what is left, worked out by hand."""
    lines = []
    blur = {"1": [9.0, 1.0], "2": [8.0, np.nan], "sharp": [0.5, 0.4]}
    right = {
        ("none", "1"): [0, 1],
        ("none", "2"): [0, 0],
        ("none", "sharp"): [1, 1],
        ("fast", "1"): [0, 1],
        ("fast", "2"): [1, 1],
        ("fast", "sharp"): [1, 0],
    }
    for (restorer, kernel), decisions in right.items():
        for pair, fine in enumerate(decisions):
            score = blur[kernel][pair] if restorer == "fast" else np.nan
            lines.append((pair, True, restorer, kernel, bool(fine), score))
    columns = ["pair", "genuine", "restorer", "kernel", "decision_fixed", "blur"]
    scores = pd.DataFrame(lines, columns=columns)
    summary = Summary([], {"v": scores}, {}, ["v"], ["none", "fast"], ["1", "2"])
    name, curves = reject_curves(summary, "v")
    assert name == "fast"
    # Refused in the order: without a score (blurry wrong), 9 (wrong), 8 (wrong), 1, 0.5, 0.4 (right).
    np.testing.assert_allclose(curves["none"].error, [3 / 6, 2 / 5, 1 / 4, 0, 0, 0])
    np.testing.assert_allclose(curves["fast"].error, [2 / 6, 2 / 5, 1 / 4, 1 / 3, 1 / 2, 1])
    with pytest.raises(InputError, match="estimates kernels"):
        reject_curves(dataclasses.replace(summary, scores={"v": scores.drop(columns="blur")}), "v")

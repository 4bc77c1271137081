"""Scores by hand and every message in full: what mutation testing found loosely held."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from blurface.errors import InputError
from verification import scoring

A = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [np.nan, 1.0]])
B = np.array([[4.0, 3.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0]])


def test_scores_by_hand_and_without_a_warning() -> None:
    with np.errstate(all="raise"):  # what cannot be scored is foreseen, not warned of
        cosine = scoring.cosine_scores(A, B)
    np.testing.assert_allclose(cosine, [24 / 25, 0, -np.inf, -np.inf])
    np.testing.assert_allclose(
        scoring.euclidean_scores(A, B), [-np.sqrt(2), -np.sqrt(5), -np.sqrt(2), -np.inf]
    )
    assert scoring.failures(A, B).tolist() == [False, False, False, True]
    assert scoring.failures(B, A).tolist() == [False, False, False, True]


def test_single_precision_is_scored_in_double() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((50, 40)).astype(np.float32) for _ in range(2))
    for function in (scoring.cosine_scores, scoring.euclidean_scores):
        assert function(a, b).dtype == np.float64
        np.testing.assert_array_equal(function(a, b), function(a.astype(np.float64), b.astype(np.float64)))


def test_integers_are_embeddings_and_scores_too() -> None:
    assert scoring.cosine_scores([[3, 4]], [[4, 3]]).tolist() == [24 / 25]
    assert scoring.held_out([1, 2], [0, 1]).dtype == np.float64
    assert scoring.held_out([[1, 2], [3, 4]], [0, 1]).tolist() == [1.0, 4.0]


def test_means_by_hand_and_where_nobody_is_left() -> None:
    folds = [0, 0, 1, 1]
    means = scoring.fold_means(A, B, folds)
    # Held out 0: of the second half's faces all but the one that failed. Held out 1: the first half's.
    np.testing.assert_allclose(means, [[2 / 3, 2 / 3], [2, 9 / 4]])
    alone = scoring.fold_means(np.full((2, 3), np.nan), np.full((2, 3), np.nan), [0, 1])
    assert alone.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_score_is_the_metric_it_names() -> None:
    np.testing.assert_array_equal(scoring.score(A, B), scoring.cosine_scores(A, B))
    np.testing.assert_array_equal(scoring.score(A, B, metric="euclidean"), scoring.euclidean_scores(A, B))
    means = np.array([[0.5, 0.0], [0.0, 0.5], [1.0, 1.0]])
    each = scoring.score(A, B, means=means)
    assert each.shape == (3, 4)
    for row, mean in zip(each, means, strict=True):
        np.testing.assert_array_equal(row, scoring.cosine_scores(A - mean, B - mean))
    assert not np.array_equal(each[0], each[1])
    assert scoring.score(A, B, metric="euclidean", means=means).shape == (4,)  # distances ignore means


def test_shift_counts_pairs_with_a_score_before_and_after() -> None:
    before = [0.1, 0.2, -np.inf, 0.5, 0.4]
    after = [0.4, -np.inf, 0.3, 0.4, 0.6]
    shift = scoring.score_shift(before, after, [True, True, True, False, False])
    assert shift.genuine == pytest.approx(0.3)
    assert shift.impostor == pytest.approx(0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a mean of nothing is foreseen
        none = scoring.score_shift([-np.inf], [0.5], [True])
    assert np.isnan(none.genuine)
    assert np.isnan(none.impostor)


def test_carried_thresholds_by_hand() -> None:
    # Fold 0 is judged by fold 1's best threshold, and the other way round; labels may be numbers.
    sharp = [0.9, 0.1, 0.8, 0.3]
    probe = [0.5, 0.2, 0.2, 0.4]
    result = scoring.carry_over(sharp, probe, [1, 0, 1, 0], [0, 0, 1, 1])
    assert result.thresholds.tolist() == [0.3, 0.1]
    assert result.matches.tolist() == [True, False, True, True]
    assert result.correct.tolist() == [True, True, True, False]
    assert result.accuracies.tolist() == [1.0, 0.5]
    assert result.mean == 0.75
    assert result.std == pytest.approx(np.sqrt(0.125))
    assert (result.fnmr, result.fmr) == (0.0, 0.5)


@pytest.mark.parametrize("kind", [True, False])
def test_shares_of_no_pairs_are_not_numbers(kind: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = scoring.cross_validate([0.1, 0.2, 0.3, 0.4], [kind] * 4, [0, 0, 1, 1])
    assert np.isnan(result.fmr if kind else result.fnmr)
    assert not np.isnan(result.fnmr if kind else result.fmr)


def test_every_refusal_says_what_and_how_to_mend_it() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: scoring.score(A, B, metric="l1"), "metric='l1' is unknown. Use cosine or euclidean."),  # type: ignore[arg-type]
        (
            lambda: scoring.cosine_scores(A, B[:2]),
            "Embeddings must both be (N, D), not (4, 2) and (2, 2).",
        ),
        (lambda: scoring.failures(A[0], B[0]), "Embeddings must both be (N, D), not (2,) and (2,)."),
        (
            lambda: scoring.best_threshold([1.0, 2.0], [True]),
            "Scores and genuine must both be (N,), not (2,) and (1,).",
        ),
        (
            lambda: scoring.best_threshold([[1.0]], [[True]]),
            "Scores and genuine must both be (N,), not (1, 1) and (1, 1).",
        ),
        (
            lambda: scoring.best_threshold([np.nan], [True]),
            "Scores hold NaN or +inf. Give -inf to pairs that cannot match.",
        ),
        (
            lambda: scoring.roc([np.inf], [True]),
            "Scores hold NaN or +inf. Give -inf to pairs that cannot match.",
        ),
        (
            lambda: scoring.cross_validate([0.1, 0.2], [True, False], [0, 0]),
            "A threshold is chosen on other folds, and there is but one. Use two folds or more.",
        ),
        (
            lambda: scoring.cross_validate([0.1, 0.2, 0.3], [True, False], [0, 1]),
            "Scores must be (2,) or (2, 2), not (3,).",
        ),
        (
            lambda: scoring.cross_validate([0.1, 0.2], [True, False], [0, 1, 1]),
            "folds (3,) and genuine (2,) differ in shape.",
        ),
    ]
    for call, message in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == message


def test_without_pairs_of_a_kind_a_figure_says_why_there_is_none() -> None:
    for labels, word in (([False, False], "genuine"), ([True, True], "impostor")):
        curve = scoring.roc([0.1, 0.2], labels)
        for rate in (curve.auc, curve.eer, *curve.tar_at_far.values()):
            assert np.isnan(rate.value)
            assert rate.reason == f"insufficient data: no {word} pairs"
        assert curve.far.size == curve.tar.size == curve.thresholds.size == 0
        assert tuple(curve.tar_at_far) == scoring.FARS
    resolved = scoring.roc(np.arange(20.0), [False] * 10 + [True] * 10, fars=(0.05, 0.1))
    assert resolved.tar_at_far[0.05].reason == "insufficient data: 10 impostor pairs for FAR 0.05"
    assert resolved.tar_at_far[0.1] == scoring.Rate(1.0)


def test_failures_come_last_on_the_curve_whatever_the_scale() -> None:
    # Distances, negated: the failed genuine pair must lie below the worst of them.
    for shift in (0.0, -50.0, 50.0):
        curve = scoring.roc([-np.inf, -4 + shift, -7 + shift, -9 + shift], [True, True, False, False])
        assert curve.tar.tolist() == [0, 0.5, 0.5, 0.5, 1]
        assert curve.far.tolist() == [0, 0, 0.5, 1, 1]
        assert curve.auc.value == 0.5
    nobody = scoring.roc([-np.inf, -np.inf], [True, False])
    assert nobody.auc.value == nobody.eer.value == 0.5  # one tie: halfway between (0, 0) and (1, 1)


def test_of_equally_good_thresholds_the_lowest() -> None:
    # Matching both and matching neither are right once each.
    assert 0.4 < scoring.best_threshold([0.9, 0.5], [False, True]) < 0.5


def test_the_curve_by_hand() -> None:
    curve = scoring.roc([0.9, 0.7, 0.5, 0.3], [True, False, True, False])
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.7, 0.5, 0.3]
    assert curve.far.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.tar.tolist() == [0, 0.5, 0.5, 1, 1]
    assert curve.auc.value == 0.75
    assert curve.eer.value == 0.5

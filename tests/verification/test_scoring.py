from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from blurface.errors import InputError
from verification import scoring

Pairs = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]


def pairs(seed: int, count: int = 200, step: float = 0.0) -> Pairs:
    """Scores of genuine and impostor pairs that overlap; with a step, many are equal."""
    rng = np.random.default_rng(seed)
    genuine = rng.random(count) < 0.5
    scores = rng.normal(np.where(genuine, 1.0, 0.0), 0.6)
    if step:
        scores = np.round(scores / step) * step
    return scores, genuine, np.arange(count) % 10


def test_cosine_and_distance_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30, 16))
    mean = rng.normal(size=16)
    np.testing.assert_allclose(scoring.cosine_scores(a, b), np.diag(cosine_similarity(a, b)))
    np.testing.assert_allclose(
        scoring.cosine_scores(a, b, mean), np.diag(cosine_similarity(a - mean, b - mean))
    )
    np.testing.assert_allclose(scoring.euclidean_scores(a, b), -np.diag(euclidean_distances(a, b)))


def test_a_failure_to_enrol_never_matches() -> None:
    a, b = np.ones((4, 3)), np.ones((4, 3))
    a[1, 2], b[2] = np.nan, 0.0
    np.testing.assert_array_equal(scoring.cosine_scores(a, b)[1:3], [-np.inf, -np.inf])
    np.testing.assert_array_equal(np.isfinite(scoring.euclidean_scores(a, b)), [True, False, True, True])
    np.testing.assert_array_equal(scoring.failures(a, b), [False, True, False, False])

    scores = np.array([0.9, -np.inf, 0.1, -np.inf] * 5)
    genuine = np.array([True, True, False, False] * 5)
    result = scoring.cross_validate(scores, genuine, np.arange(20) // 4)
    assert result.mean == pytest.approx(0.75)
    assert (result.fnmr, result.fmr) == (0.5, 0.0)
    assert scoring.roc(scores, genuine).tar_at_far[0.1].value == 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.sampled_from([0.0, 0.25, 1.0]))
def test_no_threshold_is_better_than_the_best(seed: int, count: int, step: float) -> None:
    scores, genuine, _ = pairs(seed, count, step)
    threshold = scoring.best_threshold(scores, genuine)
    reached = np.mean((scores > threshold) == genuine)
    tried = np.concatenate([scores, scores + 1e-9, scores - 1e-9])
    best = max(np.mean((scores > t) == genuine) for t in tried)
    assert reached == pytest.approx(best)
    lower = np.unique(scores[scores < threshold])
    assert all(np.mean((scores > t) == genuine) < best for t in lower)


def test_of_several_best_thresholds_the_lowest_is_taken() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0])
    # Best (3 of 4) between 0 and 1 and between 2 and 3.
    assert scoring.best_threshold(scores, [False, True, False, True]) == 0.0
    assert scoring.best_threshold(scores, [True] * 4) < 0
    assert scoring.best_threshold(scores, [False] * 4) == 3.0
    assert scoring.best_threshold([-np.inf, -np.inf], [True, False]) == 0.0
    # Equal scores cannot be parted.
    assert scoring.best_threshold([1.0, 1.0, 1.0, 0.0], [True, False, False, False]) == 1.0


def naive_folds(
    scores: NDArray[np.float64], genuine: NDArray[np.bool_], folds: NDArray[np.int64]
) -> list[float]:
    """LFW's protocol spelt out: try every threshold, from the lowest."""
    accuracies = []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        reached = {
            t: np.mean((scores[train] > t) == genuine[train]) for t in [-9.0, *np.unique(scores[train])]
        }
        threshold = max(reached, key=lambda t: (reached[t], -t))
        accuracies.append(float(np.mean((scores[test] > threshold) == genuine[test])))
    return accuracies


@pytest.mark.parametrize("step", [0.0, 0.1])
def test_ten_folds_against_the_protocol_spelt_out(step: float) -> None:
    scores, genuine, folds = pairs(3, 400, step)
    result = scoring.cross_validate(scores, genuine, folds)
    expected = naive_folds(scores, genuine, folds)
    np.testing.assert_allclose(result.accuracies, expected)
    assert result.mean == pytest.approx(np.mean(expected))
    assert result.std == pytest.approx(np.std(expected, ddof=1))
    assert result.fnmr == pytest.approx(np.mean(~result.matches[genuine]))
    assert result.correct.mean() == pytest.approx(
        1 - (result.fnmr * genuine.sum() + result.fmr * (~genuine).sum()) / 400
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_accuracy_depends_on_the_order_of_scores_alone(seed: int) -> None:
    scores, genuine, folds = pairs(seed)
    order = np.random.default_rng(seed).permutation(len(scores))
    plain = scoring.cross_validate(scores, genuine, folds)
    moved = scoring.cross_validate((3 * scores - 7)[order], genuine[order], folds[order])
    np.testing.assert_allclose(plain.accuracies, moved.accuracies)


def test_a_carried_threshold_meets_a_shift_of_scores() -> None:
    scores, genuine, folds = pairs(5, 1000)
    same = scoring.carry_over(scores, scores, genuine, folds)
    assert same.mean == scoring.cross_validate(scores, genuine, folds).mean
    # Blur lowers scores: a threshold of its own does not notice, the carried one rejects.
    low = scores - 0.8
    assert scoring.cross_validate(low, genuine, folds).mean == pytest.approx(same.mean)
    carried = scoring.carry_over(scores, low, genuine, folds)
    assert carried.fnmr > same.fnmr
    assert carried.fmr < same.fmr
    np.testing.assert_array_equal(carried.thresholds, same.thresholds)


def test_each_fold_is_scored_without_its_own_mean() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, (2, 30, 4))
    folds = np.repeat([2, 5, 9], 10)
    a[4] = np.nan
    means = scoring.fold_means(a, b, folds)
    train = np.concatenate([a[10:], b[10:]])
    np.testing.assert_allclose(means[0], train.mean(axis=0))
    train = np.concatenate([np.delete(a[:20], 4, axis=0), b[:20]])
    np.testing.assert_allclose(means[2], train.mean(axis=0))

    scores = scoring.score(a, b, means=means)
    assert scores.shape == (3, 30)
    own = scoring.held_out(scores, folds)
    np.testing.assert_array_equal(own[10:20], scores[1, 10:20])
    np.testing.assert_array_equal(own[20:], scores[2, 20:])
    assert scoring.score(a, b, metric="euclidean", means=means).shape == (30,)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]))
def test_roc_is_scikit_learns(seed: int, step: float) -> None:
    scores, genuine, _ = pairs(seed, 120, step)
    result = scoring.roc(scores, genuine, (0.5, 0.1))
    far, tar, _ = roc_curve(genuine, scores, drop_intermediate=False)
    assert result.auc.value == pytest.approx(roc_auc_score(genuine, scores))
    np.testing.assert_allclose((result.far, result.tar), (far, tar))
    assert result.tar_at_far[0.1].value == pytest.approx(tar[far <= 0.1].max())
    eer = result.eer.value
    assert np.interp(eer, far, tar) == pytest.approx(1 - eer, abs=1e-9) or eer in far


def test_roc_of_normal_scores_is_the_closed_form() -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    genuine = np.arange(200_000) % 2 == 0
    scores = rng.normal(np.where(genuine, 2.0, 0.0), 1.0)
    result = scoring.roc(scores, genuine)
    assert result.auc.value == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=2e-3)
    assert result.eer.value == pytest.approx(norm.cdf(-1), abs=3e-3)
    for far, rate in result.tar_at_far.items():
        assert rate.value == pytest.approx(norm.sf(norm.isf(far) - 2), abs=0.01)


def test_too_few_impostors_is_said_not_guessed() -> None:
    scores, genuine, _ = pairs(0, 60)
    result = scoring.roc(scores, genuine)
    assert np.isfinite(result.tar_at_far[0.1].value)
    for far in (1e-2, 1e-3):
        assert np.isnan(result.tar_at_far[far].value)
        assert "insufficient data" in str(result.tar_at_far[far].reason)
    for labels in (np.ones(60, bool), np.zeros(60, bool)):
        empty = scoring.roc(scores, labels)
        assert np.isnan(empty.auc.value)
        assert "insufficient data" in str(empty.eer.reason)


def test_three_false_accepts_are_a_far_of_a_tenth_of_thirty() -> None:
    scores = np.concatenate([np.arange(30.0), [26.5, 27.5, 40.0]])
    genuine = np.arange(33) >= 30
    assert scoring.roc(scores, genuine, (0.1,)).tar_at_far[0.1].value == pytest.approx(1.0)
    assert scoring.roc(scores, genuine, (0.0999,)).tar_at_far[0.0999].value == pytest.approx(2 / 3)


def test_shift_of_scores() -> None:
    before = np.array([0.5, 0.7, 0.1, 0.2, -np.inf])
    after = np.array([0.6, 0.9, 0.4, -np.inf, 0.3])
    shift = scoring.score_shift(before, after, [True, True, False, False, True])
    assert shift.genuine == pytest.approx(0.15)
    assert shift.impostor == pytest.approx(0.3)
    assert np.isnan(scoring.score_shift(before, after, [True] * 5).impostor)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InputError):
        scoring.cosine_scores(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(InputError, match="two folds"):
        scoring.cross_validate([0.1, 0.2], [True, False], [1, 1])
    with pytest.raises(InputError):
        scoring.cross_validate(np.zeros((3, 4)), [True] * 4, [0, 0, 1, 1])
    with pytest.raises(InputError):
        scoring.roc([np.nan, 1.0], [True, False])
    with pytest.raises(InputError):
        scoring.score(np.zeros((2, 2)), np.zeros((2, 2)), metric="manhattan")  # type: ignore[arg-type]

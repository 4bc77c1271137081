"""From embeddings to figures: scores, LFW's folds, carried-over thresholds, ROC.

A score is higher where two faces are more alike. A pair with a face that could not be enrolled has
the score -inf: it never matches (the rule of NIST's FRTE), so it costs a genuine pair and costs an
impostor pair nothing; it is never skipped.

All functions are pure and work on arrays: ``genuine`` (N,) bool, ``folds`` (N,) int, ``scores`` (N,)
or, where scoring depends on the fold that is held out, (F, N): row k for the k-th fold, in
ascending order of the fold's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from blurface.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FARS = (1e-1, 1e-2, 1e-3)
"""False accept rates at which the true accept rate is told."""

MIN_FALSE_ACCEPTS = 1.0
"""A FAR below this many false accepts cannot be resolved with the impostor pairs at hand."""


@dataclass(frozen=True)
class Rate:
    """A figure, or NaN and the reason why there is none.

    Attributes
    ----------
    value : float
    reason : str or None
    """

    value: float
    reason: str | None = None


@dataclass(frozen=True)
class FoldResult:
    """Accuracy over folds.

    Attributes
    ----------
    mean, std : float
        Of the folds' accuracies, in [0, 1]; the standard deviation is that of a sample (n - 1), as
        in LFW's protocol.
    accuracies, thresholds : ndarray
        (F,).
    matches : ndarray
        (N,) bool: accepted by the threshold of its fold.
    correct : ndarray
        (N,) bool.
    fnmr, fmr : float
        Share of the genuine pairs that are rejected, and of the impostor pairs that are accepted;
        NaN where there are none.
    """

    mean: float
    std: float
    accuracies: Floats
    thresholds: Floats
    matches: Bools
    correct: Bools
    fnmr: float
    fmr: float


def cosine_scores(reference: ArrayLike, probe: ArrayLike, mean: ArrayLike | None = None) -> Floats:
    """Cosine similarity of each pair of embeddings.

    Parameters
    ----------
    reference, probe : array_like
        (N, D); a row of NaN is a failure to enrol.
    mean : array_like, optional
        (D,), subtracted from both first.

    Returns
    -------
    ndarray
        (N,) in [-1, 1], or -inf.
    """
    a, b = _pair(reference, probe)
    if mean is not None:
        a, b = a - np.asarray(mean), b - np.asarray(mean)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = np.einsum("nd,nd->n", a, b) / lengths
    return np.where(np.isfinite(scores), scores, -np.inf)


def euclidean_scores(reference: ArrayLike, probe: ArrayLike) -> Floats:
    """Euclidean distance of each pair of embeddings, negated.

    Parameters
    ----------
    reference, probe : array_like
        (N, D); a row of NaN is a failure to enrol.

    Returns
    -------
    ndarray
        (N,), at most 0, or -inf.
    """
    a, b = _pair(reference, probe)
    scores = -np.linalg.norm(a - b, axis=1)
    return np.where(np.isfinite(scores), scores, -np.inf)


def failures(reference: ArrayLike, probe: ArrayLike) -> Bools:
    """(N,) bool: pairs with a face that could not be enrolled."""
    a, b = _pair(reference, probe)
    enrolled: Bools = np.isfinite(np.concatenate([a, b], axis=1)).all(axis=1)
    return ~enrolled


def fold_means(reference: ArrayLike, probe: ArrayLike, folds: ArrayLike) -> Floats:
    """Mean embedding of all folds but one, for each fold.

    Each pair counts with both of its faces; failures to enrol are left out.

    Parameters
    ----------
    reference, probe : array_like
        (N, D).
    folds : array_like
        (N,) int.

    Returns
    -------
    ndarray
        (F, D).
    """
    a, b = _pair(reference, probe)
    numbers = np.asarray(folds)
    means = []
    for fold in _numbers(numbers):
        rows = np.concatenate([a[numbers != fold], b[numbers != fold]])
        rows = rows[np.isfinite(rows).all(axis=1)]
        means.append(rows.mean(axis=0) if len(rows) else np.zeros(a.shape[1]))
    return np.stack(means)


def score(
    reference: ArrayLike,
    probe: ArrayLike,
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
    means: ArrayLike | None = None,
) -> Floats:
    """Scores of pairs, once or for each fold that is held out.

    Parameters
    ----------
    reference, probe : array_like
        (N, D).
    metric : {"cosine", "euclidean"}
    means : array_like, optional
        (F, D) of :func:`fold_means`, subtracted before the cosine; distances do not change by it.

    Returns
    -------
    ndarray
        (N,), or (F, N) where means are given and matter.

    Raises
    ------
    InputError
        If the metric is unknown or the shapes differ.
    """
    if metric == "euclidean":
        return euclidean_scores(reference, probe)
    if metric != "cosine":
        raise InputError(f"metric={metric!r} is unknown.", "Use cosine or euclidean.")
    if means is None:
        return cosine_scores(reference, probe)
    return np.stack([cosine_scores(reference, probe, mean) for mean in np.asarray(means)])


def held_out(scores: ArrayLike, folds: ArrayLike) -> Floats:
    """Each pair's score with its own fold held out: (F, N) to (N,); (N,) as it is."""
    values = np.asarray(scores, np.float64)
    if values.ndim == 1:
        return values
    rows = np.searchsorted(_numbers(folds), np.asarray(folds))
    return values[rows, np.arange(values.shape[1])]


def best_threshold(scores: ArrayLike, genuine: ArrayLike) -> float:
    """The threshold of highest accuracy; a pair matches where its score is above it.

    Of several, the lowest is taken. On LFW the choice among them moves an accuracy by up to 0.05
    points (three pairs).

    Parameters
    ----------
    scores : array_like
        (N,); -inf never matches.
    genuine : array_like
        (N,) bool.

    Returns
    -------
    float
        One of the finite scores, or a number just below them all; 0 where there is none.
    """
    values, labels = _checked(scores, genuine)
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0
    # For each threshold: genuine pairs above it less impostor pairs above it, which is the number
    # of right decisions less a constant. Equal scores fall on the same side.
    levels, index = np.unique(values[finite], return_inverse=True)
    gain = np.bincount(index, np.where(labels[finite], 1.0, -1.0), len(levels))
    above = np.append(gain[::-1].cumsum()[::-1], 0.0)
    best = int(np.argmax(above))
    return float(levels[best - 1]) if best else float(np.nextafter(levels[0], -np.inf))


def cross_validate(scores: ArrayLike, genuine: ArrayLike, folds: ArrayLike) -> FoldResult:
    """Accuracy on each fold with the threshold chosen on the others (LFW's protocol, view 2).

    Parameters
    ----------
    scores : array_like
        (N,) or (F, N).
    genuine, folds : array_like
        (N,).

    Returns
    -------
    FoldResult

    Raises
    ------
    InputError
        If there are fewer than two folds or the shapes do not fit.
    """
    return carry_over(scores, scores, genuine, folds)


def carry_over(sharp: ArrayLike, probe: ArrayLike, genuine: ArrayLike, folds: ArrayLike) -> FoldResult:
    """Accuracy on each fold of ``probe`` with the threshold chosen on ``sharp``, on the others.

    What a deployed verifier does: its threshold was set on good pictures, and blurred or restored
    ones are held against it. For scores with mean subtraction, take the means of the sharp
    embeddings for both.

    Parameters
    ----------
    sharp, probe : array_like
        (N,) or (F, N): scores of the same pairs.
    genuine, folds : array_like
        (N,).

    Returns
    -------
    FoldResult

    Raises
    ------
    InputError
        If there are fewer than two folds or the shapes do not fit.
    """
    labels, numbers = np.asarray(genuine, bool), np.asarray(folds)
    names = _numbers(numbers)
    if len(names) < 2:
        raise InputError(
            "A threshold is chosen on other folds, and there is but one.", "Use two folds or more."
        )
    chosen = _by_fold(sharp, len(names), labels.shape)
    tested = _by_fold(probe, len(names), labels.shape)
    if numbers.shape != labels.shape:
        raise InputError(f"folds {numbers.shape} and genuine {labels.shape} differ in shape.")
    thresholds, accuracies = np.empty(len(names)), np.empty(len(names))
    matches = np.zeros(labels.shape, bool)
    for row, name in enumerate(names):
        test = numbers == name
        thresholds[row] = best_threshold(chosen[row, ~test], labels[~test])
        matches[test] = tested[row, test] > thresholds[row]
        accuracies[row] = np.mean(matches[test] == labels[test])
    return FoldResult(
        mean=float(accuracies.mean()),
        std=float(accuracies.std(ddof=1)),
        accuracies=accuracies,
        thresholds=thresholds,
        matches=matches,
        correct=matches == labels,
        fnmr=_share(~matches[labels]),
        fmr=_share(matches[~labels]),
    )


@dataclass(frozen=True)
class Roc:
    """Receiver operating characteristic.

    Attributes
    ----------
    far, tar : ndarray
        (T,) false and true accept rates in [0, 1], from (0, 0) to (1, 1), all thresholds.
    thresholds : ndarray
        (T,) descending; a pair matches where its score is at least this.
    auc, eer : Rate
        Area under the curve; equal error rate.
    tar_at_far : dict of float to Rate
        Highest TAR among thresholds with FAR at most the key; NaN, with "insufficient data", where
        the impostor pairs cannot resolve it.
    """

    far: Floats
    tar: Floats
    thresholds: Floats
    auc: Rate
    eer: Rate
    tar_at_far: dict[float, Rate]


def roc(scores: ArrayLike, genuine: ArrayLike, fars: Sequence[float] = FARS) -> Roc:
    """ROC, its area, the equal error rate and TAR at given FARs.

    Parameters
    ----------
    scores : array_like
        (N,); -inf never matches, and comes last on the curve.
    genuine : array_like
        (N,) bool.
    fars : sequence of float
        In (0, 1].

    Returns
    -------
    Roc
        Without genuine or without impostor pairs, all figures are NaN and say so.
    """
    values, labels = _checked(scores, genuine)
    impostors, genuines = int((~labels).sum()), int(labels.sum())
    if not impostors or not genuines:
        which = "genuine" if not genuines else "impostor"
        none = Rate(float("nan"), f"insufficient data: no {which} pairs")
        empty = np.empty(0)
        return Roc(empty, empty, empty, none, none, dict.fromkeys(fars, none))
    finite = np.isfinite(values)
    # A finite stand-in below all others: scikit-learn takes no infinite scores.
    lowest = float(values[finite].min()) if finite.any() else 0.0
    filled = np.where(finite, values, lowest - 1.0 - abs(lowest))
    far, tar, thresholds = roc_curve(labels, filled, drop_intermediate=False)
    at: dict[float, Rate] = {}
    for target in fars:
        if target * impostors < MIN_FALSE_ACCEPTS:
            reason = f"insufficient data: {impostors} impostor pairs for FAR {target:g}"
            at[target] = Rate(float("nan"), reason)
        else:
            # Half a pair of slack: 0.1 * 30 impostors is 3 false accepts, whatever the rounding.
            allowed = far * impostors <= target * impostors + 1e-6
            at[target] = Rate(float(tar[allowed].max()))
    area = Rate(float(roc_auc_score(labels, filled)))
    return Roc(far, tar, thresholds, area, Rate(_equal_error(far, tar)), at)


def _equal_error(far: Floats, tar: Floats) -> float:
    """Where FAR equals 1 - TAR, linear between the points of the curve, which runs from (0, 0) to (1, 1)."""
    excess = far + tar - 1.0
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


@dataclass(frozen=True)
class Shift:
    """How a restorer moves scores.

    Attributes
    ----------
    genuine, impostor : float
        Mean change of score; NaN where there are no such pairs. A rise of the impostors' means
        more false accepts at a threshold that stays.
    """

    genuine: float
    impostor: float


def score_shift(before: ArrayLike, after: ArrayLike, genuine: ArrayLike) -> Shift:
    """Mean change of score over the pairs that have one before and after.

    Parameters
    ----------
    before, after : array_like
        (N,) scores of the same pairs.
    genuine : array_like
        (N,) bool.
    """
    first, labels = _checked(before, genuine)
    second, _ = _checked(after, genuine)
    both = np.isfinite(first) & np.isfinite(second)
    change = np.zeros(len(labels))
    change[both] = second[both] - first[both]
    return Shift(_mean(change[both & labels]), _mean(change[both & ~labels]))


def _pair(reference: ArrayLike, probe: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(reference, np.float64), np.asarray(probe, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise InputError(f"Embeddings must both be (N, D), not {a.shape} and {b.shape}.")
    return a, b


def _checked(scores: ArrayLike, genuine: ArrayLike) -> tuple[Floats, Bools]:
    values, labels = np.asarray(scores, np.float64), np.asarray(genuine, bool)
    if values.shape != labels.shape or values.ndim != 1:
        raise InputError(f"Scores and genuine must both be (N,), not {values.shape} and {labels.shape}.")
    if np.isnan(values).any() or (values == np.inf).any():
        raise InputError("Scores hold NaN or +inf.", "Give -inf to pairs that cannot match.")
    return values, labels


def _by_fold(scores: ArrayLike, folds: int, shape: tuple[int, ...]) -> Floats:
    values = np.asarray(scores, np.float64)
    if values.shape == shape:
        values = np.broadcast_to(values, (folds, *shape))
    if values.shape != (folds, *shape):
        raise InputError(f"Scores must be {shape} or {(folds, *shape)}, not {values.shape}.")
    return values


def _numbers(folds: ArrayLike) -> NDArray[np.int64]:
    return np.unique(np.asarray(folds, np.int64))


def _share(flags: Bools) -> float:
    return float(flags.mean()) if flags.size else float("nan")


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")

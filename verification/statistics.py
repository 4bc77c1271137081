"""How sure a figure is: bootstrap and Wilson intervals, McNemar's test on the same pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from blurface.errors import InputError

RESAMPLES = 2000
LEVEL = 0.95

_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """Confidence interval; NaN at both ends where there is no data."""

    low: float
    high: float


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean over pairs or images.

    Parameters
    ----------
    values : array_like
        (N,); for an accuracy, whether each pair is decided correctly.
    groups : array_like, optional
        (N,) labels; each group is resampled by itself and keeps its size, e.g. genuine and impostor.
    level : float
        In (0, 1).
    resamples : int
    seed : int

    Returns
    -------
    Interval

    References
    ----------
    Efron, Tibshirani: "An Introduction to the Bootstrap", 1993, section 13.3.
    """
    numbers = np.asarray(values, np.float64)
    _check(numbers, level, resamples)
    if not numbers.size:
        return Interval(float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    sums = np.zeros(resamples)
    for members in _members(groups, len(numbers)):
        part = numbers[members]
        step = max(1, _CHUNK_VALUES // len(part))
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            sums[start : start + rows] += part[rng.integers(0, len(part), (rows, len(part)))].sum(axis=1)
    return _percentiles(sums / len(numbers), level)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    size: int,
    *,
    groups: ArrayLike | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of any figure over pairs.

    Parameters
    ----------
    statistic : callable
        Takes the resampled rows, (size,) int, and returns the figure; NaN where it has none.
    size : int
        Number of pairs.
    groups, level, resamples, seed
        As for :func:`bootstrap_mean`.

    Returns
    -------
    Interval
        Over the resamples that have a figure.
    """
    _check(np.empty(size), level, resamples)
    if not size:
        return Interval(float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    parts = _members(groups, size)
    figures = np.empty(resamples)
    for row in range(resamples):
        chosen = [members[rng.integers(0, len(members), len(members))] for members in parts]
        figures[row] = statistic(np.concatenate(chosen))
    return _percentiles(figures[np.isfinite(figures)], level)


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion, for rates near 0 or 1.

    Raises
    ------
    InputError
        If the counts are not 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise InputError(f"{successes} of {trials} is no proportion.")
    if trials == 0:
        return Interval(float("nan"), float("nan"))
    interval = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return Interval(float(interval.low), float(interval.high))


@dataclass(frozen=True)
class McNemar:
    """Two methods on the same pairs.

    Attributes
    ----------
    only_first, only_second : int
        Pairs that only one of them decides correctly.
    p_exact : float
        Two-sided exact p-value (binomial, conditional on the pairs that differ).
    p_mid : float
        Two-sided mid-p-value: less conservative, and recommended for that.
    """

    only_first: int
    only_second: int
    p_exact: float
    p_mid: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Does one method decide more pairs correctly than another, on the same pairs?

    Parameters
    ----------
    first, second : array_like
        (N,) bool: decided correctly.

    Raises
    ------
    InputError
        If the shapes differ.

    References
    ----------
    Fagerland, Lydersen, Laake: "The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional", BMC Med Res Methodol 13, 2013.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.shape != b.shape or a.ndim != 1:
        raise InputError(f"Both must be (N,), not {a.shape} and {b.shape}.")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    differing, fewer = only_a + only_b, min(only_a, only_b)
    tail = 2 * float(stats.binom.cdf(fewer, differing, 0.5))
    middle = tail - float(stats.binom.pmf(fewer, differing, 0.5))
    return McNemar(only_a, only_b, min(1.0, tail), min(1.0, middle))


def clustered_mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Do two methods differ over several decisions on each pair?

    Parameters
    ----------
    first, second : array_like
        (N,) share of right decisions on each pair, over the same conditions.

    Returns
    -------
    float
        Two-sided p of (sum d)^2 / sum d^2, d the difference of a pair, against chi-squared with one
        degree of freedom. With one decision a pair it is McNemar's test without correction. Decisions
        on one pair may depend on each other in any way.

    References
    ----------
    Durkalski, Palesch, Lipsitz, Rust, "Analysis of clustered matched-pair data", Statistics in
    Medicine 22(15), 2003.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    spread = float((difference**2).sum())
    if spread == 0:
        return 1.0
    return float(stats.chi2.sf(float(difference.sum()) ** 2 / spread, 1))


def _check(values: NDArray[np.float64], level: float, resamples: int) -> None:
    if values.ndim != 1:
        raise InputError(f"Values must be (N,), not {values.shape}.")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level={level} must lie in (0, 1), resamples={resamples} be 1 or more.")


def _members(groups: ArrayLike | None, size: int) -> list[NDArray[np.intp]]:
    if groups is None:
        return [np.arange(size)]
    labels = np.asarray(groups)
    if labels.shape != (size,):
        raise InputError(f"groups must be ({size},), not {labels.shape}.")
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _percentiles(figures: NDArray[np.float64], level: float) -> Interval:
    if not figures.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))

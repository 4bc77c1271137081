from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from blurface.errors import InputError
from verification.statistics import bootstrap, bootstrap_mean, clustered_mcnemar, mcnemar, wilson


def test_bootstrap_of_a_proportion_is_the_binomial() -> None:
    correct = np.arange(2000) < 1900
    interval = bootstrap_mean(correct, resamples=4000, seed=1)
    low, high = stats.binom.ppf([0.025, 0.975], 2000, 0.95) / 2000
    assert interval.low == pytest.approx(low, abs=1.1e-3)
    assert interval.high == pytest.approx(high, abs=1.1e-3)


def test_bootstrap_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(2, size=300)
    ours = bootstrap_mean(values, resamples=5000)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.low == pytest.approx(reference.low, abs=0.02)
    assert ours.high == pytest.approx(reference.high, abs=0.02)


def test_any_figure_agrees_with_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=200)
    one = bootstrap_mean(values, resamples=300, seed=7)
    other = bootstrap(lambda rows: float(values[rows].mean()), 200, resamples=300, seed=7)
    assert one.low == pytest.approx(other.low)
    assert one.high == pytest.approx(other.high)


def test_a_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).random(500)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_groups_keep_their_size() -> None:
    # Constant within each group: nothing is left to chance.
    values = np.repeat([0.0, 1.0], [30, 70])
    interval = bootstrap_mean(values, groups=values, resamples=50)
    assert interval.low == interval.high == pytest.approx(0.7)
    counts = []
    bootstrap(lambda rows: float(counts.append(values[rows].sum()) or 0), 100, groups=values, resamples=20)
    assert set(counts) == {70.0}


def test_figures_without_data_are_left_out() -> None:
    values = np.array([1.0, np.nan, 1.0])
    interval = bootstrap(lambda rows: float(values[rows].mean()), 3, resamples=200)
    assert interval.low == interval.high == 1.0
    assert np.isnan(bootstrap_mean([]).low)


def test_wilson_is_the_closed_form() -> None:
    z = stats.norm.ppf(0.975)
    k, n = 12, 50
    centre = (k / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(k / n * (1 - k / n) / n + z**2 / (4 * n**2))
    interval = wilson(k, n)
    assert interval.low == pytest.approx(centre - half)
    assert interval.high == pytest.approx(centre + half)
    assert wilson(0, 40).low == pytest.approx(0, abs=1e-12)
    assert np.isnan(wilson(0, 0).low)
    with pytest.raises(InputError):
        wilson(3, 2)


def test_mcnemar_of_a_published_example() -> None:
    # Fagerland et al. 2013, table 2 (airway hyper-responsiveness): b = 1, c = 7.
    first = np.repeat([True, False], [1, 7])
    result = mcnemar(first, ~first)
    assert (result.only_first, result.only_second) == (1, 7)
    assert result.p_exact == pytest.approx(0.0703, abs=5e-5)
    assert result.p_mid == pytest.approx(0.0391, abs=5e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20))
def test_mcnemar_against_the_binomial_test(b: int, c: int, both: int) -> None:
    first = np.repeat([True, False, True], [b, c, both])
    second = np.repeat([False, True, True], [b, c, both])
    result = mcnemar(first, second)
    exact = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert result.p_exact == pytest.approx(exact)
    assert result.p_mid <= result.p_exact + 1e-12
    swapped = mcnemar(second, first)
    assert (swapped.only_first, swapped.p_mid) == (result.only_second, pytest.approx(result.p_mid))


def test_clustered_mcnemar_is_mcnemar_for_one_decision() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(4000) < 0.9, rng.random(4000) < 0.88
    counts = mcnemar(first, second)
    b, c = counts.only_first, counts.only_second
    p = clustered_mcnemar(first, second)
    assert p == pytest.approx(counts.p_mid, rel=0.05)
    assert p == pytest.approx(stats.chi2.sf((b - c) ** 2 / (b + c), 1), rel=1e-12)
    # The same decision eight times over is no more evidence than once.
    assert clustered_mcnemar(np.mean([first] * 8, axis=0), np.mean([second] * 8, axis=0)) == pytest.approx(p)
    assert clustered_mcnemar(first, first) == 1.0


def test_wrong_input_is_refused() -> None:
    with pytest.raises(InputError):
        mcnemar([True], [True, False])
    with pytest.raises(InputError):
        bootstrap_mean([1.0, 2.0], groups=[0])
    with pytest.raises(InputError):
        bootstrap_mean([1.0], level=95)

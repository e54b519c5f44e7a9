"""Intervals against published values and closed forms."""

import numpy as np
import pytest

from meap.evals.scoring import bootstrap_ratio, wilson


@pytest.mark.parametrize(
    ("num_correct", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, Table I, method 3 (score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_published_intervals(num_correct, n, low, high):
    found = wilson(num_correct, n)
    assert found.value == num_correct / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.n == n


def test_wilson_is_symmetric_and_stays_inside():
    few, many = wilson(3, 10), wilson(7, 10)
    assert (few.low, few.high) == pytest.approx((1 - many.high, 1 - many.low))
    assert wilson(5, 5).high == 1.0
    assert wilson(0, 5).low == 0.0


@pytest.mark.parametrize(("num_correct", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(num_correct, n):
    with pytest.raises(ValueError, match=f"num_correct={num_correct} of n={n} is not a proportion"):
        wilson(num_correct, n)


def test_bootstrap_weighs_by_count():
    assert bootstrap_ratio([10.0, 1.0], [10, 2]).value == pytest.approx(11 / 12)


def test_bootstrap_agrees_with_the_normal_approximation():
    values = np.random.default_rng(3).normal(2.0, 0.5, 400)
    found = bootstrap_ratio(list(values * 7), [7] * 400)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 5)


def test_bootstrap_is_seeded():
    assert bootstrap_ratio([1, 2, 5], [1, 1, 1], seed=1) == bootstrap_ratio([1, 2, 5], [1, 1, 1], seed=1)
    assert bootstrap_ratio([1, 2, 5], [1, 1, 1], seed=1) != bootstrap_ratio([1, 2, 6], [1, 1, 1], seed=1)


@pytest.mark.parametrize(("totals", "counts"), [([], []), ([1.0], [1, 2])])
def test_bootstrap_refuses_what_does_not_pair(totals, counts):
    with pytest.raises(ValueError, match=f"{len(totals)} totals and {len(counts)} counts"):
        bootstrap_ratio(totals, counts)

"""Intervals and tests against published values and closed forms."""

import numpy as np
import pytest

from meap.evals.scoring import Group, estimate, mcnemar, paired_difference, wilson


def group(values, weights=None):
    values = np.asarray(values, np.float64)
    return Group(values, np.ones(len(values)) if weights is None else np.asarray(weights, np.float64))


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
    assert wilson(5, 5).high == pytest.approx(1.0)
    assert wilson(0, 5).low == 0.0


@pytest.mark.parametrize(("num_correct", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(num_correct, n):
    with pytest.raises(ValueError, match=f"num_correct={num_correct} of n={n} is not a proportion"):
        wilson(num_correct, n)


def test_examples_count_by_weight_and_groups_equally():
    assert estimate([group([1.0, 0.5], [10, 2])]).value == pytest.approx(11 / 12)
    assert estimate([group([1.0]), group([0.0, 0.0, 0.0])]).value == 0.5
    assert estimate([group([1, 1, 0, 0]), group([1] * 8)], binary=True).value == 0.75


def test_proportions_of_one_size_have_wilson_s_interval():
    assert estimate([group([0] * 10), group([0] * 10)], binary=True) == wilson(0, 20)
    assert estimate([group([1, 0, 1])], binary=True) == wilson(2, 3)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_equal_scores_are_no_certainty(value, num_groups):
    """Of 20 that are all 1 the rule of three says that at least 86 % are; Wilson's interval says 84 %."""
    found = estimate([group([value] * 20)] * num_groups, bounded=True)
    assert found.low < found.high
    assert found.low <= value <= found.high
    assert (found.value, found.n) == (value, 20 * num_groups)
    if value in {0, 1}:
        assert found == wilson(int(value) * found.n, found.n)


def test_equal_scores_within_groups_of_different_sizes_are_no_certainty():
    found = estimate([group([1.0] * 30), group([0.0] * 10)], bounded=True)
    # The variance of the mean of both means is that of 2**2 / (1 / 30 + 1 / 10) = 30 examples of one group.
    assert (found.value, found.low, found.high) == pytest.approx((0.5, wilson(15, 30).low, wilson(15, 30).high))
    assert found.n == 40


def test_scores_that_spread_keep_their_bootstrap_and_losses_their_scale():
    assert estimate([group([0.2, 0.4] * 9)], bounded=True) == estimate([group([0.2, 0.4] * 9)])
    same = estimate([group([3.5] * 9)])
    assert (same.low, same.value, same.high) == (3.5, 3.5, 3.5)


def test_answers_that_are_right_in_part_are_no_proportion():
    parts, others = [group([0, 0.5, 1, 1])], [group([0.5, 0.5, 1, 1])]
    assert estimate(parts, binary=True) == estimate(parts)
    assert estimate(parts, binary=True).value == 0.625
    assert paired_difference(parts, others, binary=True).test == "bootstrap"


def test_the_bootstrap_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    groups = [group(rng.normal(2.0, 0.5, 400)), group(rng.normal(3.0, 1.5, 100))]
    found = estimate(groups)
    error = np.sqrt(sum(each.values.var() / len(each.values) for each in groups)) / 2
    assert found.standard_error == pytest.approx(error, rel=0.1)
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * error, found.value + 1.96 * error), abs=error / 4
    )


def test_the_bootstrap_is_seeded():
    one = [group([1, 2, 5])]
    assert estimate(one, seed=1) == estimate(one, seed=1)
    assert estimate(one, seed=1).value == estimate(one, seed=2).value


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    # Two-sided binomial tests by hand: 2 * (1 + 5) / 2**5, 2 / 2**10, 2 * (1 + 10 + 45 + 120) / 2**10.
    [(4, 1, 0.375), (0, 10, 2 / 1024), (3, 7, 352 / 1024), (5, 5, 1.0), (0, 0, 1.0)],
)
def test_mcnemar_by_hand(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p)
    assert mcnemar(lost, gained) == pytest.approx(p)


def test_mcnemar_holds_for_thousands():
    assert 0 < mcnemar(1000, 1300) < 1e-9


def test_pairs_are_seen():
    """What differs by a little for every example differs, however much the examples do."""
    values = np.random.default_rng(0).normal(0, 10, 50)
    found = paired_difference([group(values)], [group(values + 0.1)], binary=False)
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p < 0.002
    assert found.test == "bootstrap"


def test_no_difference_is_no_difference():
    same = [group([0, 1, 1, 0]), group([1, 1])]
    found = paired_difference(same, same, binary=True)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_rows_of_right_and_wrong_are_tested_by_mcnemar():
    first, second = group([1, 0, 0, 0, 0, 1]), group([0, 1, 1, 1, 1, 1])
    found = paired_difference([first], [second], binary=True)
    assert (found.value, found.p, found.test) == (0.5, 0.375, "mcnemar")


def test_chance_alone_is_rarely_significant():
    rng = np.random.default_rng(1)
    p = [
        paired_difference([group(rng.normal(size=40))], [group(rng.normal(size=40))], binary=False, seed=trial).p
        for trial in range(100)
    ]
    assert np.mean(np.array(p) < 0.05) < 0.13

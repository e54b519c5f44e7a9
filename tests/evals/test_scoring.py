"""Intervals and tests: by published values, by scipy, by simulation."""

import importlib.util
import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from meap.evals.scoring import Group, estimate, holm, paired_difference, sign_flip


def group(values, clusters=None, weights=None):
    return Group(
        np.asarray(values, np.float64),
        None if weights is None else np.asarray(weights, np.float64),
        None if clusters is None else [str(each) for each in clusters],
    )


def answers(num_correct, n):
    return np.arange(n) < num_correct


def wilson(num_correct, n):
    found = stats.binomtest(num_correct, n).proportion_ci(method="wilson")
    return pytest.approx((found.low, found.high), abs=1e-9)


@pytest.fixture(scope="module")
def simulation(project_root):
    spec = importlib.util.spec_from_file_location(
        "interval_coverage", project_root / "benchmarks" / "interval_coverage.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("num_correct", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, Table I, method 3 (score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_shares_have_the_published_intervals_of_wilson(num_correct, n, low, high):
    found = estimate([group(answers(num_correct, n))], bounded=True)
    assert found.value == pytest.approx(num_correct / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.n, found.clusters) == (n, n)


@given(st.integers(2, 300), st.data())
@settings(max_examples=60, deadline=None)
def test_a_question_at_many_positions_counts_once(n, data):
    """Questions that are right at all positions or at none tell as much as if they were asked once."""
    num_correct, positions = data.draw(st.integers(0, n)), data.draw(st.integers(1, 5))
    found = estimate([group(answers(num_correct, n), range(n))] * positions, bounded=True)
    assert (found.low, found.high) == wilson(num_correct, n)
    assert (found.n, found.clusters) == (n * positions, n)


def test_positions_of_one_row_count_once_too():
    """One haystack at many depths, all in one row of the table."""
    scores = np.random.default_rng(0).normal(size=(6, 4))
    found = estimate([group(scores.ravel(), np.repeat(range(6), 4))])
    expected = stats.ttest_1samp(scores.mean(1), 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.standard_error == pytest.approx(stats.sem(scores.mean(1)))


def test_one_question_has_no_interval():
    for bounded in (False, True):
        found = estimate([group([1, 0, 1, 1], ["q"] * 4), group([1, 0], ["q"] * 2)], bounded=bounded)
        assert (found.low, found.high, found.standard_error, found.clusters) == (None, None, None, 1)
    different = paired_difference([group([1, 0, 1], ["q"] * 3)], [group([0, 0, 0], ["q"] * 3)], bounded=True)
    assert (different.low, different.high, different.p) == (None, None, 1.0)


def test_examples_count_by_weight_and_groups_equally():
    assert estimate([group([1.0, 0.5], weights=[10, 2])]).value == pytest.approx(11 / 12)
    assert estimate([group([1.0]), group([0.0, 0.0, 0.0])]).value == 0.5
    assert estimate([group([1, 1, 0, 0]), group([1] * 8)], bounded=True).value == 0.75


def test_weighted_means_have_the_error_of_a_ratio():
    rng = np.random.default_rng(1)
    weights, values = rng.uniform(1, 3, 40), rng.normal(5, 1, 40)
    found = estimate([group(values, weights=weights)])
    mean = np.average(values, weights=weights)
    residuals = weights * (values - mean)
    error = math.sqrt(40 / 39 * (residuals**2).sum()) / weights.sum()
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 39) * error)


def test_rows_without_common_questions_have_satterthwaites_interval():
    rng = np.random.default_rng(2)
    one, other = rng.normal(2.0, 0.5, 40), rng.normal(3.0, 1.5, 10)
    found = estimate([group(one), group(other)])
    expected = stats.ttest_ind(one, -other, equal_var=False)
    limits = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low / 2, limits.high / 2))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_equal_scores_are_no_certainty(value, num_groups):
    """Of 20 that are all 1 the rule of three says that at least 86 % are; Wilson's interval says 84 %."""
    found = estimate([group([value] * 20)] * num_groups, bounded=True)
    assert found.low < found.high
    assert found.low <= value <= found.high
    if value == 1 and num_groups == 1:
        assert (found.low, found.high) == wilson(20, 20)


def test_losses_keep_their_scale():
    same = estimate([group([3.5] * 9)])
    assert (same.low, same.value, same.high) == (3.5, 3.5, 3.5)


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=2, max_size=9), min_size=1, max_size=3),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_intervals_hold_the_mean_and_stay_inside(rows, num_names):
    groups = [group(row, [index % num_names if num_names > 1 else f"{place}-{index}" for index, _ in enumerate(row)])
              for place, row in enumerate(rows)]  # fmt: skip
    found = estimate(groups, bounded=True)
    assert found.value == pytest.approx(np.mean([np.mean(row) for row in rows]))
    assert found.low is None or 0 <= found.low <= found.value + 1e-9
    assert found.high is None or found.value - 1e-9 <= found.high <= 1
    flipped = [Group(1 - each.values, None, each.clusters) for each in groups]
    different = paired_difference(groups, flipped, bounded=True)
    assert different.value == pytest.approx(1 - 2 * found.value)
    assert different.low is None or -1 <= different.low <= different.value + 1e-9
    assert 0 < different.p <= 1


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    # Two-sided binomial tests by hand: 2 * (1 + 5) / 2**5, 2 / 2**10, 2 * (1 + 10 + 45 + 120) / 2**10.
    [(4, 1, 0.375), (0, 10, 2 / 1024), (3, 7, 352 / 1024), (5, 5, 1.0), (0, 0, 1.0), (300, 390, None)],
)
def test_answers_that_are_right_or_wrong_have_mcnemars_test(gained, lost, p):
    first, second = [1] * 9 + [0] * gained + [1] * lost, [1] * 9 + [1] * gained + [0] * lost
    expected = stats.binomtest(gained, gained + lost).pvalue if p is None else p
    for pair in ((first, second), (second, first)):
        found = paired_difference(*([group(each)] for each in pair), bounded=True)
        assert (found.p, found.test) == (pytest.approx(expected), "sign flip")


def test_four_hundred_questions_at_five_positions_are_four_hundred():
    """Two equal models whose answers are right at all positions or at none differed at p = 0.006 before."""
    rng = np.random.default_rng(0)
    one, other = (rng.random((2, 400)) < 0.5).astype(float)
    rows = [[group(each, range(400))] * 5 for each in (one, other)]
    found = paired_difference(*rows, bounded=True)
    gained, lost = int((other > one).sum()), int((other < one).sum())
    assert found.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    single = paired_difference([rows[0][0]], [rows[1][0]], bounded=True)
    assert (found.low, found.high) == pytest.approx((single.low, single.high))
    # Agresti and Min (2005): Wald's with half an answer more in each of the four cells.
    up, down = (gained + 0.5) / 402, (lost + 0.5) / 402
    half = stats.norm.ppf(0.975) * math.sqrt((up + down - (up - down) ** 2) / 402)
    assert (found.low, found.high) == pytest.approx((up - down - half, up - down + half))


def test_the_sign_flip_counts_exchanges():
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8  # all one way, or all the other
    assert sign_flip([1.0, 2.0, -3.0]) == 1
    assert sign_flip([3.0, 1.0, -1.0]) == 6 / 8  # all but 3 - 1 - 1 and its opposite
    assert sign_flip([0.0] * 40) == 1
    assert sign_flip([0.1] * 6) == 2 / 64
    assert sign_flip(np.arange(1.0, 18.0)) is None


@pytest.mark.parametrize("n", [5, 10, 14])
def test_the_sign_flip_is_scipys_permutation_test(n):
    rng = np.random.default_rng(n)
    first, second = rng.normal(size=(2, n))
    expected = stats.permutation_test(
        (second - first,), np.sum, permutation_type="samples", n_resamples=2**n, vectorized=True, axis=-1
    )
    found = paired_difference([group(first)], [group(second)])
    assert (found.p, found.test) == (pytest.approx(expected.pvalue), "sign flip")


@pytest.mark.parametrize("n", [17, 49, 300])
def test_more_pairs_have_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    first, second = rng.normal(size=(2, n))
    found, expected = paired_difference([group(first)], [group(second)]), stats.ttest_rel(second, first)
    limits = expected.confidence_interval()
    assert (found.p, found.test) == (pytest.approx(expected.pvalue), "t")
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))


def test_pairs_are_seen():
    """What differs by a little for every example differs, however much the examples do."""
    values = np.random.default_rng(0).normal(0, 10, 50)
    found = paired_difference([group(values)], [group(values + 0.1)])
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p < 1e-9


def test_no_difference_is_no_certainty():
    """Of 20 pairs without a difference, some could have differed; Tango's score interval says up to 16 %."""
    found = paired_difference([group([0, 1] * 10)], [group([0, 1] * 10)], bounded=True)
    assert (found.value, found.p) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-0.125, 0.125), abs=0.04)


def test_holms_correction_is_the_stepwise_one():
    """By its definition: hypotheses are rejected from the smallest p on, while p <= level / those left."""
    rng = np.random.default_rng(3)
    for p in (rng.random(7) ** 3, np.array([0.01, 0.04, 0.03, 0.04]), np.array([0.5])):
        corrected = holm(p.tolist())
        for level in (0.01, 0.05, 0.2, 0.5):
            allowed = [each <= level / (len(p) - rank) for rank, each in enumerate(sorted(p))]
            assert sum(np.array(corrected) <= level) == [*allowed, False].index(False)
        assert all(one >= two for one, two in zip(corrected, p, strict=True))
    assert holm([0.01, 0.04, 0.03, 0.04]) == pytest.approx([0.04, 0.09, 0.09, 0.09])
    assert holm([]) == []


SHARES = (np.arange(40) + 0.5) / 40
"""True shares, over which coverage is averaged: for one alone that of a discrete interval jumps (Brown et al. 2001)."""


def outcomes(num_values, n):
    """All counts of `n` clusters by value."""
    places = itertools.combinations(range(n + num_values - 1), num_values - 1)
    return np.array([np.diff([-1, *each, n + num_values - 1]) - 1 for each in places])


def covered(values, n, chances, truths, interval):
    """Chance that the interval holds the truth, by truth: the sum over all outcomes, without a draw.

    Args:
        values: Values of a cluster, (K,).
        n: Number of clusters.
        chances: Chance of each value, by truth, (P, K).
        truths: (P,).
        interval: Its limits for values of clusters, (n,).
    """
    counts = outcomes(len(values), n)
    limits = np.array([interval(np.repeat(values, each)) for each in counts])
    chance = np.exp(special.xlogy(counts, chances[:, None]).sum(-1) + special.gammaln(n + 1)
                    - special.gammaln(counts + 1).sum(1))  # fmt: skip
    assert chance.sum(1) == pytest.approx(1)
    held = (limits[:, 0] <= truths[:, None] + 1e-9) & (truths[:, None] - 1e-9 <= limits[:, 1])
    return (chance * held).sum(1)


def right_of(positions, correlation, shares):
    """Chance of each number of right answers to a question, by share."""
    right = np.arange(positions + 1)
    if correlation == 1:
        return np.stack([1 - shares, *np.zeros((positions - 1, len(shares))), shares], 1)
    if correlation == 0:
        return stats.binom.pmf(right, positions, shares[:, None])
    size = 1 / correlation - 1
    return stats.betabinom.pmf(right, positions, shares[:, None] * size, (1 - shares[:, None]) * size)


@pytest.mark.parametrize(
    ("n", "positions", "correlations"),
    [(5, 1, [1]), (10, 1, [1]), (50, 1, [1]), (500, 1, [1]), (5, 5, [0, 0.2, 0.4, 0.7, 1]), (8, 3, [0, 0.3, 0.6, 1]),
     (10, 2, [0, 0.4, 1]), (20, 2, [0, 0.4, 1])],
)  # fmt: skip
def test_intervals_of_shares_hold_the_truth_as_often_as_they_say(n, positions, correlations):
    def interval(right):
        rows = [group(right * positions > place + 0.5, range(n)) for place in range(positions)]
        found = estimate(rows, bounded=True)
        return found.low, found.high

    limits = Remembered(interval)
    found = [
        covered(
            np.arange(positions + 1) / positions,
            n,
            right_of(positions, each, SHARES),
            SHARES,
            lambda right: limits[tuple(right)],
        ).mean()
        for each in correlations
    ]
    assert all(0.935 < each < 0.97 for each in found), found


class Remembered(dict):
    """Intervals by data."""

    def __init__(self, interval):
        self._interval = interval

    def __missing__(self, data):
        self[data] = self._interval(np.array(data))
        return self[data]


@pytest.mark.parametrize("n", [5, 10, 20, 50])
def test_intervals_of_differences_hold_the_truth_as_often_as_they_say(n):
    """Of two models that have nothing in common, or the same luck."""
    first, second = (each.ravel() for each in np.meshgrid(*[np.linspace(0.1, 0.9, 9)] * 2))
    apart = np.stack([first * (1 - second), 1 - first - second + 2 * first * second, second * (1 - first)], 1)
    alike = np.stack([(first - second).clip(0), 1 - abs(first - second), (second - first).clip(0)], 1)

    def interval(changes):
        pair = [group(changes < 0)], [group(changes > 0)]
        found = paired_difference(*pair, bounded=True)
        return found.low, found.high

    limits = Remembered(interval)
    found = [
        covered(np.array([-1, 0, 1]), n, chances, second - first, lambda changes: limits[tuple(changes)]).mean()
        for chances in (apart, alike)
    ]
    assert all(0.935 < each < 0.97 for each in found), found


def test_five_answers_leave_no_choice_for_equal_models():
    """Half of 5 right: intervals that hold differences of up to 3 answers cover 97.9 %, of up to 2 89.1 %."""
    chances = stats.binom.pmf(np.arange(11), 10, 0.5)  # of the difference, from -5 to 5
    assert chances[2:9].sum() == pytest.approx(0.9785, abs=1e-4)
    assert chances[3:8].sum() == pytest.approx(0.8906, abs=1e-4)
    limits = [paired_difference([group([1] * lost + [0] * (5 - lost))], [group([0] * 5)], bounded=True)
              for lost in (3, 4)]  # fmt: skip
    assert [each.high >= 0 for each in limits] == [True, False]


@pytest.mark.parametrize(
    ("name", "design"),
    [("share, right in part", (1, 0)), ("share, right in part", (5, 0.4)), ("difference of shares", (5, 0.4)),
     ("share of right answers", (1, 0, 4)), ("ratio of attention", (1, 0))],
)  # fmt: skip
def test_what_cannot_be_counted_is_drawn(simulation, name, design):
    """`benchmarks/interval_coverage.py` draws more."""
    for size, draws in ((5, 150), (20, 80), (200, 20)):
        found = simulation.coverage(name, simulation.Design(size, *design), draws)
        assert abs(found - 0.95) <= 0.02 + 3 * math.sqrt(0.95 * 0.05 / draws), (size, found)


def test_equal_models_rarely_differ(simulation):
    """McNemar's exact test, over all outcomes; with clusters by drawing."""
    for n in (5, 10, 20):
        share = np.linspace(0.05, 0.5, 10)
        changes = share * (1 - share)
        alarms = [
            chance * (paired_difference([group(np.arange(n) < lost)], [group((np.arange(n) >= lost)
                      & (np.arange(n) < lost + gained))], bounded=True).p < 0.05)
            for lost, _, gained in outcomes(3, n)
            for chance in [stats.multinomial.pmf([lost, n - lost - gained, gained], n,
                                                 np.stack([changes, 1 - 2 * changes, changes], 1))]
        ]  # fmt: skip
        assert np.max(np.sum(alarms, 0)) <= 0.05
    for size, draws in ((5, 100), (20, 40)):
        found = simulation.false_alarms(simulation.Design(size, 5, 0.4), draws)
        assert found <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)

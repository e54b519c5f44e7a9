"""Two arms over seeds: intervals and p-values by hand, and a table that says what the numbers are."""

import itertools
from functools import partial

import numpy as np
import pytest

from meap.evals.proof import MEASURES, compare_arms, draw_arms, mean_over_seeds, sign_flip, table_of_arms
from meap.show.figures import save_panels


def test_the_interval_is_students():
    found = mean_over_seeds([1.0, 2.0, 3.0])
    assert found.value == 2
    # t(0.975, 2) = 4.302653, standard deviation 1, n 3
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [mean_over_seeds(rng.normal(size=6)) for _ in range(2000)]
    assert np.mean([each.low <= 0 <= each.high for each in found]) == pytest.approx(0.95, abs=0.02)


def test_the_p_value_counts_swaps():
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8  # all one way, or all the other
    assert sign_flip([1.0, 2.0, -3.0]) == 1
    assert sign_flip([3.0, 1.0, -1.0]) == 6 / 8  # all but 3 - 1 - 1 and its opposite
    assert sign_flip([0.0] * 4) == 1
    assert sign_flip([0.1] * 6) == 2 / 64


def test_the_p_value_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(1)
    found = [sign_flip(rng.normal(size=8)) for _ in range(2000)]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.03)


def test_too_many_seeds_for_an_exact_test_are_refused():
    with pytest.raises(ValueError, match="at most 16"):
        sign_flip([0.0] * 17)


@pytest.fixture
def rows():
    numbers = itertools.count()
    first = [{measure.name: 0.1 + 0.01 * (next(numbers) % 5) for measure in MEASURES} for _ in range(6)]
    return compare_arms(first, [{name: value + 0.25 for name, value in run.items()} for run in first])


def test_differences_are_those_of_pairs(rows):
    for row in rows:
        assert row.difference.value == pytest.approx(0.25)
        assert row.difference.high - row.difference.low < 1e-9
        assert row.p == 2 / 64
        assert row.means[1].value - row.means[0].value == pytest.approx(0.25)


def test_table_and_picture(rows, tmp_path):
    head, *lines = table_of_arms(("NTP", "MEAP"), rows)
    assert head.split() == ["NTP", "MEAP", "difference", "95", "%", "interval", "p"]
    assert len(lines) == len(MEASURES)
    assert "+25.0 %" in lines[0]
    assert lines[0].endswith("0.031")
    draws = [partial(draw_arms, row=row, arms=("NTP", "MEAP")) for row in rows]
    save_panels(draws, tmp_path / "proof.png", title="six seeds")
    assert (tmp_path / "proof.png").read_bytes().startswith(b"\x89PNG")

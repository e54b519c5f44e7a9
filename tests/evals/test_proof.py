"""Two arms over seeds: intervals and p-values by hand, and a table that says what the numbers are."""

import itertools
from functools import partial

import pytest
from scipy import stats

from meap.evals.proof import MEASURES, compare_arms, draw_arms, table_of_arms
from meap.show.figures import save_panels


@pytest.fixture
def rows():
    numbers = itertools.count()
    first = [{measure.name: 0.1 + 0.01 * (next(numbers) % 5) for measure in MEASURES} for _ in range(6)]
    return compare_arms(first, [{name: value + 0.25 for name, value in run.items()} for run in first])


def test_intervals_are_students_over_seeds():
    first, second = ([dict.fromkeys((each.name for each in MEASURES), value) for value in values]
                     for values in ((1.0, 2.0, 3.0), (2.0, 4.0, 3.5)))  # fmt: skip
    row = compare_arms(first, second)[0]
    for found, values in ((row.means[0], [1, 2, 3]), (row.means[1], [2, 4, 3.5]), (row.difference, [1, 2, 0.5])):
        expected = stats.ttest_1samp(values, 0).confidence_interval()
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert row.p == 2 / 8


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

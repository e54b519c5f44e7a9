"""Series: the last value of a step holds, means stay within what they average."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meap.report.series import Series, join_series, running_mean

written = st.lists(st.tuples(st.integers(1, 50), st.floats(-100, 100)), min_size=1, max_size=200)


@given(written)
def test_of_several_values_of_a_step_the_last_holds_whatever_the_order(pairs):
    series = join_series(*zip(*pairs, strict=True))
    assert dict(zip(series.steps.tolist(), series.values.tolist(), strict=True)) == dict(pairs)
    assert series.steps.tolist() == sorted(dict(pairs))


def test_what_is_no_number_is_left_out_and_remembered():
    series = join_series([1, 2, 3, 4], [1.0, math.nan, math.inf, 4.0])
    assert series.steps.tolist() == [1, 4]
    assert series.dropped == (2, 3)


@given(written, st.floats(1, 100))
def test_a_running_mean_lies_between_the_values_around(pairs, window):
    series = join_series(*zip(*pairs, strict=True))
    for step, mean in zip(series.steps, running_mean(series, window=window), strict=True):
        around = series.values[np.abs(series.steps - step) <= window / 2]
        assert around.min() - 1e-6 <= mean <= around.max() + 1e-6


def test_a_running_mean_does_not_smear_the_beginning():
    steps = np.arange(1, 1001)
    series = Series(steps, 8.0 * np.exp(-steps / 5))
    assert running_mean(series, window=500)[:5] == pytest.approx(series.values[:5])


def test_the_mean_of_the_end_and_what_was_reached_before():
    series = Series(np.arange(1, 101), np.arange(1.0, 101.0))
    assert series.mean_of_end(0.05) == pytest.approx(98.0)
    assert series.upto(40.5).mean_of_end(0.05) == pytest.approx(39.5)
    assert series.upto(0).mean_of_end(0.05) is None

"""Numbers and tables as text."""

import pytest

from meap.show.numbers import clock, short, size
from meap.show.tables import align


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (2.5e12, "2.50 TB")]
)
def test_sizes(value, text):
    assert size(value) == (text if value else "0 B")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (100 * 3600, "100:00:00"), (-5, "0:00:00")],
)
def test_durations(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(1.5e9, "1.5B"), (20_000, "20k"), (0.0004, "0.0004"), (-2e6, "-2M")])
def test_short_numbers(value, text):
    assert short(value) == text


def test_columns_are_aligned():
    rows = [("", "n", "what"), ("first", "1", "a"), ("x", "1,000", "b")]
    assert align(rows) == ["           n  what", "first      1     a", "x      1,000     b"]
    assert align(rows, left=(0, 2)) == ["           n  what", "first      1  a", "x      1,000  b"]

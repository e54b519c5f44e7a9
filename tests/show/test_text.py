"""Numbers, tables and the text of others, as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meap.show.numbers import clock, short, size
from meap.show.tables import align
from meap.show.text import escape_controls, one_line


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


@given(text=st.text(max_size=60))
def test_nothing_is_left_that_a_terminal_would_obey(text):
    shown = escape_controls(text)
    assert not any((ord(each) < 32 and each not in "\n\t") or 0x7F <= ord(each) < 0xA0 for each in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\u200e\u200f")
    assert escape_controls(shown) == shown


def test_controls_are_named():
    assert escape_controls("a\x1b[31m\r\u202e\tb\n") == "a\\x1b[31m\\x0d\\u202e\tb\n"


@given(text=st.text(max_size=30), most=st.integers(1, 12), keep=st.sampled_from(["start", "end"]))
def test_a_text_in_one_line_is_a_line_of_what_was_kept(text, most, keep):
    line = one_line(text, most=most, keep=keep)
    assert line.splitlines() in ([line], [])
    if text.isascii() and text.isprintable():
        kept = text if len(text) <= most else text[:most] + "…" if keep == "start" else "…" + text[-most:]
        assert line == kept

"""Charts keep what matters of their numbers, and say it."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meap.show.charts import (
    Bars,
    Chart,
    Interval,
    Line,
    draw_heat_map,
    draw_interval_points,
    draw_sideways_bars,
    show_bars,
    show_intervals,
    show_lines,
    thin_out,
)
from meap.show.figures import COLOURS, draw_svg


@given(st.integers(2, 4000), st.integers(5, 60), st.integers(0, 2**32 - 1))
def test_a_thin_picture_keeps_the_extremes_of_every_column_and_the_ends(num_points, columns, seed):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, 1000, num_points)), rng.normal(size=num_points)
    kept = thin_out(x, y, columns=columns)
    assert len(kept) <= 2 * columns + 2
    assert kept[0] == 0
    assert kept[-1] == num_points - 1
    assert np.all(np.diff(kept) > 0)
    assert y[kept].min() == y.min()
    assert y[kept].max() == y.max()
    shifted = rng.integers(num_points)
    y[shifted] = 1e6  # a spike of one step, wherever it is
    assert shifted in thin_out(x, y, columns=columns)


def line(number, values, smooth=None):
    return Line(number, np.arange(1.0, len(values) + 1), np.asarray(values, float), smooth)


def test_lines_have_classes_to_hide_them_by_and_their_values_under_the_pointer():
    smooth = np.full(3, 2.0)
    svg = show_lines(Chart("Loss", [line(0, [1, 2, 3], smooth), line(1, [4, 5])], "steps", "nats", marks=())).svg
    assert re.findall(r'class="((?:raw|main) r\d)"', svg) == ["raw r0", "main r0", "main r1"]
    told = re.findall(r'class="place">([^<]*)</tspan>(.*?)</text>', svg)
    assert [label for label, _ in told] == ["1 steps", "2 steps", "3 steps"]
    assert [re.findall(r'class="f(\d) r\d">([^<]*)<', values) for _, values in told] == [
        [("0", "2"), ("1", "4")],
        [("0", "2"), ("1", "5")],
        [("0", "2")],
    ]
    assert 'aria-label="Loss: nats by steps"' in svg


def test_beyond_the_last_colour_lines_are_dashed():
    number = len(COLOURS)
    svg = show_lines(Chart("", [line(0, [1, 2]), line(number, [2, 3])], "x", "y")).svg
    solid, dashed = (re.findall(rf'class="main r{each}"><path [^>]*', svg)[0] for each in (0, number))
    assert "dasharray" not in solid
    assert "dasharray" in dashed


def test_first_steps_may_lie_beyond_the_picture_but_no_whole_line():
    falls = line(0, [100.0] * 5 + [1.0] * 95)
    short = line(1, [50.0] * 3)
    svg = show_lines(Chart("", [falls, short], "x", "y", is_cut=True)).svg
    heights = [float(y) for y in re.findall(r'class="main r1"><path d="M\S+ (\S+)L', svg)]
    assert heights
    assert all(0 < height < 270 for height in heights)
    alone = show_lines(Chart("", [falls], "x", "y", is_cut=True)).svg
    assert float(re.findall(r'class="main r0"><path d="M\S+ (\S+?)L', alone)[0]) < 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.booleans())
def test_bars_tell_every_value(values, is_share):
    bars = Bars("t", [str(each) for each in range(len(values))], values, "x", "y", is_share=is_share)
    assert [told for _, told in bars.rows()] == [bars.format_value(value) for value in values]


def test_labels_below_bars_do_not_meet():
    labels = [f"{1 << each:,}-{(2 << each) - 1:,}" for each in range(20)]
    svg = show_bars(Bars("t", labels, range(20), "x", "y", reference=3.0)).svg
    shown = re.findall(r'<text [^>]*x="([\d.]+)" y="[\d.]+">([\d,]+-[\d,]+)</text>', svg)
    assert len(shown) > 1
    reach = [(float(x) - 3.1 * len(text), float(x) + 3.1 * len(text)) for x, text in shown]
    assert all(one[1] < other[0] for one, other in itertools.pairwise(reach))
    assert list(re.findall(r'class="place">([^<]*)<', svg)) == [f"{a}: {b}" for b, a in enumerate(labels)]


def test_intervals_are_drawn_one_above_the_other_without_text():
    svg = show_intervals("a loss", [Interval(0, 1.0, 0.5, 1.5), Interval(2, 1.2, 1.0, 1.4)]).svg
    assert re.findall(r'class="(r\d)"', svg) == ["r0", "r0", "r2", "r2"]
    assert "<text" not in svg
    assert 'aria-label="a loss"' in svg


def test_a_heat_map_has_a_number_in_each_cell_that_was_asked():
    values = [[0.0, 1.0], [math.nan, 0.25]]
    drawn = draw_svg(lambda axes: draw_heat_map(axes, values, columns=["a", "b"], rows=["0", "9"], label="share"))
    assert re.findall(r">(\d+)</text>", drawn.svg)[-3:] != []
    assert {"0", "100", "25"} <= set(re.findall(r">(\d+)</text>", drawn.svg))
    assert "nan" not in drawn.svg
    assert "<image" not in drawn.svg, "a picture in the picture follows no theme"


@pytest.mark.parametrize("line_style", ["-", "none"])
def test_points_with_intervals_and_their_legend(line_style):
    def draw(axes):
        found = [{"value": 0.5, "low": 0.4, "high": 0.7}] * 2
        draw_interval_points(axes, [1, 2], found, colour=COLOURS[1], label="a <b>", line=line_style)
        axes.set_title("title")
        axes.legend()

    drawn = draw_svg(draw)
    assert drawn.title == "title"
    [entry] = drawn.legend
    assert (entry.label, entry.colour) == ("a <b>", "c1")
    assert entry.dashes == ("" if line_style == "-" else "point")
    assert "a <b>" not in drawn.svg


def test_sideways_bars_say_their_shares():
    svg = draw_svg(lambda axes: draw_sideways_bars(axes, ["$a$", "<b>"], [0.25, 0.5])).svg
    for text in ("$a$", "&lt;b&gt;", "25.0%", "50.0%"):
        assert text in svg

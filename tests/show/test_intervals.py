"""Values with intervals, as a small picture and as points with a legend."""

import re

import pytest

from meap.show.figures import COLOURS, draw_svg
from meap.show.intervals import Interval, draw_interval_points, show_intervals


def test_intervals_are_drawn_one_above_the_other_without_text():
    svg = show_intervals("a loss", [Interval(0, 1.0, 0.5, 1.5), Interval(2, 1.2, 1.0, 1.4)]).svg
    assert re.findall(r'class="(r\d)"', svg) == ["r0", "r0", "r2", "r2"]
    assert "<text" not in svg
    assert 'aria-label="a loss"' in svg


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

"""Lines keep what matters of their numbers, and say it."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meap.show.figures import COLOURS
from meap.show.lines import Chart, Line, show_lines, thin_out


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

"""Bars say their values, and their labels can be read."""

import itertools
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap.show.bars import Bars, draw_sideways_bars, show_bars
from meap.show.figures import draw_svg


@settings(suppress_health_check=[HealthCheck.too_slow])
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


def test_sideways_bars_say_their_shares():
    svg = draw_svg(lambda axes: draw_sideways_bars(axes, ["$a$", "<b>"], [0.25, 0.5])).svg
    for text in ("$a$", "&lt;b&gt;", "25.0%", "50.0%"):
        assert text in svg

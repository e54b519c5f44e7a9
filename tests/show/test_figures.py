"""Inline SVG: the same bytes each time, whole, in the colours of the style sheet, and of nothing else."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from meap.show.bars import Bars, draw_bars, show_bars
from meap.show.figures import FAINT, THEME, draw_svg, save_panels
from meap.show.lines import Chart, Line, show_lines
from meap.show.pages import STYLE_FILE


@pytest.fixture(scope="module")
def svgs() -> list[str]:
    lines = [Line(number, np.arange(1.0, 30), np.arange(1.0, 30) * number, np.arange(1.0, 30)) for number in range(9)]
    chart = Chart('<&"$x$', lines, "steps", "nats", has_points=True)
    return [show_lines(chart).svg, show_bars(Bars("b", ["a", "b"], [1, 2], "x", "y", reference=1.5)).svg]


def test_it_is_whole_and_scales(svgs):
    for svg in svgs:
        root = ET.fromstring(svg)
        assert root.attrib["viewBox"] == "0 0 480 270"
        assert not {"width", "height"} & root.attrib.keys()
        assert not re.findall(r"https?:|xlink|<image|<style|<script|\b(nan|inf)\b", svg)


def test_text_is_text(svgs):
    texts = [each.text for each in ET.fromstring(svgs[0]).iter("text")]
    assert {"steps", "nats"} <= set(texts)
    assert ET.fromstring(svgs[0]).attrib["aria-label"] == '<&"$x$: nats by steps'


def test_every_colour_is_one_of_the_style_sheet_and_the_other_theme_has_it_too(svgs):
    style = STYLE_FILE.read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for name, colour in THEME.items():
        assert f"--{name}: {colour};" in light
        assert f"--{name}: #" in dark
    for svg in svgs:
        assert not re.findall(r"#[0-9a-f]{6}\b(?!\w)", re.sub(r'(url\(#\w+\)|href="#\w+"|id="\w+")', "", svg))
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(THEME)


def test_ids_are_those_referred_to_and_two_charts_share_none(svgs):
    found = [set(re.findall(r'\bid="(\w+)"', svg)) for svg in svgs]
    for svg, ids in zip(svgs, found, strict=True):
        assert ids == set(re.findall(r'(?:url\(|href=")#(\w+)', svg))
    assert not found[0] & found[1]


def test_the_same_numbers_give_the_same_bytes_in_another_process(svgs):
    code = (
        "import sys\n"
        "from meap.show.bars import Bars, show_bars\n"
        "assert 'matplotlib' not in sys.modules, 'imported before anything is drawn'\n"
        "print(show_bars(Bars('b', ['a', 'b'], [1, 2], 'x', 'y', reference=1.5)).svg, end='')"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert again.stdout == svgs[1]


def test_title_and_legend_stand_beside_the_svg_and_in_the_png(tmp_path):
    def draw(axes):
        axes.plot([1, 2], [1, 2], color=FAINT, linestyle=":", label="dotted")
        axes.set_title("the title", loc="left")
        axes.legend()

    drawn = draw_svg(draw)
    assert (drawn.title, [(each.label, each.colour, each.dashes) for each in drawn.legend]) == (
        "the title",
        [("dotted", "faint", "1.5 2.5")],
    )
    assert "dotted" not in drawn.svg
    path = tmp_path / "folder" / "panels.png"
    save_panels([draw, lambda axes: draw_bars(axes, Bars("b", ["a"], [1], "x", "y"))], path, title="of what")
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    save_panels([draw, lambda axes: draw_bars(axes, Bars("b", ["a"], [1], "x", "y"))], path, title="of what")
    assert path.read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == ["panels.png"]

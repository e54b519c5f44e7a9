"""Turns what a function draws on matplotlib's axes into inline SVG for a page, or into panels of a PNG.

Colours are those of the light theme in `style.css`. In SVG each becomes the custom property of the same name, so that
one chart serves light, dark and paper; text stays text. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any

from meap.extras import require_packages
from meap.places.whole import whole_file

__all__ = [
    "COLOURS",
    "FAINT",
    "INK",
    "LINE",
    "PAPER",
    "THEME",
    "Drawn",
    "Entry",
    "classes",
    "colour_of",
    "draw_svg",
    "save_panels",
]

# Colours that remain distinct without colour vision (Okabe and Ito 2008), dark enough for lines on white paper.
COLOURS = ("#0072b2", "#d55e00", "#008f67", "#b5568f", "#3f9fd6", "#a97900", "#5a5f66", "#7a3fb0")
INK, FAINT, LINE, PAPER = "#1c1e21", "#666677", "#e2e5e9", "#ffffff"
THEME: Mapping[str, str] = {
    "ink": INK,
    "faint": FAINT,
    "line": LINE,
    "paper": PAPER,
    **{f"c{number}": colour for number, colour in enumerate(COLOURS)},
}
"""Custom property of `style.css` -> its colour in the light theme."""

WIDTH, HEIGHT = 480, 270
"""Size of a chart's view box: narrow, so that its text can be read where a phone shows it at 340 pixels."""

_DASHES = {"--": "5 3", ":": "1.5 2.5", "-.": "6 2.5 1.5 2.5", "None": "point"}
_LEGEND_COLUMNS = 4
_LETTERS, _HANDLE_LETTERS, _TITLE_LETTERS = 84, 7, 52
"""Letters that fit above a panel of a PNG: of a legend, the line before one of its entries, and of a title."""
_PANEL_COLUMNS = 3
_TITLE_PAD = 8.0
_STYLE: Any = {
    "font.size": 10.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar is a character like any other
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": _TITLE_PAD,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "path.simplify": False,
    "path.snap": False,
}

_Draw = Callable[[Any], None]


@dataclass(frozen=True)
class Entry:
    """An entry of a legend."""

    label: str
    colour: str
    """Name of a custom property."""
    dashes: str
    """As `stroke-dasharray` takes them; empty for a solid line, `point` or `star` where there is none between."""


@dataclass(frozen=True)
class Drawn:
    """A chart as a page shows it: the title and the legend are HTML, which wraps where the screen is narrow."""

    title: str
    legend: Sequence[Entry]
    svg: str


def colour_of(number: int) -> str:
    """The colour of series `number`; after the last colour comes the first again."""
    return COLOURS[number % len(COLOURS)]


def classes(*names: str) -> str:
    """The `gid` of an artist whose group is to have these classes in SVG."""
    return f"class:{' '.join(names)}"


def draw_svg(
    draw: _Draw,
    *,
    name: str = "",
    overlay: Callable[[Any], str] | None = None,
    width: float = WIDTH,
    height: float = HEIGHT,
    margins: Mapping[str, float] | None = None,
) -> Drawn:
    """A chart as inline SVG.

    Args:
        draw: Draws on the axes it is given; a title and a legend are taken off and returned beside the picture.
        name: What it shows, for who cannot see it, unlike any other on the page; unset, the title and the axes' labels.
        overlay: Gives further elements, made when the axes have their final size.
        width: Width of the view box.
        height: Height of the view box.
        margins: Where the axes end, as `subplots_adjust` takes it; unset, room is made for what the labels take, which
            takes twice as long.
    """
    require_packages("a chart", "matplotlib", extra="train")
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with rc_context(_STYLE):
        figure = _new_figure(FigureCanvasSVG, (width / 72, height / 72), dpi=72, margins=margins)
        axes = figure.subplots()
        draw(axes)
        title = axes.get_title(loc="left")
        axes.set_title("", loc="left")
        legend = [] if axes.get_legend() is None else list(map(_entry, *axes.get_legend_handles_labels()))
        if axes.get_legend() is not None:
            axes.get_legend().remove()
        name = name or ": ".join(
            filter(None, (title, " by ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))))
        )
        for each in (figure, *figure.axes):
            each.patch.set_visible(False)
        written = io.StringIO()
        # Names of clip paths hang on the salt: two charts of a page must not share one, of which one may be hidden.
        with rc_context({"svg.hashsalt": name}):
            figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        further = overlay(axes) if overlay else ""
    return Drawn(title, legend, _tidy(written.getvalue(), name, width, height, further))


def save_panels(draws: Sequence[_Draw], path: Path, *, title: str, columns: int = _PANEL_COLUMNS) -> None:
    """Write a PNG with a panel for each function, atomically.

    Args:
        draws: Each draws on the axes it is given.
        path: File to write.
        title: What the picture is of.
        columns: Panels side by side, at the most.
    """
    require_packages("a picture", "matplotlib", extra="train")
    # A figure of its own on the Agg canvas: pyplot would pick a window system and keep state.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    num_columns = min(columns, len(draws))
    num_rows = -(-len(draws) // num_columns)
    with rc_context(_STYLE):
        figure = _new_figure(FigureCanvasAgg, (5.8 * num_columns, 4.3 * num_rows), dpi=140)
        title = fill(title, _LETTERS * num_columns)
        figure.suptitle(title, x=0.995, ha="right", fontsize=10, color=FAINT)
        panels = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
        for axes, draw in zip(panels, draws, strict=False):
            draw(axes)
            axes.set_title(fill(axes.get_title(loc="left"), _TITLE_LETTERS))
            if axes.get_legend() is not None:
                _put_legend_above(axes)
        for unused in panels[len(draws) :]:
            unused.set_axis_off()
        with whole_file(path) as draft:
            figure.savefig(draft, format="png", metadata={"Software": None})


def _new_figure(
    canvas: Any, inches: tuple[float, float], *, dpi: int, margins: Mapping[str, float] | None = None
) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=dpi, layout=None if margins else "constrained")
    canvas(figure)
    if margins:
        figure.subplots_adjust(**margins)
    return figure


def _put_legend_above(axes: Any) -> None:
    """Between title and panel, where no curve can run through it."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [fill(label, _LETTERS) for label in labels]
    columns = max(1, min(_LEGEND_COLUMNS, _LETTERS // (max(map(len, labels)) + _HANDLE_LETTERS)))
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        ncols=columns,
        fontsize=7.5,
        columnspacing=1.2,
        handlelength=1.6,
    )
    num_lines = sum(
        max(label.count("\n") + 1 for label in labels[start :: -(-len(labels) // columns)])
        for start in range(-(-len(labels) // columns))
    )
    axes.set_title(axes.get_title(loc="left"), pad=_TITLE_PAD + 4 + 12 * num_lines)


def _entry(handle: Any, label: str) -> Entry:
    from matplotlib.colors import to_hex

    lines = [handle] if hasattr(handle, "get_linestyle") else list(getattr(handle, "lines", ()))[:1]
    source = lines[0] if lines else handle[0]  # of bars the first one
    colour = source.get_color() if hasattr(source, "get_color") else source.get_facecolor()
    property_of = {value: name for name, value in THEME.items()}
    style = source.get_linestyle() if lines else "-"
    dashes = _DASHES.get(style, "") if isinstance(style, str) else ""
    if dashes == "point" and source.get_marker() == "*":
        dashes = "star"
    return Entry(label, property_of.get(to_hex(colour), "ink"), dashes)


def _tidy(svg: str, name: str, width: float, height: float, further: str) -> str:
    """The content of an SVG file as an element of a page: no ids but those referred to, no sizes, colours by name."""
    body = svg[svg.index("<svg") : svg.rindex("</svg>")]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", _tidy_tag, body)
    body = re.sub(r">\s+<", "><", body)
    body = body.replace("<g/>", "").strip()
    told = f'role="img" aria-label="{escape(name)}"' if name else 'aria-hidden="true"'
    return f'<svg viewBox="0 0 {width:g} {height:g}" {told}>{body}{further}</svg>'


def _tidy_tag(found: re.Match[str]) -> str:
    tag = re.sub(r"\s+", " ", found[0]).replace("xlink:href", "href")
    tag = re.sub(r'^<g id="class:([^"]*)"', r'<g class="\1"', tag)
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r"(\.\d)\d+", r"\1", tag) if tag.startswith("<path") and "id=" not in tag else tag
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r"(\d)\.0+(?=[ \",;)])", r"\1", tag)
    tag = re.sub(r" ?\b([MLCz])\b ?", r"\1", tag) if tag.startswith("<path") else tag
    tag = re.sub(rf"font-size: {_STYLE['font.size']}px; |font-family: [^;\"]*(; )?", "", tag)
    for property_, colour in THEME.items():
        tag = tag.replace(colour, f"var(--{property_})")
    return tag

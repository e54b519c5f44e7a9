"""Statistics as one picture: lengths, sources, how often tokens occur, and the main numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from meap.places.whole import named_file
from meap.prep.audit.report import bin_lengths, shares, summary
from meap.prep.audit.statistics import Statistics
from meap.schema import SPLITS

__all__ = ["draw"]

# Colours that remain distinct without colour vision (Okabe and Ito 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#6B6B6B"
_FEWEST_SLOTS, _MOST_BARS = 7, 12
_NAME_HEAD, _NAME_TAIL = 8, 15

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "text.parse_math": False,  # a dollar is a token like any other
}


def draw(statistics: Statistics, path: Path) -> None:
    """Write a PNG.

    Args:
        statistics: What was measured.
        path: File to write, atomically.

    Raises:
        DataError: It cannot be written.
    """
    # A figure of its own on the Agg canvas: pyplot would pick a window system and keep state.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(14, 8.2), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"{statistics.location}   ·   tokenizer {statistics.tokenizer}", x=0.01, ha="left", fontsize=10, color=_GREY
        )
        panels = figure.subplots(2, 3, width_ratios=(1.2, 1, 1))
        _draw_lengths(panels[0][0], statistics)
        _draw_shares(panels[0][1], statistics)
        _draw_numbers(panels[0][2], statistics)
        _draw_ranks(panels[1][0], statistics)
        _draw_tokens(panels[1][1], statistics)
        _draw_repeats(panels[1][2], statistics)
        with named_file("--picture", path) as draft:
            figure.savefig(draft, format="png")


def _draw_lengths(axes: Any, statistics: Statistics) -> None:
    noun = "conversations" if statistics.is_conversations else "documents"
    bins = bin_lengths(statistics)
    axes.bar(range(len(bins)), [count for *_, count in bins], color=_BLUE, width=0.9)
    every = 1 + len(bins) // 10
    axes.set_xticks(range(0, len(bins), every), [_power_of_two(low) for low, *_ in bins][::every])
    axes.grid(axis="y")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    median = statistics.length_at(0.5)
    axes.set(
        title=f"Length of whole {noun}, median {median:,} tokens",
        xlabel="tokens, from this power of two to the next",
        ylabel=noun,
    )


def _draw_shares(axes: Any, statistics: Statistics) -> None:
    by_source = shares(statistics)
    shown = by_source[:_MOST_BARS] if len(by_source) <= _MOST_BARS else by_source[: _MOST_BARS - 1]
    rest = by_source[len(shown) :]
    names, values = [_short(name) for name, *_ in shown], [share for *_, share in shown]
    if rest:
        names.append(f"{len(rest):,} more")
        values.append(sum(share for *_, share in rest))
    _draw_bars(axes, names, values, color=_ORANGE)
    axes.set(title="Share of tokens by source", xlabel="share of all tokens")


def _draw_tokens(axes: Any, statistics: Statistics) -> None:
    total = max(1, int(statistics.token_counts.sum()))
    top = statistics.top_tokens(_MOST_BARS)
    names = [_printable(statistics.token_texts.get(each, "")) or f"id {each}" for each, _ in top]
    _draw_bars(axes, names, [count / total for _, count in top], color=_BLUE)
    axes.set(title="Most frequent tokens", xlabel="share of all tokens")


def _draw_bars(axes: Any, names: list[str], values: list[float], *, color: str) -> None:
    places = range(len(names))
    axes.barh(places, values, color=color, height=0.7)
    axes.set_yticks(places, names)
    axes.set_ylim(max(len(names), _FEWEST_SLOTS) - 0.5, -0.5)  # the first on top, and few bars no thicker than many
    axes.grid(axis="x")
    axes.set_xlim(0, max([0.01, *values]) * 1.22)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if value > 1 else f"{value:.1%}".replace(".0%", "%"))
    axes.xaxis.get_major_locator().set_params(nbins=4)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.1%}", va="center", fontsize=8.5, color=_GREY)


def _draw_ranks(axes: Any, statistics: Statistics) -> None:
    counts = np.sort(statistics.token_counts)[::-1]
    counts = counts[counts > 0]
    # The curve has a point per id; 400 of them, evenly spread on its logarithmic axis, look the same.
    ranks = np.unique(np.geomspace(1, max(1, len(counts)), 400).astype(np.int64))
    if len(counts):
        axes.plot(ranks, counts[ranks - 1], color=_BLUE, linewidth=1.8)
        axes.set(xscale="log", yscale="log")
    unused = len(statistics.token_counts) - len(counts)
    axes.grid()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value < 1e6 else f"{value:.0e}")
    axes.set(
        title=f"Token frequency, {unused:,} of {statistics.vocab_size:,} ids never occur",
        xlabel="rank of the token",
        ylabel="occurrences",
    )


def _draw_numbers(axes: Any, statistics: Statistics) -> None:
    axes.axis("off")
    axes.set_title("In numbers")
    lines = summary(statistics)
    for name in SPLITS:
        of_streams = [split for split in statistics.splits if split.name.rsplit("/", 1)[-1] == name]
        rows, tokens = sum(split.rows for split in of_streams), sum(split.tokens for split in of_streams)
        lines += [(name, f"{rows:,} rows, {tokens:,} tokens")] if of_streams else []
    for number, (name, value) in enumerate(lines):
        height = 0.93 - 0.085 * number
        axes.text(0.0, height, name, color=_GREY, transform=axes.transAxes)
        axes.text(0.42, height, value, transform=axes.transAxes, fontsize=9.5)


def _draw_repeats(axes: Any, statistics: Statistics) -> None:
    names = list(statistics.repeats)
    _draw_bars(axes, names, [each.share for each in statistics.repeats.values()], color=_ORANGE)
    estimated = any(each.one_in > 1 for each in statistics.repeats.values())
    axes.set(title="Copies of what stands elsewhere", xlabel="share" + (", estimated by hash" if estimated else ""))


def _power_of_two(value: int) -> str:
    for unit, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if value >= unit:
            return f"{value // unit}{letter}"
    return str(value)


def _short(name: str) -> str:
    is_long = len(name) > _NAME_HEAD + 1 + _NAME_TAIL
    return f"{name[:_NAME_HEAD]}…{name[-_NAME_TAIL:]}" if is_long else name


def _printable(text: str) -> str:
    """A token as a label; what the picture's font may lack is shown by its number."""
    shown = text.replace(" ", "␣").replace("\n", "↵")
    return "".join(each if each in "␣↵" or "!" <= each <= "ÿ" else f"\\u{ord(each):04x}" for each in shown)[:12]

"""Statistics as one picture: lengths, sources, how often tokens occur, and the main numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meap.errors import DataError
from meap.prep.audit.report import bin_lengths, shares, summary
from meap.prep.audit.statistics import Statistics
from meap.schema import SPLITS
from meap.show.bars import draw_sideways_bars
from meap.show.figures import COLOURS, FAINT, save_panels

__all__ = ["draw"]

_MOST_BARS = 12
_NAME_HEAD, _NAME_TAIL = 8, 15


def draw(statistics: Statistics, path: Path) -> None:
    """Write a PNG.

    Args:
        statistics: What was measured.
        path: File to write, atomically.

    Raises:
        DataError: It cannot be written.
    """
    panels = (_draw_lengths, _draw_shares, _draw_numbers, _draw_ranks, _draw_tokens, _draw_repeats)
    title = f"{statistics.location}   ·   tokenizer {statistics.tokenizer}"
    try:
        save_panels([partial(each, statistics=statistics) for each in panels], path, title=title)
    except OSError as error:
        raise DataError(f"picture={path} cannot be written ({error}): name another file") from error


def _draw_lengths(axes: Any, statistics: Statistics) -> None:
    noun = "conversations" if statistics.is_conversations else "documents"
    bins = bin_lengths(statistics)
    axes.bar(range(len(bins)), [count for *_, count in bins], color=COLOURS[0], width=0.9)
    every = 1 + len(bins) // 10
    axes.set_xticks(range(0, len(bins), every), [_power_of_two(low) for low, *_ in bins][::every])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    median = statistics.length_at(0.5)
    axes.set(
        title=f"Length of {noun}, median {median:,} tokens" if bins else f"Length of {noun}: not known",
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
    draw_sideways_bars(axes, names, values, colour=COLOURS[1])
    axes.set(title="Share of tokens by source", xlabel="share of all tokens")


def _draw_tokens(axes: Any, statistics: Statistics) -> None:
    total = max(1, int(statistics.token_counts.sum()))
    top = statistics.top_tokens(_MOST_BARS)
    names = [_printable(statistics.token_texts.get(each, "")) or f"id {each}" for each, _ in top]
    draw_sideways_bars(axes, names, [count / total for _, count in top])
    axes.set(title="Most frequent tokens", xlabel="share of all tokens")


def _draw_ranks(axes: Any, statistics: Statistics) -> None:
    counts = np.sort(statistics.token_counts)[::-1]
    counts = counts[counts > 0]
    # The curve has a point per id; 400 of them, evenly spread on its logarithmic axis, look the same.
    ranks = np.unique(np.geomspace(1, max(1, len(counts)), 400).astype(np.int64))
    if len(counts):
        axes.plot(ranks, counts[ranks - 1], color=COLOURS[0], linewidth=1.8)
        axes.set(xscale="log", yscale="log")
    unused = len(statistics.token_counts) - len(counts)
    axes.grid(axis="x")
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
        axes.text(0.0, height, name, color=FAINT, transform=axes.transAxes)
        axes.text(0.42, height, value, transform=axes.transAxes, fontsize=9.5)


def _draw_repeats(axes: Any, statistics: Statistics) -> None:
    names = list(statistics.repeats)
    draw_sideways_bars(axes, names, [each.share for each in statistics.repeats.values()], colour=COLOURS[1])
    estimated = any(each.one_in > 1 for each in statistics.repeats.values())
    axes.set(title="Duplicates", xlabel="share" + (", estimated by hash" if estimated else ""))


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

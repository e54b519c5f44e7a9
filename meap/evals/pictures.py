"""One picture per evaluation: a panel for each task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw_key_retrieval", "draw_perplexity", "draw_summary"]

# Colours that remain distinct without colour vision (Okabe and Ito 2008).
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#6B6B6B"

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 24,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
}


def draw_summary(
    panels: Sequence[tuple[Callable[[Any, dict[str, Any]], None], dict[str, Any]]], path: Path, *, title: str
) -> None:
    """Write a PNG with the panels side by side.

    Args:
        panels: For each task, the function that draws it and the numbers it draws.
        path: File to write, atomically.
        title: What was evaluated.
    """
    # A figure of its own on the Agg canvas: pyplot would pick a window system and keep state.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.6 * len(panels), 4.2), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.995, ha="right", fontsize=10, color=_GREY)
        for axes, (draw, numbers) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes, numbers)
        partial = path.with_name(f"{path.name}.partial")
        figure.savefig(partial, format="png")
    partial.replace(path)


def draw_key_retrieval(axes: Any, numbers: dict[str, Any]) -> None:
    """Accuracy by depth with its intervals, and the chance level."""
    series = (("ranking", "ranking", _BLUE, "o", -0.008), ("generation", "generation", _ORANGE, "s", 0.008))
    depths = [each["depth"] for each in numbers["by_depth"]]
    for key, label, colour, marker, shift in series:
        estimates: list[Mapping[str, float]] = [each[key] for each in numbers["by_depth"]]
        values = [each["value"] for each in estimates]
        below = [max(0.0, each["value"] - each["low"]) for each in estimates]
        above = [max(0.0, each["high"] - each["value"]) for each in estimates]
        axes.errorbar(
            [depth + shift for depth in depths],
            values,
            yerr=[below, above],
            color=colour,
            marker=marker,
            markersize=5,
            capsize=3,
            linewidth=1.6,
            elinewidth=1,
            label=f"{label}, {numbers[key]['value']:.1%}",
        )
    axes.axhline(numbers["chance"], color=_GREY, linestyle="--", linewidth=1, label=f"chance, {numbers['chance']:.0%}")
    axes.set(
        title=f"Key retrieval, {numbers['n']} prompts",
        xlabel="depth of the fact (0 first sentence, 1 last)",
        ylabel="accuracy, 95 % interval",
        ylim=(-0.03, 1.03),
        xlim=(-0.05, 1.05),
        xticks=depths,
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend_above(axes)


def draw_perplexity(axes: Any, numbers: dict[str, Any]) -> None:
    """Held-out loss, and how it falls with the tokens that stand before."""
    bins = numbers["loss_by_position"]
    middles = [(each["first"] * each["last"]) ** 0.5 for each in bins]
    axes.plot(
        middles,
        [each["loss"] for each in bins],
        color=_BLUE,
        marker="o",
        markersize=4,
        linewidth=1.6,
        label="by position",
    )
    axes.axhspan(numbers["loss_low"], numbers["loss_high"], color=_ORANGE, alpha=0.18, linewidth=0)
    axes.axhline(
        numbers["loss"],
        color=_ORANGE,
        linewidth=1.4,
        label=f"mean {numbers['loss']:.3f} [{numbers['loss_low']:.3f}, {numbers['loss_high']:.3f}]",
    )
    axes.set(
        title=f"Held-out loss, perplexity {numbers['perplexity']:,.1f}, {numbers['n']:,} rows",
        xlabel="tokens before the predicted one",
        ylabel="loss, nats per token",
        xscale="log",
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend_above(axes)


def _legend_above(axes: Any) -> None:
    """Between title and panel, where no curve can run through it."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        ncols=3,
        fontsize=8.5,
        columnspacing=1.2,
        handlelength=1.6,
    )

"""Pictures of a task's numbers: each function draws on the axes it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

from meap.evals.decay import PAIRS
from meap.evals.tables import unit_of
from meap.show.figures import COLOURS, FAINT, INK
from meap.show.heat_map import draw_heat_map
from meap.show.intervals import draw_interval_points

__all__ = [
    "draw_comparison",
    "draw_curves",
    "draw_decay",
    "draw_decay_pairs",
    "draw_grid",
    "draw_loss",
    "draw_rows",
    "draw_segments",
    "panel",
]

_CROWDED = 8
"""More labels than this along an axis are rotated."""
_Y_LETTERS = 36
"""Letters of a label that fit along the vertical axis."""


def panel(draw: Callable[[Any, dict[str, Any]], None], numbers: dict[str, Any]) -> Callable[[Any], None]:
    """A function that draws `numbers` on the axes it is given."""
    return lambda axes: draw(axes, numbers)


def draw_curves(
    axes: Any, numbers: dict[str, Any], *, x: str, metrics: Sequence[str], x_label: str, x_scale: str = "linear"
) -> None:
    """Metrics along one fact of the rows, with a curve for each value of the other facts.

    Controls are dotted: a curve if they have the fact, else a horizontal line, as for floors of the headline.

    Args:
        axes: Axes to draw on.
        numbers: Numbers of the task.
        x: Fact along the horizontal axis.
        metrics: Keys of the metrics to draw.
        x_label: Label of the horizontal axis.
        x_scale: Its scale: ``linear`` or ``log``.
    """
    rows = [row for row in numbers["rows"] if not row["control"]]
    controls = [row for row in numbers["rows"] if row["control"]]
    others = [fact for fact in numbers["by"] if fact != x and not all(row["by"][fact] is None for row in rows)]
    colours = iter(COLOURS * 4)
    for other in dict.fromkeys(tuple(row["by"][fact] for fact in others) for row in rows):
        some, alike = (
            [row for row in each if row["by"][x] is not None and tuple(row["by"][fact] for fact in others) == other]
            for each in (rows, controls)
        )
        for metric in metrics:
            colour = next(colours)
            name = [numbers["metrics"][metric]["label"]] if len(metrics) > 1 else []
            label = ", ".join([*(f"{value} {fact}" for fact, value in zip(others, other, strict=True)), *name])
            places, found = [row["by"][x] for row in some], [row["metrics"][metric] for row in some]
            draw_interval_points(axes, places, found, colour=colour, label=label)
            axes.plot(
                [row["by"][x] for row in alike],
                [row["metrics"][metric]["value"] for row in alike],
                color=colour,
                linestyle=":",
                linewidth=1.4,
            )
    for row in controls:
        if row["by"][x] is None:
            value = row["metrics"][metrics[0]]["value"]
            names = ", ".join(str(each) for each in row["by"].values() if each is not None)
            label = f"{names}, {100 * value:.1f} %"
            axes.axhline(value, color=next(colours), linestyle=":", linewidth=1.4, label=label)
    for name, scores in numbers.get("floors", {}).items():
        value = scores[metrics[0]]
        axes.axhline(value, color=next(colours), linestyle="-.", linewidth=1, label=f"{name}, {100 * value:.1f} %")
    if any(row["by"][x] is not None for row in controls):
        axes.plot([], [], color=FAINT, linestyle=":", label="controls")
    _chance(axes, numbers, metrics)
    axes.set(title=_title(numbers), xlabel=x_label, xscale=x_scale)
    ticks = sorted({row["by"][x] for row in rows})
    crowded = len(ticks) > _CROWDED and x_scale == "linear"
    axes.set_xticks(ticks, [f"{each:,}" for each in ticks], **({"rotation": 90, "fontsize": 7} if crowded else {}))
    axes.minorticks_off()
    _measure(axes, numbers, metrics)
    axes.legend()


def draw_rows(axes: Any, numbers: dict[str, Any], *, metrics: Sequence[str]) -> None:
    """Metrics of rows that have names rather than numbers."""
    rows = [row for row in numbers["rows"] if not row["control"]]
    for place, (metric, colour) in enumerate(zip(metrics, COLOURS, strict=False)):
        some = [(index, row["metrics"][metric]) for index, row in enumerate(rows) if metric in row["metrics"]]
        found = numbers["metrics"][metric]
        shift = 0.16 * (place - (len(metrics) - 1) / 2)
        label = f"{found['label']}, mean {100 * found['value']:.1f} %"
        places = [index + shift for index, _ in some]
        draw_interval_points(axes, places, [each for _, each in some], colour=colour, label=label, line="none")
    _chance(axes, numbers, metrics)
    axes.set(title=_title(numbers), xlabel=_facts(numbers["by"], rows))
    axes.set_xticks(range(len(rows)), [str(next(iter(row["by"].values()))) for row in rows], rotation=30, ha="right")
    _measure(axes, numbers, metrics)
    axes.legend()


def draw_grid(axes: Any, numbers: dict[str, Any]) -> None:
    """A heat map of the headline by length and depth: the top is the beginning of the haystack."""
    grid, found = numbers["grid"], numbers["metrics"][numbers["headline"]]
    draw_heat_map(
        axes,
        grid["values"],
        columns=[f"{length:,}" for length in grid["lengths"]],
        rows=[f"{depth:g}" for depth in grid["depths"]],
        label=_with_unit(found),
        chance=found["chance"],
    )
    mean = f"mean {100 * found['value']:.1f} %, {numbers['n']:,} prompts"
    axes.set(
        title=f"{numbers['title']}, {mean}{_mark(numbers)}",
        xlabel="length of the prompt, tokens",
        ylabel="depth of the needle, % of the text",
    )


def draw_comparison(axes: Any, numbers: dict[str, Any]) -> None:
    """The headline of two models by row, and the mean."""
    headline = numbers["headline"]
    rows = [row for row in numbers["rows"] if headline in row["metrics"] and len(numbers["rows"]) > 1]
    labels = [
        ", ".join([*(str(each) for each in row["by"].values() if each is not None), *["control"] * row["control"]])
        for row in rows
    ]
    labels = [*labels, "mean" if rows else "all"]
    entries = [*(row["metrics"][headline] for row in rows), numbers["metrics"][headline]]
    pairs = zip(("first", "second"), numbers["models"], COLOURS, (-0.12, 0.12), strict=False)
    for key, name, colour, shift in pairs:
        places = [index + shift for index in range(len(entries))]
        draw_interval_points(axes, places, [each[key] for each in entries], colour=colour, label=name, line="none")
    for place, entry in enumerate(entries):
        if entry["difference"]["p_holm"] < 0.05:
            top = max(entry[key]["high"] or entry[key]["value"] for key in ("first", "second"))
            axes.annotate("*", (place, top), ha="center", va="bottom", fontsize=12)
    axes.plot([], [], color=INK, marker="*", linestyle="none", label="p < 0.05 after Holm's correction")
    _chance(axes, numbers, [headline])
    axes.set(title=numbers["title"], xlim=(-0.6, len(entries) - 0.4), xlabel=_facts(numbers["by"], rows))
    crowded = {"rotation": 90, "fontsize": 8} if len(labels) > _CROWDED else {"rotation": 30, "ha": "right"}
    axes.set_xticks(range(len(entries)), labels, **(crowded if rows else {}))
    _measure(axes, numbers, [headline])
    axes.legend()


def draw_loss(axes: Any, numbers: dict[str, Any]) -> None:
    """Held-out loss, and its fall with the number of preceding tokens."""
    bins, loss = numbers["loss_by_position"], numbers["metrics"]["loss"]
    middles = [(each["first"] * each["last"]) ** 0.5 for each in bins]
    values = [each["loss"] for each in bins]
    axes.plot(middles, values, color=COLOURS[0], marker="o", markersize=4, linewidth=1.6, label="by position")
    label = f"mean {loss['value']:.4f}"
    if loss["low"] is not None and loss["high"] is not None:
        axes.axhspan(loss["low"], loss["high"], color=COLOURS[1], alpha=0.18, linewidth=0)
        label += f" [{loss['low']:.4f}, {loss['high']:.4f}], shaded: 95 % interval"
    axes.axhline(loss["value"], color=COLOURS[1], linewidth=1.4, label=label)
    axes.set(
        title=f"{numbers['title']}, {numbers['n']:,} rows{_mark(numbers)}",
        xlabel="tokens before the predicted one",
        ylabel="loss, nats per token",
        xscale="log",
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend()


def draw_decay(axes: Any, numbers: dict[str, Any]) -> None:
    """What masks change in one model: decay of attention by layer, with a curve for each length of sequences."""
    for each, colour in zip(numbers["lengths"], COLOURS * 4, strict=False):
        layers = [layer for layer in each["layers"] if layer["decay"]["value"] is not None]
        of_all = each["decay"]
        overall = "" if of_all["value"] is None else f", all layers {100 * of_all['value']:.1f} %"
        places = [layer["layer"] + 1 for layer in layers]
        label = f"{each['length']:,} tokens{overall}"
        draw_interval_points(axes, places, [layer["decay"] for layer in layers], colour=colour, label=label)
    axes.set(title=f"{numbers['title']}, clean (X_N) to masked (X_M)", xlabel="layer")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _decay_axis(axes)


def draw_decay_pairs(axes: Any, numbers: dict[str, Any]) -> None:
    """Decay of attention between all pairs of model and input, with points for each length of sequences."""
    pairs = list(numbers["lengths"][0]["pairs"])
    for number, (each, colour) in enumerate(zip(numbers["lengths"], COLOURS * 4, strict=False)):
        shift = 0.14 * (number - (len(numbers["lengths"]) - 1) / 2)
        known = [(place + shift, each["pairs"][pair]["decay"]) for place, pair in enumerate(pairs)]
        known = [(place, found) for place, found in known if found["value"] is not None]
        places, found = [place for place, _ in known], [found for _, found in known]
        draw_interval_points(axes, places, found, colour=colour, label=f"{each['length']:,} tokens", line="none")
    axes.set(title=numbers["title"], xlim=(-0.6, len(pairs) - 0.4))
    axes.set_xticks(range(len(pairs)), [_pair_label(pair, numbers["models"]) for pair in pairs], fontsize=7.5)
    _decay_axis(axes)


def _pair_label(pair: str, models: Sequence[str]) -> str:
    (before, clean), (after, masked) = PAIRS[pair]
    names = {"clean": "X_N", "masked": "X_M"}
    label = "\n".join(
        fill(each, 14) for each in (f"{models[before]} {names[clean]}", f"to {models[after]} {names[masked]}")
    )
    return f"{label}\n(paper)" if pair == "paper" else label


def _decay_axis(axes: Any) -> None:
    axes.axhline(0, color=FAINT, linewidth=1)
    axes.set_ylabel("decay of attention at masked positions, %")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    axes.plot([], [], color=FAINT, label="bars: 95 % intervals")
    axes.legend()


def draw_segments(axes: Any, numbers: dict[str, Any], *, metrics: Sequence[str]) -> None:
    """Shares of attention by segment: bars of one model, or of two side by side."""
    models = numbers.get("models", ["mean over passages"])
    width = 0.8 / len(models)
    for place, (model, which) in enumerate(zip(models, ("first", "second"), strict=False)):
        found = [numbers["metrics"][metric] for metric in metrics]
        found = [each.get(which, each) for each in found]
        places = [index + width * (place - (len(models) - 1) / 2) for index in range(len(metrics))]
        axes.bar(
            places,
            [each["value"] for each in found],
            width,
            color=COLOURS[place],
            alpha=0.75,
            label=model,
        )
        draw_interval_points(axes, places, found, colour=FAINT, label="_", line="none")
        for x, each in zip(places, found, strict=True):
            top = each["value"] if each["high"] is None else each["high"]
            axes.annotate(f"{each['value']:.4f}", (x, top), ha="center", va="bottom", fontsize=7.5)
    axes.set(title=numbers["title"], axisbelow=True)
    axes.set_ylabel("share of the last token's attention")
    axes.plot([], [], color=FAINT, label="bars: 95 % intervals")
    axes.set_xticks(range(len(metrics)), [numbers["metrics"][metric]["label"] for metric in metrics], fontsize=8.5)
    axes.legend()


def _facts(by: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Names of the facts that rows have."""
    return ", ".join(fact.replace("_", " ") for fact in by if any(row["by"][fact] is not None for row in rows))


def _chance(axes: Any, numbers: dict[str, Any], metrics: Sequence[str]) -> None:
    """A line for each chance level."""
    levels: dict[float, list[str]] = {}
    for metric in metrics:
        found = numbers["metrics"].get(metric, {})
        if found.get("chance") is not None:
            levels.setdefault(found["chance"], []).append(found["label"])
    for chance, labels in levels.items():
        of = f" of {', '.join(labels)}" if len(metrics) > 1 else ""
        label = f"chance{of}, {100 * chance:.3g} %"
        axes.axhline(chance, color=FAINT, linestyle="--", linewidth=1, label=label)


def _measure(axes: Any, numbers: dict[str, Any], metrics: Sequence[str]) -> None:
    """Name the vertical axis by what it measures, in the unit of the table, and say what the bars are."""
    found = [numbers["metrics"][metric] for metric in metrics if metric in numbers["metrics"]]
    if found[0]["higher_is_better"]:
        axes.set(ylim=(-0.03, 1.03))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
    labels = [each["label"] for each in found]
    axes.set_ylabel(fill(_with_unit({**found[0], "label": " or ".join(labels)}), _Y_LETTERS))
    axes.plot([], [], color=FAINT, label="bars: 95 % intervals")


def _with_unit(metric: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (metric["label"], unit_of(metric))))


def _title(numbers: dict[str, Any]) -> str:
    return f"{numbers['title']}, {numbers['n']:,} prompts{_mark(numbers)}"


def _mark(numbers: dict[str, Any]) -> str:
    return " (partial)" if numbers["partial"] else ""

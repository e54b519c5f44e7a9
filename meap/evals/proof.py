"""Two ways to train, compared over seeds: the unit of observation is the run, not the example.

An interval over the examples of one pair of runs says nothing about the next pair, since runs with other seeds differ,
too. Here a pair of runs that differ only in the way they were trained counts as one observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meap.evals.decay import HEADLINE, key
from meap.evals.runner import read_results
from meap.evals.scoring import Estimate, Group, estimate, paired_difference
from meap.show.figures import COLOURS, FAINT
from meap.show.intervals import draw_interval_points
from meap.show.tables import align
from meap.synthetic import NUM_CANDIDATES

__all__ = [
    "MEASURES",
    "ArmsRow",
    "Measure",
    "compare_arms",
    "draw_arms",
    "measure_run",
    "table_of_arms",
]

_Runs = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Measure:
    """A number that every run has."""

    name: str
    label: str
    percent: bool = True
    chance: float | None = None

    def shown(self, value: float, *, sign: bool = False) -> str:
        """A value as text."""
        plus = "+" if sign else ""
        return f"{100 * value:{plus}.1f} %" if self.percent else f"{value:{plus}.4f}"


MEASURES = (
    Measure("ranking", "retrieval, ranking", chance=1 / NUM_CANDIDATES),
    Measure("generation", "retrieval, generation"),
    Measure("loss", "held-out loss", percent=False),
    Measure("answer", "attention on the answer"),
    Measure("masked", "attention where masked, NTP on X_N and MEAP on X_M (paper)", percent=False),
    Measure("masked_clean", "attention where masked, both on X_N", percent=False),
    Measure("masked_masked", "attention where masked, both on X_M", percent=False),
    Measure("elsewhere", "its variance elsewhere, 1e-6, NTP on X_N and MEAP on X_M (paper)", percent=False),
    Measure("elsewhere_clean", "its variance elsewhere, 1e-6, both on X_N", percent=False),
    Measure("elsewhere_masked", "its variance elsewhere, 1e-6, both on X_M", percent=False),
)
"""The measures. In the paper's pair the control reads clean text (X_N) and the method masked text (X_M), so that model
and input change at once; on the same text only the model does."""


@dataclass(frozen=True)
class ArmsRow:
    """One measure of two arms."""

    measure: Measure
    values: tuple[tuple[float, ...], tuple[float, ...]]
    """Values of every run, by arm; runs at the same index are a pair."""
    means: tuple[Estimate, Estimate]
    difference: Estimate
    """Second arm less first, over pairs."""
    p: float
    """From `paired_difference`: exact, up to 16 pairs."""


def measure_run(eval_dir: Path) -> dict[str, float]:
    """The value of every measure in the results of an evaluation; a run trained without masks is the control.

    Args:
        eval_dir: Folder of results.json.
    """
    results = read_results(eval_dir)
    tasks, export = results["tasks"], results["export"]

    def value(task: str, metric: str) -> float:
        return tasks[task]["metrics"][metric]["value"]

    view = "masked" if export["source"]["masking_ratio"] else "clean"
    return {
        "ranking": value("record_retrieval", "ranking"),
        "generation": value("record_retrieval", "generation"),
        "loss": value("perplexity", "loss"),
        "answer": value("attention_segments", "sum_answer"),
        **{
            name + (f"_{each}" if each else ""): scale * value("attention_decay", key(HEADLINE, quantity, each or view))
            for name, quantity, scale in (("masked", "score", 1), ("elsewhere", "variance", 1e6))
            for each in ("", "clean", "masked")
        },
    }


def compare_arms(first: _Runs, second: _Runs) -> list[ArmsRow]:
    """For each measure both means, the mean difference of pairs, and its p-value.

    Args:
        first: Values by measure of each run of one arm.
        second: The same of the other arm, in the order of the pairs.
    """
    rows: list[ArmsRow] = []
    for measure in MEASURES:
        before, after = (tuple(run[measure.name] for run in runs) for runs in (first, second))
        differences = [two - one for one, two in zip(before, after, strict=True)]
        first_mean, second_mean, difference = (
            estimate([Group(np.array(values))]) for values in (before, after, differences)
        )
        p = paired_difference(*([Group(np.array(values))] for values in (before, after))).p
        rows.append(ArmsRow(measure, (before, after), (first_mean, second_mean), difference, p))
    return rows


def table_of_arms(arms: tuple[str, str], rows: Sequence[ArmsRow]) -> list[str]:
    """The comparison as lines of text."""
    lines: list[tuple[str, ...]] = [("", *arms, "difference", "95 % interval", "p")]
    for row in rows:
        shown, difference = row.measure.shown, row.difference
        limits = (difference.low, difference.high)
        interval = "-" if None in limits else f"[{', '.join(shown(each or 0.0, sign=True) for each in limits)}]"
        means = (shown(mean.value) for mean in row.means)
        lines.append((row.measure.label, *means, shown(difference.value, sign=True), interval, f"{row.p:.3f}"))
    return align(lines)


def draw_arms(axes: Any, row: ArmsRow, *, arms: tuple[str, str]) -> None:
    """Every pair of runs as a line from one arm to the other, and both means with their intervals.

    Args:
        axes: Axes to draw on.
        row: A row of `compare_arms`.
        arms: Names of the arms.
    """
    scale = 100 if row.measure.percent else 1
    for before, after in zip(*row.values, strict=True):
        axes.plot([0, 1], [scale * before, scale * after], color=FAINT, linewidth=0.8, marker="o", markersize=3)
    for place, (mean, colour) in enumerate(zip(row.means, COLOURS[1::-1], strict=True)):
        found = {key: None if each is None else scale * each for key, each in asdict(mean).items()}
        draw_interval_points(axes, [place + (0.12 if place else -0.12)], [found], colour=colour, label="_")
    if row.measure.chance is not None:
        axes.axhline(scale * row.measure.chance, color=FAINT, linestyle=":", linewidth=1)
    axes.set_xticks([0, 1], arms)
    axes.set_xlim(-0.4, 1.4)
    axes.set_ylabel("%" if row.measure.percent else "")
    axes.set_title(f"{row.measure.label}, p = {row.p:.3f}")

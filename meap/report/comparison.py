"""Compares runs: final figures, settings that differ, evaluation results, and remarks for the reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meap.config.roles import Role, role_of
from meap.report.runs import Run
from meap.report.series import Series

__all__ = ["Comparison", "Figure", "Result", "Setting", "compare"]

_END = 0.05
"""Share of the steps whose mean is a run's final training loss."""

_RATIO = "masking.ratio"


@dataclass(frozen=True)
class Figure:
    """A number of every run."""

    label: str
    values: Sequence[float | None]
    """One per run; None where it is not known."""
    kind: str = "loss"
    """How it is written: `loss`, `count`, `share`, `hours`."""
    better: str = ""
    """`lower` or `higher`, where one of them is better."""


@dataclass(frozen=True)
class Setting:
    """A key of the configuration that runs have different values of."""

    key: str
    values: Sequence[Any]
    """One per run; `...` where the run's configuration has no such key."""
    weight: str
    """`result`: it decides what is trained. `speed`: it should not. `name`: it goes with the name of the run."""


@dataclass(frozen=True)
class Result:
    """A headline number of an evaluation."""

    source: str
    """Name of the file, without its ending."""
    label: str
    name: str
    """The label, with its source where there are several."""
    estimates: Sequence[Mapping[str, float] | None]
    """One per run: value, low, high (95 % interval) and n."""


@dataclass(frozen=True)
class Comparison:
    """What the report says."""

    runs: Sequence[Run]
    figures: Sequence[Figure]
    differing: Sequence[Setting]
    """Those that decide the result first."""
    same: Mapping[str, Any]
    """Settings all runs have in common."""
    versions: Mapping[str, Sequence[Any]]
    """Software and machines of each run's first start, what differs first."""
    results: Sequence[Result]
    remarks: Sequence[str]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first one."""
    configured = [run for run in runs if run.settings]
    keys = list(dict.fromkeys(key for run in configured for key in run.settings))
    values = {key: [run.settings.get(key, ...) for run in runs] for key in keys}
    differ = [key for key in keys if not _alike([run.settings.get(key, ...) for run in configured])]
    differing = sorted((Setting(key, values[key], _weight(key, runs)) for key in differ), key=_rank)
    packages = sorted({name for run in runs for name in run.versions})
    versions = {name: [run.versions.get(name, ...) for run in runs] for name in packages}
    return Comparison(
        runs=runs,
        figures=[figure for figure in _figures(runs) if any(value is not None for value in figure.values)],
        differing=differing,
        same={key: configured[0].settings[key] for key in keys if key not in differ},
        versions=dict(sorted(versions.items(), key=lambda item: _alike(_known(item[1])))),
        results=list(_results(runs)),
        remarks=[*_remarks(runs, differing, versions), *(f"{run.name}: {note}" for run in runs for note in run.notes)],
    )


def _alike(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not ...]


def _weight(key: str, runs: Sequence[Run]) -> str:
    """Data that has moved is the same data: locations count only where the rows differ."""
    role = role_of(key)
    if role is Role.SOURCE:
        rows = [run.rows for run in runs if run.settings]
        return "name" if all(rows) and _alike(rows) else "result"
    return {Role.PLACE: "name", Role.SPEED: "speed"}.get(role, "result")


def _rank(setting: Setting) -> tuple[int, bool, str]:
    return ("result", "speed", "name").index(setting.weight), setting.key != _RATIO, setting.key


def _figures(runs: Sequence[Run]) -> Iterator[Figure]:
    def of_all(measure: Callable[[Run], float | None]) -> list[float | None]:
        return [measure(run) for run in runs]

    def of_series(key: str, measure: Callable[[Series], float | None]) -> list[float | None]:
        return of_all(lambda run: measure(run.series[key]) if key in run.series else None)

    # Masks decide how hard prediction is: under different masks, no training loss is called better.
    by_masking = "lower" if all(run.settings for run in runs) and not _differ_in_masking(runs) else ""
    end = f"mean of the last {_END:.0%} of steps"
    yield Figure("steps", of_all(lambda run: run.last_step), "count")
    yield Figure("tokens seen", of_all(_tokens), "count")
    heldout = of_series("heldout_loss", _last)
    yield Figure("held-out loss, the last", heldout, better="lower")
    yield Figure("held-out perplexity, the last", [_exp(loss) for loss in heldout], better="lower")
    yield Figure("held-out loss, the lowest", of_series("heldout_loss", lambda each: each.values.min()), better="lower")
    yield Figure(f"training loss, {end}", of_series("train_loss", _end), better=by_masking)
    yield Figure("training loss of masked targets, likewise", of_series("masked_loss", _end), better=by_masking)
    yield Figure("training loss of clean targets, likewise", of_series("clean_loss", _end), better=by_masking)
    yield from _figures_in_common(runs, by_masking)
    yield Figure(
        "masked share of the input or the copied answers, mean",
        of_series("mask_ratio", lambda each: each.values.mean()),
        "share",
    )
    median = of_series("tokens_per_second", lambda each: float(np.median(each.values)))
    yield Figure("tokens per second, median", median, "count", "higher")
    median = of_series("mfu", lambda each: float(np.median(each.values)))
    yield Figure("share of the hardware's peak (MFU), median", median, "share", "higher")
    yield Figure("training time", of_all(lambda run: _last(run.hours)), "hours", "lower")
    yield Figure("starts of the command", of_all(lambda run: len(run.starts) or None), "count")


def _figures_in_common(runs: Sequence[Run], by_masking: str) -> Iterator[Figure]:
    """Losses where the shortest run ended, by tokens where they are known of all runs."""
    sizes = [run.tokens_per_step for run in runs]
    known = [size for size in sizes if size]
    per_step = known if len(known) == len(runs) else [1] * len(runs)
    reached = [run.last_step * size for run, size in zip(runs, per_step, strict=True)]
    if _alike(reached):
        return
    shortest = min(reached)
    where = f"up to {shortest:,} {'tokens' if len(known) == len(runs) else 'steps'}, which all reached"
    cut = [shortest / size for size in per_step]
    for label, key, measure, better in (
        ("held-out loss", "heldout_loss", _last, "lower"),
        ("training loss", "train_loss", _end, by_masking),
    ):
        values = [
            measure(run.series[key].upto(step)) if key in run.series else None
            for run, step in zip(runs, cut, strict=True)
        ]
        yield Figure(f"{label} {where}", values, better=better)


def _last(series: Series | None) -> float | None:
    return float(series.values[-1]) if series is not None and len(series.values) else None


def _end(series: Series) -> float | None:
    return series.mean_of_end(_END)


def _exp(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 700.0))


def _tokens(run: Run) -> float | None:
    return run.tokens_per_step and run.last_step * run.tokens_per_step


def _differ_in_masking(runs: Sequence[Run]) -> bool:
    return not _alike([_masking(run) for run in runs if run.settings])


def _masking(run: Run) -> dict[str, Any]:
    sections = ("masking.", "sft.")
    kept = (key for key in run.settings if key.startswith(sections) and role_of(key) is Role.RESULT)
    return {key: run.settings[key] for key in kept}


def _results(runs: Sequence[Run]) -> Iterator[Result]:
    found = [(source, label) for run in runs for source, each in run.evaluations.items() for label in each.estimates]
    has_one_source = len({source for source, _ in found}) == 1
    for source, label in dict.fromkeys(found):
        of_runs = [run.evaluations[source].estimates.get(label) if source in run.evaluations else None for run in runs]
        yield Result(source, label, label if has_one_source else f"{label} ({source})", of_runs)


def _remarks(runs: Sequence[Run], differing: Sequence[Setting], versions: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    if len(runs) > 1 and all(run.settings for run in runs):
        yield _verdict([setting.key for setting in differing if setting.weight == "result"])
    if faster := [setting.key for setting in differing if setting.weight == "speed"]:
        yield f"Settings that should change speed only differ: {_listed(faster)}."
    # Commands name the yaml, so they differ wherever settings do.
    if changed := [name for name, each in versions.items() if name != "command" and not _alike(_known(each))]:
        yield f"Software or machines differ: {_listed(changed)}."
    if _differ_in_masking(runs):
        yield (
            "Training losses are of differently masked inputs, and more masks make prediction harder: compare held-out "
            "losses, which are of clean text."
        )
    if not _alike([run.last_step for run in runs]):
        yield f"Runs are of different length: {', '.join(f'{run.name} {run.last_step:,} steps' for run in runs)}."
    for run in runs:
        if run.planned_steps is not None and run.last_step < run.planned_steps:
            yield f"{run.name} is not finished: {run.last_step:,} of {run.planned_steps:,} steps."
    yield from _unlike_evaluations(runs)


def _verdict(keys: Sequence[str]) -> str:
    if not keys:
        return "These runs have the same settings."
    if keys == [_RATIO]:
        return f"These runs differ in {_RATIO} alone."
    if keys[0] == _RATIO:
        return f"These runs differ in {_RATIO}, and in {_listed(keys[1:])} too: the ratio is not all that is compared."
    return f"These runs differ in {_listed(keys)}."


def _unlike_evaluations(runs: Sequence[Run]) -> Iterator[str]:
    for source in dict.fromkeys(source for run in runs for source in run.evaluations):
        asked = [run.evaluations[source].asked for run in runs if source in run.evaluations]
        if unlike := [key for key in asked[0] if not _alike([each.get(key) for each in asked])]:
            yield f"Evaluations ({source}) were not of the same questions: {_listed(unlike)} differ."


def _listed(words: Sequence[str]) -> str:
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])

"""What the runs show: means with intervals over seeds, exact tests, the declared verdict and its sentence.

The unit of observation is the run. A difference of two arms has Welch's interval and the p-value of an exact
permutation test: the share of all ways to deal the runs out to the two arms that differ at least as much. Runs of a
seed share initial weights and order of rows, which makes the test conservative. Where they continue from one base, the
unit is the pair of a seed: bases differ more than what is made of them. The interval is then that of a mean, and the
test flips signs. Declared secondaries are corrected for their number (Holm); all other differences are shown without a
correction, and no verdict hangs on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from meap.evals.scoring import Group, estimate, holm, paired_difference
from meap.show.tables import align

from .declaration import ContrastConfig, ExperimentConfig

__all__ = ["find", "sentence_of", "tables_of"]

_LEVEL = 0.05
_ALL_WAYS = 10**9
"""More than there are ways to deal out runs, so that all are tried: the test is exact."""
_FEWEST_RUNS = 2
Found = dict[str, Any]
BySeed = dict[int, float]
Values = dict[tuple[str, str], BySeed]
"""By arm and measure."""


def find(cfg: ExperimentConfig, records: Sequence[Found], choices: dict[str, str]) -> Found:
    """Everything about an experiment that is reported, as JSON values.

    Args:
        cfg: The declaration.
        records: One per finished run.
        choices: Tuned value by arm.
    """
    values: Values = {
        (arm, name): {each["seed"]: each["measures"][name] for each in records if each["arm"] == arm}
        for arm in cfg.arms
        for name in cfg.measures
    }
    has_bases = any(stage.shared for stage in cfg.stages.values())
    difference_of = partial(_difference, values, _differ_in_pairs if has_bases else _differ)
    num_runs = sum(len(cfg.seeds_of(arm)) for arm in cfg.arms)
    found: Found = {
        "title": cfg.title,
        "question": cfg.question,
        "hypothesis": cfg.hypothesis,
        "refuted_by": cfg.refuted_by,
        "not_tried": cfg.not_tried,
        "runs": {"finished": len(records), "declared": num_runs},
        "tokens": max((each["tokens"] for each in records), default=0),
        "hours": sum(each["hours"] for each in records),
        "tuned": {
            "key": cfg.tuning.key,
            "values": list(cfg.tuning.values),
            "choices": choices,
            "at_edge": [
                arm
                for arm, value in choices.items()
                if len(cfg.tuning.values) > 1 and value in {cfg.tuning.values[0], cfg.tuning.values[-1]}
            ],
        },
        "measures": {name: asdict(measure) for name, measure in cfg.measures.items()},
        "arms": {
            arm: {
                "label": cfg.arms[arm].label or arm,
                "seeds": [each["seed"] for each in records if each["arm"] == arm],
                "measures": {
                    name: {"values": runs, **asdict(estimate([Group(np.array(runs))]))}
                    for name in cfg.measures
                    if (runs := list(values[arm, name].values()))
                },
                "curves": [each["curves"] for each in records if each["arm"] == arm],
            }
            for arm in cfg.arms
        },
    }
    control = cfg.primary.control
    found["differences"] = [
        difference
        for name in cfg.measures
        for arm in cfg.arms
        if arm != control
        and not cfg.stages[cfg.measures[name].stage].shared
        and (difference := difference_of(ContrastConfig(arm=arm, control=control, measure=name))) is not None
    ]
    found["primary"] = asdict(cfg.primary) | (difference_of(cfg.primary) or {})
    secondaries = {name: difference_of(each) for name, each in cfg.secondaries.items()}
    tested = {name: each for name, each in secondaries.items() if each is not None}
    if len(tested) == len(secondaries):
        for each, corrected in zip(tested.values(), holm([each["p"] for each in tested.values()]), strict=True):
            each["holm"] = corrected
    found["secondaries"] = tested
    found["verdict"] = _verdict(found)
    found["sentence"] = sentence_of(found)
    return found


def _difference(values: Values, differ: Callable[[BySeed, BySeed], Found], contrast: ContrastConfig) -> Found | None:
    arm, control = (values[each, contrast.measure] for each in (contrast.arm, contrast.control))
    if len(arm.keys() & control.keys()) < _FEWEST_RUNS:
        return None
    named = {"arm": contrast.arm, "control": contrast.control, "measure": contrast.measure}
    return named | differ(arm, control)


def _differ(arm: BySeed, control: BySeed) -> Found:
    """Of runs that have nothing in common."""
    from scipy.stats import permutation_test

    one, other = (np.array(list(each.values())) for each in (arm, control))
    # The mean over two groups is half the sum.
    half = estimate([Group(one), Group(-other)])
    p = permutation_test(
        (one, other),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        n_resamples=_ALL_WAYS,
        vectorized=True,
    ).pvalue
    return {
        "value": float(one.mean() - other.mean()),
        "low": None if half.low is None else 2 * half.low,
        "high": None if half.high is None else 2 * half.high,
        "p": float(p),
        "n": [len(one), len(other)],
    }


def _differ_in_pairs(arm: BySeed, control: BySeed) -> Found:
    """Of runs that continue from one base for each seed."""
    seeds = [seed for seed in arm if seed in control]
    one, other = (Group(np.array([each[seed] for seed in seeds])) for each in (arm, control))
    found = paired_difference([other], [one])
    return {"value": found.value, "low": found.low, "high": found.high, "p": found.p, "n": [len(seeds)] * 2}


def _verdict(found: Found) -> str | None:
    """`supported`, `refuted`, `undecided`; None before all runs are finished."""
    primary = found["primary"]
    if found["runs"]["finished"] < found["runs"]["declared"] or "p" not in primary:
        return None
    sign = 1 if primary["expected"] == "higher" else -1
    if primary["p"] < _LEVEL and sign * primary["value"] < 0:
        return "refuted"
    if max(sign * primary["low"], sign * primary["high"]) < primary["smallest"]:
        return "refuted" if _has_room(found, sign * primary["smallest"]) else "undecided"
    return "supported" if primary["p"] < _LEVEL else "undecided"


def _has_room(found: Found, difference: float) -> bool:
    """Whether the control is far enough from guessing, or from certainty, for a difference to show."""
    primary = found["primary"]
    chance = found["measures"][primary["measure"]]["chance"]
    control = found["arms"][primary["control"]]["measures"][primary["measure"]]["value"]
    return chance is None or chance <= control + difference <= 1


def sentence_of(found: Found) -> str:
    """The answer in the declared words, with the numbers that it rests on."""
    runs, verdict = found["runs"], found["verdict"]
    if verdict is None:
        return f"Declared; {runs['finished']} of {runs['declared']} runs are finished, so there is no verdict."
    primary = found["primary"]
    measure = found["measures"][primary["measure"]]
    arm, control = (found["arms"][primary[key]] for key in ("arm", "control"))
    means = [shown(measure, each["measures"][primary["measure"]]["value"]) for each in (arm, control)]
    return (
        f"{primary[verdict]} ({measure['label']}: {arm['label']} {means[0]}, {control['label']} {means[1]}, difference "
        f"{interval(measure, primary)}, p = {primary['p']:.2g}, {primary['n'][0]} and {primary['n'][1]} seeds)."
    )


def shown(measure: Found, value: float, *, sign: bool = False) -> str:
    """A value as text."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f} %" if measure["percent"] else f"{measure['scale'] * value:{plus}.4f}"


def interval(measure: Found, difference: Found) -> str:
    """A difference with its interval, as text."""
    low, high = (shown(measure, difference[key], sign=True) for key in ("low", "high"))
    return f"{shown(measure, difference['value'], sign=True)} [{low}, {high}]"


def tables_of(found: Found) -> list[list[tuple[str, ...]]]:
    """Means of all arms in all measures; differences from the control; the declared secondaries."""
    measures = found["measures"]
    means = [("arm", "seeds", found["tuned"]["key"], *(each["label"] for each in measures.values()))]
    for arm, each in found["arms"].items():
        cells = [
            shown(measures[name], each["measures"][name]["value"]) if name in each["measures"] else "-"
            for name in measures
        ]
        means.append((each["label"], str(len(each["seeds"])), found["tuned"]["choices"].get(arm, "-"), *cells))
    differences = [("difference from the control", "measure", "value and 95 % interval", "p, not corrected")]
    for each in found["differences"]:
        measure = measures[each["measure"]]
        label = found["arms"][each["arm"]]["label"]
        differences.append((label, measure["label"], interval(measure, each), f"{each['p']:.3g}"))
    declared = [("declared secondary", "measure", "value and 95 % interval", "p", "p, Holm")]
    for each in found["secondaries"].values():
        measure = measures[each["measure"]]
        labels = [found["arms"][each[key]]["label"] for key in ("arm", "control")]
        corrected = f"{each['holm']:.3g}" if "holm" in each else "-"
        declared.append(
            (" less ".join(labels), measure["label"], interval(measure, each), f"{each['p']:.3g}", corrected)
        )
    return [means, declared, differences]


def text_of(found: Found) -> str:
    """All tables and the sentence, as lines of text."""
    parts = ["\n".join(align(table)) for table in tables_of(found) if len(table) > 1]
    return "\n\n".join([found["title"], *parts, found["sentence"]])

"""The decay of attention at masked positions, and the increase of its variance elsewhere: the numbers of Table 10.

Pure functions on responses of `meap.evals.tasks.attention_decay`, each of which holds, for one sequence and one model,
the score S at masked positions and the variance V over the others, for the clean input X_N and the masked one X_M.

    decay               1 - mean S after / mean S before     t of S after - S before: negative for a decay
    variance increase   mean V after / mean V before - 1     t of V after - V before; both are paired

Before and after are two of the four combinations of model and input (`READ`). The paper's is one diagonal, NTP on X_N
against MEAP on X_M, in which both change at once: masks change the attention of a model that never saw one, too, so the
diagonal alone says nothing about training. The other pairs separate them (`PAIRS`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.errors import MismatchError
from meap.evals.scoring import Group, estimate, quantile_of_t, student_t

__all__ = [
    "HEADLINE",
    "PAIRS",
    "READ",
    "Change",
    "change",
    "decay_between",
    "decay_within",
    "key",
    "paired_t",
    "welch_t",
]

HEADLINE = "received_mean"
"""The default variant."""

READ = ((0, "clean"), (0, "masked"), (1, "clean"), (1, "masked"))
"""Which model reads which input."""

PAIRS: dict[str, tuple[tuple[int, str], tuple[int, str]]] = {
    "paper": ((0, "clean"), (1, "masked")),
    "models on X_N": ((0, "clean"), (1, "clean")),
    "models on X_M": ((0, "masked"), (1, "masked")),
    "masking in the first": ((0, "clean"), (0, "masked")),
    "masking in the second": ((1, "clean"), (1, "masked")),
}
"""Before and after: which model and which input."""


@dataclass(frozen=True)
class Change:
    """How much a mean changed from before to after, relative to before."""

    value: float | None
    """None if the mean before is 0."""
    low: float | None
    """95 % interval over sequences; None if there is only one, or if the mean before may be 0."""
    high: float | None
    t: float | None
    """Of the paired differences, after less before; None if they are all equal, or if there is only one."""
    df: float
    p: float | None
    """Two-sided."""


def key(variant: str, quantity: str, view: str) -> str:
    """Column of the responses.

    Args:
        variant: Of `meap.evals.tasks.attention_decay.VARIANTS`, or ``layer_<number>``.
        quantity: ``score`` at masked positions, ``variance`` over the others, or ``rest``, the mean over these.
        view: ``clean`` or ``masked``.
    """
    return f"{variant}_{quantity}_{view}"


def paired_t(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float | None, float, float | None]:
    """t, degrees of freedom and two-sided p of paired differences."""
    differences = after - before
    n = len(differences)
    t, p = student_t(float(differences.mean()), float(differences.var(ddof=1) / n) if n > 1 else 0.0, n - 1)
    return t, n - 1, p


def welch_t(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float | None, float, float | None]:
    """The same for independent samples of unequal variance (Welch 1947)."""
    n = len(before)
    if n < 2:
        return None, 0.0, None
    errors = [float(each.var(ddof=1) / n) for each in (before, after)]
    squares = sum(each**2 for each in errors)
    df = (n - 1) * sum(errors) ** 2 / squares if squares else 0.0
    t, p = student_t(float(after.mean() - before.mean()), sum(errors), df)
    return t, df, p


def change(before: NDArray[np.float64], after: NDArray[np.float64], *, sign: int = 1) -> Change:
    """How much the mean over sequences changed.

    Args:
        before: Values by sequence.
        after: Values of the same sequences.
        sign: -1 counts a decrease as positive; t keeps its sign.
    """
    t, df, p = paired_t(before, after)
    mean = float(before.mean())
    if mean == 0:
        return Change(None, None, None, t, df, p)
    limits = sorted(sign * (ratio - 1) + 0.0 for ratio in _fieller(before, after))  # + 0.0: no -0
    low, high = limits or (None, None)
    return Change(sign * (float(after.mean()) / mean - 1) + 0.0, low, high, t, df, p)


def _fieller(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, ...]:
    """95 % limits of the ratio of two means over the same sequences (Fieller 1954); empty if they are not finite.

    They are the ratios r for which the mean of ``after - r * before`` does not differ from 0 by the t-test.
    """
    n = len(before)
    if n < 2:
        return ()
    x, y = float(before.mean()), float(after.mean())
    (vx, cov), (_, vy) = np.cov(before, after) * (quantile_of_t(n - 1) ** 2 / n)
    a, b, c = x * x - vx, x * y - cov, y * y - vy
    if a <= 0:
        return ()  # the mean before may be 0
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a


def decay_between(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Table 10 with further pairs and definitions, from the responses of two models.

    Args:
        first: Responses of the control, NTP.
        second: Responses of the method, MEAP, on the same sequences with the same masks; in any order.

    Returns:
        ``lengths``: for each length of sequences ``length``, ``n``, and
        ``read``: in the order of `READ`, ``score`` and ``variance``, each the fields of an `Estimate`;
        ``pairs``: by the names of `PAIRS`, ``decay`` and ``variance_increase``, each the fields of a `Change`;
        ``variants``: the pairs by the other definitions of S and V; ``layers``: the paper's pair in each layer;
        ``further``: the paper's pair by mean of ratios, pooled variance, and Welch's t.

    Raises:
        MismatchError: The sequences are not the same.
    """
    by_id = [{response["id"]: response for response in responses} for responses in (first, second)]
    if by_id[0].keys() != by_id[1].keys():
        lone = sorted(by_id[0].keys() ^ by_id[1].keys())
        raise MismatchError(
            f"the two models read different sequences, such as {lone[0]}: evaluate both with the same "
            "attention_decay, seed and limit"
        )
    found: list[dict[str, Any]] = []
    for length in sorted({response["length"] for response in first}):
        names = [name for name, response in by_id[0].items() if response["length"] == length]
        columns = [_columns([responses[name] for name in names]) for responses in by_id]
        by_variant = {
            variant: {
                name: _changes(columns[before[0]], columns[after[0]], variant, (before[1], after[1]))
                for name, (before, after) in PAIRS.items()
            }
            for variant in _definitions(columns[0])
        }
        found.append(
            {
                "length": length,
                "n": len(names),
                "read": [_read(columns[model], view) for model, view in READ],
                "pairs": by_variant.pop(HEADLINE),
                "variants": by_variant,
                "layers": _layers(columns[0], columns[1]),
                "further": _further(columns[0], columns[1]),
            }
        )
    return {"lengths": found}


def decay_within(responses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What masking changes in one model: ``lengths``, each with ``read`` of both inputs and the fields of a pair."""
    found: list[dict[str, Any]] = []
    for length in sorted({response["length"] for response in responses}):
        columns = _columns([response for response in responses if response["length"] == length])
        about = {"length": length, "n": len(next(iter(columns.values())))}
        by_variant = {name: _changes(columns, columns, name, ("clean", "masked")) for name in _definitions(columns)}
        more = {"read": [_read(columns, view) for view in ("clean", "masked")], "layers": _layers(columns, columns)}
        found.append(about | by_variant.pop(HEADLINE) | {"variants": by_variant} | more)
    return {"lengths": found}


_Columns = dict[str, NDArray[np.float64]]


def _columns(responses: Sequence[Mapping[str, Any]]) -> _Columns:
    """Scores and variances of all variants and layers by column; only columns that every sequence has."""
    names = [name for name in responses[0] if name.endswith(("_clean", "_masked"))]
    names = [name for name in names if all(response.get(name) is not None for response in responses)]
    return {name: np.array([response[name] for response in responses], np.float64) for name in names}


def _variants(columns: _Columns) -> list[str]:
    end = key("", "score", "clean")
    return [name.removesuffix(end) for name in columns if name.endswith(end)]


def _definitions(columns: _Columns) -> list[str]:
    """Names of the definitions of S and V, the headline first."""
    names = [name for name in _variants(columns) if not name.startswith("layer_")]
    return sorted(names, key=lambda name: name != HEADLINE)


def _read(columns: _Columns, view: str) -> dict[str, Any]:
    """S and V of one model on one input."""
    return {
        quantity: asdict(estimate([Group(columns[key(HEADLINE, quantity, view)])]))
        for quantity in ("score", "variance")
    }


def _changes(before: _Columns, after: _Columns, variant: str, views: tuple[str, str]) -> dict[str, Any]:
    score, variance = (
        (before[key(variant, quantity, views[0])], after[key(variant, quantity, views[1])])
        for quantity in ("score", "variance")
    )
    return {
        "decay": asdict(change(*score, sign=-1)),
        "variance_increase": asdict(change(*variance)),
    }


def _layers(before: _Columns, after: _Columns) -> list[dict[str, Any]]:
    variants = [variant for variant in _variants(before) if variant.startswith("layer_")]
    # Two models may differ in depth: layers that only one has are not compared.
    shared = [variant for variant in variants if key(variant, "score", "masked") in after]
    return [
        {"layer": int(variant.removeprefix("layer_"))} | _changes(before, after, variant, ("clean", "masked"))
        for variant in sorted(shared, key=lambda name: int(name.removeprefix("layer_")))
    ]


def _further(before: _Columns, after: _Columns) -> dict[str, Any]:
    (score_before, score_after), (variance_before, variance_after), (rest_before, rest_after) = (
        (before[key(HEADLINE, quantity, "clean")], after[key(HEADLINE, quantity, "masked")])
        for quantity in ("score", "variance", "rest")
    )
    # The variance over the tokens of all sequences is the variance within sequences plus that of their means.
    pooled = [float(v.mean() + r.var()) for v, r in ((variance_before, rest_before), (variance_after, rest_after))]
    return {
        "decay_mean_of_ratios": 1 - float((score_after / score_before).mean()) if score_before.all() else None,
        "variance_increase_mean_of_ratios": (
            float((variance_after / variance_before).mean()) - 1 if variance_before.all() else None
        ),
        "variance_increase_pooled": pooled[1] / pooled[0] - 1 if pooled[0] else None,
        "decay_welch": dict(zip(("t", "df", "p"), welch_t(score_before, score_after), strict=True)),
        "variance_increase_welch": dict(zip(("t", "df", "p"), welch_t(variance_before, variance_after), strict=True)),
    }

"""Attention at masked positions: paper (arXiv 2502.07490) Table 10.

The paper reads 500 sequences of 1,024 and of 4,096 tokens, clean (X_N) by the NTP model and with 15 % of the tokens
replaced (X_M) by the MEAP model, and reports the decay of attention at masked positions and the increase of its
variance elsewhere. It does not define the attention score of a position. Here, with ``A[l, h, i, j]`` the softmax
weight of query i on key j <= i:

    r_j   mean of A over layers, heads and the later queries i > j            (`received_mean`, the headline)
    S     mean of r_j over the masked positions M: the same for both inputs and for every model
    V     variance of r_j over the positions that are not in M, without the first and the last

What was matched: the lengths, the number of sequences, the ratio, an exact count of masks as in training. What is ours:
position 0, the attention sink, is never masked; sequences are held-out rows, which begin anywhere in a document,
unchanged by `add_bos`; every sequence has its own mask, drawn by `meap.positions` from the seed and the row's number.
Every model reads both inputs, so that a comparison has all four combinations, the paper's pair, and pairs that separate
the effect of the model from that of the input; a model without a mask token of its own is skipped.

The paper's pair changes model and input at once. Masks alone lower the attention at masked positions, also in a model
that never saw one: a decay of the paper's pair does not show that training with masks made a model attend less to them.

`VARIANTS` are the other readings of the definition, all sums over the same weights. All need care: r_j falls with j
even if attention is uniform, so that V is mostly position and sink (`uniform_relative` removes the position); rows of A
sum to 1, so that less on M is more elsewhere; and to a model trained without the mask token, its embedding is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.errors import ConfigError
from meap.evals.decay import HEADLINE, PAIRS, READ, decay_between, decay_within, key
from meap.evals.lm import Attention, Reading
from meap.evals.pictures import draw_decay, draw_decay_pairs
from meap.evals.task import Contrast, Example, Metric, Output, Response, Scores, Task, TaskInputs
from meap.positions import choose_masked

__all__ = ["TASK", "VARIANTS", "Variant", "examples", "score"]

_VIEWS = ("clean", "masked")


@dataclass(frozen=True)
class Variant:
    """A definition of r_j, and the layers and positions that count."""

    label: str
    received: Callable[[Attention], NDArray[np.float64]]
    """r_j of each layer, (L, T)."""
    only_last_layer: bool = False
    first: int = 1
    """First position that counts."""


def _num_later(attention: Attention) -> NDArray[np.float64]:
    """Number of queries after each key; 1 for the last key, whose sum is 0."""
    num_tokens = attention.later_LT.shape[1]
    return np.maximum(num_tokens - 1 - np.arange(num_tokens), 1).astype(np.float64)


def _received_mean(attention: Attention) -> NDArray[np.float64]:
    return attention.later_LT / _num_later(attention)


def _including_self(attention: Attention) -> NDArray[np.float64]:
    num_tokens = attention.later_LT.shape[1]
    return (attention.later_LT + attention.own_LT) / (num_tokens - np.arange(num_tokens))


def _uniform_relative(attention: Attention) -> NDArray[np.float64]:
    return attention.relative_LT / _num_later(attention)


VARIANTS = {
    HEADLINE: Variant("mean over later queries", _received_mean),
    "received_sum": Variant("sum over later queries", lambda attention: attention.later_LT),
    "including_self": Variant("mean over later queries and itself", _including_self),
    "last_query": Variant("the last query alone", lambda attention: attention.last_LT),
    "uniform_relative": Variant("relative to uniform attention", _uniform_relative),
    "last_layer": Variant("the last layer alone", _received_mean, only_last_layer=True),
    "from_position_0": Variant("position 0 counts", _received_mean, first=0),
    "from_position_4": Variant("positions 0 to 3 do not count", _received_mean, first=4),
}
"""By name; the first is the headline. ``entries``, the variance of single weights, comes in addition."""


def examples(inputs: TaskInputs) -> list[Example]:
    """The first `attention_decay.rows` held-out rows, cut to each length, clean and masked.

    Raises:
        ConfigError: A row is shorter than a length.
    """
    config = inputs.config.attention_decay
    found: list[Example] = []
    for row, whole in enumerate(inputs.heldout_rows[: config.rows]):
        for length in config.lengths:
            ids = np.asarray(whole, np.int32)[:length]
            if len(ids) < length:
                raise ConfigError(
                    f"attention_decay.lengths={list(config.lengths)} are too long: held-out rows have {len(ids):,} "
                    "tokens; give shorter lengths, or perplexity.remote=[<data prepared with longer rows>]"
                )
            is_masked = _masked_positions(row, length, config.mask_ratio, inputs.config.seed)
            masked = np.where(is_masked, np.int32(inputs.tokenizer.mask_id), ids)
            found.append(
                Example(
                    id=f"{length}-{row}",
                    readings=(Reading(ids), Reading(masked)),
                    cluster=f"{row}",
                    facts={"length": length, "masked_tokens": int(is_masked.sum())},
                )
            )
    return found


def score(example: Example, output: Output) -> Scores:
    """S and V of both inputs, by each variant and in each layer; `rest` is the mean of r_j over the positions of V."""
    clean, masked = (reading.ids for reading in example.readings)
    is_masked = clean != masked
    found: Scores = {}
    for view, attention in zip(_VIEWS, output.attention, strict=True):
        for name, variant in VARIANTS.items():
            received_LT = variant.received(attention)
            received_T = received_LT[-1] if variant.only_last_layer else received_LT.mean(0)
            found |= _summarised(name, view, received_T, is_masked, first=variant.first)
        found |= _entries(view, attention, is_masked)
        for layer, received_T in enumerate(_received_mean(attention)):
            found |= _summarised(f"layer_{layer}", view, received_T, is_masked, first=1)
    return found


def _masked_positions(row: int, length: int, ratio: float, seed: int) -> NDArray[np.bool_]:
    in_scope_BT = (np.arange(length) > 0)[None]
    return choose_masked(np.array([row]), num_tokens=length, ratio=ratio, seed=seed, epoch=0, in_scope_BT=in_scope_BT)[
        0
    ]


def _rest(is_masked: NDArray[np.bool_], first: int) -> NDArray[np.bool_]:
    """Positions that are not masked, without those before `first` and without the last, which has no later query."""
    rest = ~is_masked
    rest[:first] = False
    rest[-1] = False
    return rest


def _summarised(
    name: str, view: str, received_T: NDArray[np.float64], is_masked: NDArray[np.bool_], *, first: int
) -> Scores:
    rest = received_T[_rest(is_masked, first)]
    chosen = is_masked & (np.arange(len(is_masked)) >= first)
    if not chosen.any() or not len(rest):
        return {}
    return {
        key(name, "score", view): float(received_T[chosen].mean()),
        key(name, "variance", view): float(rest.var()),
        key(name, "rest", view): float(rest.mean()),
    }


def _entries(view: str, attention: Attention, is_masked: NDArray[np.bool_]) -> Scores:
    """Scores of single weights instead of their means: one for every layer, head and later query."""
    num_layers = len(attention.later_LT)
    rest = _rest(is_masked, 1)

    def mean(sums_LT: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
        return float(sums_LT[:, where].sum() / (num_layers * _num_later(attention)[where].sum()))

    of_rest = mean(attention.later_LT, rest)
    return {
        key("entries", "score", view): mean(attention.later_LT, is_masked),
        key("entries", "variance", view): mean(attention.squares_LT, rest) - of_rest**2,
        key("entries", "rest", view): of_rest,
    }


def _skip(inputs: TaskInputs) -> str | None:
    if not inputs.heldout_rows:
        return inputs.why_no_rows
    if inputs.tokenizer.is_mask_new:
        return (
            f"the model's tokenizer has no {inputs.tokenizer.mask_token}: give its own mask token with "
            "tokenizer.mask_token=<token>"
        )
    return None


def _between(first: Sequence[Response], second: Sequence[Response]) -> dict[str, Any]:
    return decay_between(first, second)


_VIEW_NAMES = {"clean": "X_N", "masked": "X_M"}
_HEADER = ("", "tokens", "decay", "95 % interval", "t (df)", "variance", "95 % interval", "t (df)")


def _tables_of_two(numbers: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """What each model gives to masked positions of each input; the pairs; the pairs by other definitions."""
    names, lengths = numbers["models"], numbers["lengths"]
    labels = {pair: _label_of(pair, names) for pair in PAIRS}
    readers = [f"{names[model]} on {_VIEW_NAMES[view]}" for model, view in READ]
    pairs = [_line(labels[pair], each["length"], each["pairs"][pair]) for each in lengths for pair in PAIRS]
    definitions = [
        (
            f"{quantity}, {_definition(name)}",
            f"{each['length']:,}",
            *(_percent(changes[pair][column]) for pair in PAIRS),
        )
        for each in lengths
        for name, changes in {HEADLINE: each["pairs"], **each["variants"]}.items()
        for quantity, column in (("decay", "decay"), ("variance", "variance_increase"))
    ]
    return [_read_table(readers, lengths), [_HEADER, *pairs], [("", "tokens", *labels.values()), *definitions]]


def _tables_of_one(numbers: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """What the model gives to masked positions of both inputs, and what masks change, by all definitions."""
    lengths = numbers["lengths"]
    changes = [
        _line(f"X_N to X_M, {_definition(name)}", each["length"], found)
        for each in lengths
        for name, found in {HEADLINE: each, **each["variants"]}.items()
    ]
    return [_read_table([f"on {view}" for view in _VIEW_NAMES.values()], lengths), [_HEADER, *changes]]


def _read_table(readers: Sequence[str], lengths: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    header = ("", "tokens", "attention at masked positions", "95 % interval", "variance elsewhere", "95 % interval")
    lines: list[tuple[str, ...]] = [header]
    for each in lengths:
        for reader, found in zip(readers, each["read"], strict=True):
            cells = [cell for name in ("score", "variance") for cell in _value_cells(found[name])]
            lines.append((reader, f"{each['length']:,}", *cells))
    return lines


def _value_cells(found: dict[str, Any]) -> tuple[str, str]:
    limits = [found["low"], found["high"]]
    return f"{found['value']:.3e}", "-" if None in limits else f"[{', '.join(f'{each:.3e}' for each in limits)}]"


def _label_of(pair: str, names: Sequence[str]) -> str:
    label = " to ".join(f"{names[model]} {_VIEW_NAMES[view]}" for model, view in PAIRS[pair])
    return f"{label} (paper)" if pair == "paper" else label


def _definition(name: str) -> str:
    return VARIANTS[name].label if name in VARIANTS else "the single weights"


def _percent(found: dict[str, Any]) -> str:
    return "-" if found["value"] is None else f"{100 * found['value']:+.2f} %"


def _line(label: str, length: int, changes: dict[str, Any]) -> tuple[str, ...]:
    cells: list[str] = []
    for found in (changes["decay"], changes["variance_increase"]):
        limits = [found["low"], found["high"]]
        cells += [
            _percent(found),
            "-" if None in limits else f"[{', '.join(f'{100 * each:+.2f}' for each in limits)}]",
            "-" if found["t"] is None else f"{found['t']:.2f} ({found['df']:.0f})",
        ]
    return label, f"{length:,}", *cells


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    note = (
        "This is what masks change in one model, trained with them or not. The paper's Table 10 compares a model "
        "trained without masks on X_N with one trained with them on X_M: compare both evaluations for it, and for what "
        "training alone changes."
    )
    return decay_within(responses) | {"notes": [note]}


TASK = Task(
    title="Attention at masked positions",
    packages=lambda config: ("scipy",),
    examples=examples,
    score=score,
    metrics=tuple(
        Metric(key(HEADLINE, quantity, view), f"{label}, {name}", bounded=False, higher_is_better=None)
        for quantity, label in (("score", "attention received at masked positions"), ("variance", "variance elsewhere"))
        for view, name in (("masked", "X_M"), ("clean", "X_N"))
    ),
    by=("length",),
    draw=draw_decay,
    skip=_skip,
    further=_further,
    tables=_tables_of_one,
    contrast=Contrast(find=_between, tables=_tables_of_two, draw=draw_decay_pairs),
)

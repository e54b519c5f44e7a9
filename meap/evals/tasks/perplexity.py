"""Held-out loss: how well each token of unseen rows is predicted from those before it.

Rows are the validation rows of data preparation, packed as in training and never masked: the losses of the method and
of its control are the same quantity. What differs from a published perplexity on running text: rows begin anywhere in a
document, attention crosses document borders as in training, and no window slides, so early positions have little
context; `add_bos` does not change rows. Compare models by loss and perplexity only if tokenizer and rows are the same.

``bits_per_byte`` is the loss of all tokens over the bytes of their text in UTF-8, and hardly depends on the tokenizer;
special tokens have a loss, but no bytes. With several data sets, each has its own loss beside that of all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.evals.pictures import draw_loss
from meap.evals.scoring import Estimate, Group, estimate
from meap.evals.task import Candidate, Example, Metric, Output, Response, Scores, Task, TaskInputs

__all__ = ["TASK", "examples", "loss_by_position", "score"]

_NUM_BINS = 16


def examples(inputs: TaskInputs) -> list[Example]:
    """The first `perplexity.rows` held-out rows."""
    num_rows = min(len(inputs.heldout_rows), inputs.config.perplexity.rows or len(inputs.heldout_rows))
    rows = [np.asarray(inputs.heldout_rows[row], np.int32) for row in range(num_rows)]
    texts = inputs.tokenizer.full.decode_batch([ids[1:].tolist() for ids in rows], skip_special_tokens=True)
    return [
        Example(
            id=f"row-{row}",
            candidates=(Candidate(ids, len(ids) - 1),),
            facts={"data_set": inputs.heldout_rows.source_of(row), "bytes": len(text.encode())},
        )
        for row, (ids, text) in enumerate(zip(rows, texts, strict=True))
    ]


def score(example: Example, output: Output) -> Scores:
    """Mean loss of a row in nats per token, its tokens, and its loss by position."""
    (loglikelihoods,) = output.loglikelihoods
    bins = {f"loss_{first}_{last}": -float(mean) for first, last, mean in _binned(loglikelihoods)}
    found = {"loss": -float(loglikelihoods.mean()), "tokens": float(len(loglikelihoods)), **bins}
    if num_bytes := example.facts["bytes"]:
        found["bits_per_byte"] = -float(loglikelihoods.sum()) / math.log(2) / num_bytes
    return found


def loss_by_position(responses: Sequence[Response]) -> list[dict[str, float]]:
    """Mean loss by the number of tokens before the predicted one: the value of more context.

    Returns:
        For bins whose borders grow geometrically: first and last number of tokens before, and the mean loss.
    """
    bins: dict[tuple[int, int], list[float]] = {}
    for response in responses:
        for name, value in response.items():
            if name.startswith("loss_") and value is not None:
                first, last = map(int, name.removeprefix("loss_").split("_"))
                bins.setdefault((first, last), []).append(value)
    return [
        {"first": first, "last": last, "loss": float(np.mean(values))} for (first, last), values in sorted(bins.items())
    ]


def _binned(values: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    borders = sorted({round(border) for border in np.geomspace(1, len(values) + 1, _NUM_BINS + 1)})
    return [(first, beyond - 1, float(values[first - 1 : beyond - 1].mean())) for first, beyond in pairwise(borders)]


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    loss = _loss_of(responses)
    of_sets = {
        name: [response for response in responses if response["data_set"] == name]
        for name in dict.fromkeys(response["data_set"] for response in responses)
    }
    return {
        "num_tokens": int(sum(response["tokens"] for response in responses)),
        "num_bytes": int(sum(response["bytes"] for response in responses)),
        "perplexity": {
            key: None if limit is None else math.exp(limit)
            for key, limit in (("value", loss.value), ("low", loss.low), ("high", loss.high))
        },
        "bits_per_token": loss.value / math.log(2),
        "data_sets": {name: asdict(_loss_of(some)) for name, some in of_sets.items()},
        "loss_by_position": loss_by_position(responses),
    }


def _loss_of(responses: Sequence[Response]) -> Estimate:
    losses, tokens = (np.array([response[name] for response in responses]) for name in ("loss", "tokens"))
    return estimate([Group(losses, tokens)])


def _tables(numbers: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Perplexity, and the loss of each data set if there are several."""
    rows = [("perplexity", numbers["perplexity"])]
    tables: list[list[tuple[str, ...]]] = [[("", "value", "95 % interval"), *(_line(*row, digits=2) for row in rows)]]
    if len(numbers["data_sets"]) > 1:
        header = ("loss by data set", "value", "95 % interval", "rows")
        lines = [(*_line(name, found, digits=4), f"{found['n']:,}") for name, found in numbers["data_sets"].items()]
        tables.append([header, *lines])
    return tables


def _line(name: str, found: dict[str, Any], *, digits: int) -> tuple[str, str, str]:
    limits = [found["low"], found["high"]]
    interval = "-" if None in limits else f"[{', '.join(f'{each:,.{digits}f}' for each in limits)}]"
    return name, f"{found['value']:,.{digits}f}", interval


def _skip(inputs: TaskInputs) -> str | None:
    if not inputs.heldout_rows:
        return inputs.why_no_rows
    return None


TASK = Task(
    title="Held-out loss",
    examples=examples,
    score=score,
    metrics=(
        Metric("loss", "loss, nats per token", weight="tokens", bounded=False, higher_is_better=False),
        Metric("bits_per_byte", "bits per byte", weight="bytes", bounded=False, higher_is_better=False),
    ),
    by=(),
    draw=draw_loss,
    skip=_skip,
    further=_further,
    tables=_tables,
)

"""Held-out loss: how well each token of unseen rows is predicted from those before it.

Rows are the validation rows of data preparation, packed as in training and never masked: the losses of the method and
of its control are the same quantity. What differs from a published perplexity on running text: rows begin anywhere in a
document, attention crosses document borders as in training, and no window slides, so early positions have little
context; `add_bos` does not change rows. Compare models by it only if tokenizer and rows are the same.
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
    return [
        Example(id=f"row-{row}", candidates=(Candidate(np.asarray(ids, np.int32), len(ids) - 1),))
        for row, ids in enumerate(inputs.heldout_rows[:num_rows])
    ]


def score(example: Example, output: Output) -> Scores:
    """Mean loss of a row in nats per token, its tokens, and its loss by position."""
    (loglikelihoods,) = output.loglikelihoods
    bins = {f"loss_{first}_{last}": -float(mean) for first, last, mean in _binned(loglikelihoods)}
    return {"loss": -float(loglikelihoods.mean()), "tokens": float(len(loglikelihoods)), **bins}


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
    weights = np.array([response["tokens"] for response in responses])
    loss = estimate([Group(np.array([response["loss"] for response in responses]), weights)])
    low, high, error = math.exp(loss.low), math.exp(loss.high), math.exp(loss.value) * loss.standard_error
    return {
        "num_tokens": int(weights.sum()),
        "perplexity": asdict(Estimate(math.exp(loss.value), low, high, loss.n, error)),
        "bits_per_token": loss.value / math.log(2),
        "loss_by_position": loss_by_position(responses),
    }


def _skip(inputs: TaskInputs) -> str | None:
    if not inputs.heldout_rows:
        return inputs.why_no_rows
    return None


TASK = Task(
    title="Held-out loss",
    examples=examples,
    score=score,
    metrics=(Metric("loss", "loss, nats per token", weight="tokens", bounded=False, higher_is_better=False),),
    by=(),
    draw=draw_loss,
    skip=_skip,
    further=_further,
)

"""Held-out loss: how well each token of unseen rows is predicted from those before it.

Rows are those that data preparation set aside, packed as in training, and are never masked: the loss of the method and
of its control are the same quantity. What differs from a published perplexity on running text: rows begin anywhere in a
document, attention crosses document borders as in training, and no window slides, so early positions have little
context. Compare models by it only where tokenizer and rows are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.errors import ConfigError, DataError
from meap.evals.scoring import Estimate, bootstrap_ratio
from meap.evals.task import TaskInputs, TaskResult

__all__ = ["check", "evaluate", "loss_by_position"]

_NUM_BINS = 16


def check(inputs: TaskInputs) -> None:
    """Raise `DataError` if there are no rows, `ConfigError` if they are longer than the model's context."""
    if not inputs.heldout_rows:
        raise DataError("there are no held-out rows to score: prepare the data with a validation split")
    num_inputs = len(inputs.heldout_rows[0]) - 1
    if num_inputs > inputs.model.max_positions:
        raise ConfigError(
            f"held-out rows take {num_inputs:,} tokens, but the model was made for {inputs.model.max_positions:,}: "
            "give data.remote=<folder> with rows of the model's length"
        )


def evaluate(inputs: TaskInputs) -> TaskResult:
    """Token-weighted loss of the first `eval.perplexity_rows` held-out rows, with a bootstrap interval over rows."""
    num_rows = min(len(inputs.heldout_rows), inputs.config.perplexity_rows or len(inputs.heldout_rows))
    step = inputs.config.batch_size
    losses: list[NDArray[np.float64]] = []
    for start in range(0, num_rows, step):
        rows = inputs.heldout_rows[start : min(start + step, num_rows)]
        losses += [-loglikelihoods for loglikelihoods in inputs.model.loglikelihoods(rows)]
        inputs.progress(len(losses), num_rows)

    loss = bootstrap_ratio([float(each.sum()) for each in losses], [len(each) for each in losses])
    perplexity = Estimate(*(math.exp(each) for each in (loss.value, loss.low, loss.high)), n=loss.n)
    numbers: dict[str, Any] = {
        "n": num_rows,
        "num_tokens": sum(map(len, losses)),
        "loss": loss.value,
        "loss_low": loss.low,
        "loss_high": loss.high,
        "perplexity": perplexity.value,
        "perplexity_low": perplexity.low,
        "perplexity_high": perplexity.high,
        "bits_per_token": loss.value / math.log(2),
        "loss_by_position": loss_by_position(losses),
    }
    records = [{"row": row, "tokens": len(each), "loss": float(each.mean())} for row, each in enumerate(losses)]
    return TaskResult({"held-out loss, nats per token": loss, "held-out perplexity": perplexity}, numbers, records)


def loss_by_position(losses: Sequence[NDArray[np.float64]]) -> list[dict[str, float]]:
    """Mean loss by the number of tokens that stand before the predicted one: what more context is worth.

    Args:
        losses: For each row, (T,) losses in nats.

    Returns:
        For bins whose borders grow geometrically: first and last number of tokens before, and the mean loss.
    """
    longest = max(map(len, losses))
    borders = sorted({round(border) for border in np.geomspace(1, longest + 1, _NUM_BINS + 1)})
    bins: list[dict[str, float]] = []
    for first, beyond in pairwise(borders):
        inside = np.concatenate([each[first - 1 : beyond - 1] for each in losses])
        bins.append({"first": first, "last": beyond - 1, "loss": float(inside.mean())})
    return bins

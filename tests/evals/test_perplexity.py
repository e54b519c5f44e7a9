"""Held-out loss of models whose loss is known."""

import math
from itertools import pairwise

import numpy as np
import pytest

from meap.config import EvalConfig
from meap.errors import ConfigError, DataError
from meap.evals import perplexity
from meap.evals.task import LazyRows, TaskInputs


def inputs(model, tokenizer, *, num_rows=20, length=33, limit=0):
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, tokenizer.vocab_size - 1, length) for _ in range(num_rows)]
    config = EvalConfig(model="m", out_dir="o", perplexity_rows=limit, batch_size=8)
    return TaskInputs(model, tokenizer, config, LazyRows(num_rows, rows.__getitem__))


def test_a_blind_model_has_the_perplexity_of_the_vocabulary(blind, tokenizer):
    numbers = perplexity.evaluate(inputs(blind, tokenizer)).numbers
    assert numbers["perplexity"] == pytest.approx(tokenizer.vocab_size)
    assert numbers["loss"] == numbers["loss_low"] == numbers["loss_high"] == pytest.approx(math.log(301))
    assert numbers["bits_per_token"] == pytest.approx(math.log2(301))
    assert (numbers["n"], numbers["num_tokens"]) == (20, 20 * 32)


def test_the_loss_is_that_of_transformers(lm, llama, tokenizer):
    import torch

    given = inputs(lm, tokenizer, num_rows=5)
    result = perplexity.evaluate(given)
    with torch.inference_mode():
        rows = torch.tensor(np.stack(given.heldout_rows[:5]))
        expected = float(llama(rows, labels=rows).loss)
    assert result.numbers["loss"] == pytest.approx(expected, abs=1e-4)
    assert result.numbers["loss_low"] < expected < result.numbers["loss_high"]
    assert [record["row"] for record in result.records] == list(range(5))
    assert np.mean([record["loss"] for record in result.records]) == pytest.approx(expected, abs=1e-4)


def test_only_the_first_rows_are_read(blind, tokenizer):
    given = inputs(blind, tokenizer, limit=5)
    seen: list[tuple[int, int]] = []
    read: list[int] = []
    counting = LazyRows(20, lambda index: read.append(index) or given.heldout_rows[index])
    perplexity.evaluate(
        TaskInputs(blind, tokenizer, given.config, counting, lambda done, total: seen.append((done, total)))
    )
    assert read == list(range(5))
    assert seen == [(5, 5)]


def test_bins_cover_every_position_once():
    losses = [np.arange(1.0, 101.0), np.arange(1.0, 51.0)]
    bins = perplexity.loss_by_position(losses)
    assert bins[0]["first"] == 1
    assert bins[-1]["last"] == 100
    assert all(before["last"] + 1 == after["first"] for before, after in pairwise(bins))
    assert all(each["first"] <= each["loss"] <= each["last"] for each in bins)


def test_the_shortest_row_has_a_bin():
    assert perplexity.loss_by_position([np.array([2.0])]) == [{"first": 1, "last": 1, "loss": 2.0}]


def test_what_cannot_be_scored_is_refused_beforehand(blind, lm, tokenizer):
    with pytest.raises(DataError, match="there are no held-out rows to score"):
        perplexity.check(TaskInputs(blind, tokenizer, EvalConfig(model="m", out_dir="o")))
    with pytest.raises(ConfigError, match="held-out rows take 129 tokens, but the model was made for 128"):
        perplexity.check(inputs(lm, tokenizer, length=130))
    perplexity.check(inputs(lm, tokenizer, length=129))


def test_rows_are_numbered_like_a_list():
    rows = LazyRows(3, lambda index: np.array([index]))
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    assert [int(row[0]) for row in rows[1:9]] == [1, 2]
    with pytest.raises(IndexError, match="row 3 of 3"):
        rows[3]

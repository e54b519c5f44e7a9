"""Held-out loss of models whose loss is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from meap.errors import ConfigError
from meap.evals.runner import run_tasks
from meap.evals.task import Candidate, Example, LazyRows, Output, TaskInputs
from meap.evals.tasks.perplexity import TASK, examples, loss_by_position, score


def response(losses):
    ids = np.zeros(len(losses) + 1, np.int32)
    return score(
        Example("row", candidates=(Candidate(ids, len(losses)),), facts={"bytes": 4}),
        Output("", (-np.asarray(losses),)),
    )


def test_the_loss_is_that_of_transformers(lm, llama, make_inputs, tmp_path):
    inputs = make_inputs("perplexity.rows=5")
    found = run_tasks(inputs, lm, ["perplexity"], tmp_path)["tasks"]["perplexity"]
    with torch.inference_mode():
        rows = torch.tensor(np.stack(inputs.heldout_rows[:5]))
        expected = float(llama(rows, labels=rows).loss)
    loss = found["metrics"]["loss"]
    assert loss["value"] == pytest.approx(expected, abs=1e-4)
    assert loss["low"] < expected < loss["high"]
    assert found["perplexity"]["value"] == pytest.approx(np.exp(expected), rel=1e-3)
    assert (found["n"], found["num_tokens"]) == (5, 160)
    text = [inputs.tokenizer.decode(row[1:].tolist(), skip_special_tokens=True) for row in inputs.heldout_rows[:5]]
    num_bytes = sum(len(each.encode()) for each in text)
    bits = found["metrics"]["bits_per_byte"]
    assert bits["value"] == pytest.approx(expected * 160 / np.log(2) / num_bytes, rel=1e-4)
    assert found["num_bytes"] == num_bytes


def test_each_data_set_has_its_own_loss(lm, make_inputs, tmp_path):
    inputs = make_inputs()
    rows = LazyRows(6, inputs.heldout_rows.__getitem__, lambda index: "ab"[index % 2])
    found = run_tasks(TaskInputs(inputs.config, inputs.tokenizer, rows), lm, ["perplexity"], tmp_path)
    numbers = found["tasks"]["perplexity"]
    apart = {
        name: run_tasks(
            TaskInputs(inputs.config, inputs.tokenizer, LazyRows(3, lambda i, first=first: rows[2 * i + first])),
            lm, ["perplexity"], tmp_path / name,
        )["tasks"]["perplexity"]["metrics"]["loss"]["value"]
        for first, name in enumerate("ab")
    }  # fmt: skip
    assert {name: each["value"] for name, each in numbers["data_sets"].items()} == pytest.approx(apart)
    assert numbers["metrics"]["loss"]["value"] == pytest.approx(sum(apart.values()) / 2)
    assert [row[0] for row in numbers["tables"][1]] == ["loss by data set", "a", "b"]


def test_only_the_first_rows_are_read(make_inputs):
    inputs = make_inputs("perplexity.rows=5")
    read: list[int] = []
    counting = LazyRows(6, lambda index: read.append(index) or inputs.heldout_rows[index])
    assert [each.id for each in examples(TaskInputs(inputs.config, inputs.tokenizer, counting))] == [
        f"row-{index}" for index in range(5)
    ]
    assert read == list(range(5))


def test_bins_cover_every_position_once():
    bins = loss_by_position([response(np.arange(1.0, 101.0)), response(np.arange(1.0, 101.0))])
    assert bins[0]["first"] == 1
    assert bins[-1]["last"] == 100
    assert all(before["last"] + 1 == after["first"] for before, after in pairwise(bins))
    assert all(each["first"] <= each["loss"] <= each["last"] for each in bins)


def test_the_shortest_row_has_a_bin():
    assert loss_by_position([response([2.0])]) == [{"first": 1, "last": 1, "loss": 2.0}]


def test_without_rows_it_is_skipped(make_inputs):
    assert "set perplexity.remote=" in TASK.skip(make_inputs(num_rows=0))
    assert TASK.skip(make_inputs()) is None


def test_long_rows_are_refused_even_where_others_count_as_wrong(lm, make_inputs, tmp_path):
    rows = LazyRows(2, lambda index: np.full(130, 5))
    inputs = make_inputs("too_long=wrong")
    with pytest.raises(ConfigError, match=r"perplexity: 2 of 2 examples exceed the 128 tokens .* row-0 takes 129"):
        run_tasks(TaskInputs(inputs.config, inputs.tokenizer, rows), lm, ["perplexity"], tmp_path)


def test_rows_are_numbered_like_a_list():
    rows = LazyRows(3, lambda index: np.array([index]))
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    assert [int(row[0]) for row in rows[1:9]] == [1, 2]
    with pytest.raises(IndexError, match="row 3 of 3"):
        rows[3]

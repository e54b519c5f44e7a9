"""Attention at masked positions: masks, closed forms, every definition by hand, two models."""

import dataclasses
import json

import numpy as np
import pytest

from meap.errors import ConfigError
from meap.evals.comparison import compare, print_comparison
from meap.evals.decay import decay_within, key
from meap.evals.hugging_face import HuggingFaceLM
from meap.evals.runner import run_tasks
from meap.evals.task import Output, TaskInputs
from meap.evals.tasks.attention_decay import TASK, VARIANTS, examples, score


def masked(example):
    clean, replaced = (reading.ids for reading in example.readings)
    return np.flatnonzero(clean != replaced)


@pytest.fixture
def example(make_inputs):
    """A sequence of 32 tokens with 4 masks."""
    return next(each for each in examples(make_inputs()) if each.id == "32-1")


# --- masks ---


def test_rows_are_cut_and_masked_exactly(make_inputs, tokenizer):
    inputs = make_inputs()
    found = examples(inputs)
    assert [each.id for each in found] == [f"{length}-{row}" for row in range(6) for length in (16, 32)]
    for each in found:
        length, row = map(int, each.id.split("-"))
        clean, replaced = (reading.ids for reading in each.readings)
        assert clean.tolist() == inputs.heldout_rows[row][:length].tolist()
        # Of 15 and 31 tokens: the first is never masked, and does not count.
        assert len(masked(each)) == each.facts["masked_tokens"] == {16: 2, 32: 4}[length]
        assert set(replaced[masked(each)].tolist()) == {tokenizer.mask_id}
        assert masked(each).min() > 0
        assert masked(each).max() < length - 1
        assert each.positions == length


def test_masks_hang_on_row_and_seed_alone(make_inputs):
    """Not on the model: another tokenizer's mask token stands at the same places."""
    inputs = make_inputs()
    places = [masked(each).tolist() for each in examples(inputs)]
    assert len({tuple(each) for each in places}) > 8
    other = dataclasses.replace(inputs.tokenizer, mask_token="</s>")
    assert other.mask_id != inputs.tokenizer.mask_id
    moved = TaskInputs(inputs.config, other, [np.full(33, 5)] * 6)
    assert [masked(each).tolist() for each in examples(moved)] == places
    assert [masked(each).tolist() for each in examples(make_inputs("seed=2"))] != places
    few = examples(make_inputs("attention_decay.rows=2", "attention_decay.lengths=[32]"))
    assert [masked(each).tolist() for each in few] == [places[1], places[3]]


def test_short_rows_are_reported(make_inputs):
    with pytest.raises(
        ConfigError, match=r"attention_decay.lengths=\[40\] are too long: held-out rows have 33 tokens; give shorter"
    ):
        examples(make_inputs("attention_decay.lengths=[40]"))


def test_without_rows_or_mask_it_is_skipped(make_inputs, tokenizer):
    inputs = make_inputs()
    assert TASK.skip(inputs) is None
    assert "set perplexity.remote=" in TASK.skip(make_inputs(num_rows=0))
    assert tokenizer.is_mask_new
    reason = TASK.skip(TaskInputs(inputs.config, tokenizer, inputs.heldout_rows))
    assert reason == ("the model's tokenizer has no [MASK]: give its own mask token with tokenizer.mask_token=<token>")


@pytest.mark.parametrize("ratio", [0.01, 0.5])
def test_the_shortest_sequence_has_masked_tokens_and_others(make_inputs, attention_of, uniform, ratio):
    found = examples(make_inputs("attention_decay.lengths=[4]", f"attention_decay.mask_ratio={ratio}"))
    responses = [{"id": each.id, **each.facts, **scored(each, attention_of(uniform(4)))} for each in found]
    assert decay_within(responses)["lengths"][0]["decay"]["value"] == 0


# --- scores ---


def scored(example, clean, replaced=None):
    return score(example, Output(attention=(clean, replaced or clean)))


def test_uniform_attention_has_closed_forms(example, attention_of, uniform):
    found = scored(example, attention_of(uniform(32)))
    received = np.array([np.mean([1 / (i + 1) for i in range(j + 1, 32)]) for j in range(31)])
    rest = np.setdiff1d(np.arange(1, 31), masked(example))
    assert found["received_mean_score_clean"] == pytest.approx(received[masked(example)].mean())
    assert found["received_mean_variance_clean"] == pytest.approx(received[rest].var())
    assert found["uniform_relative_score_masked"] == pytest.approx(1)
    assert found["uniform_relative_variance_masked"] == pytest.approx(0, abs=1e-12)
    assert found["last_query_score_clean"] == pytest.approx(1 / 32)
    assert found["last_query_variance_clean"] == pytest.approx(0, abs=1e-12)


def test_attention_on_the_first_token_is_on_no_masked_one(example, attention_of):
    weights = np.zeros((1, 1, 32, 32))
    weights[..., 0] = 1
    found = scored(example, attention_of(weights))
    for name in ("received_mean", "received_sum", "last_query", "uniform_relative", "last_layer", "entries", "layer_0"):
        assert found[key(name, "score", "clean")] == found[key(name, "variance", "clean")] == 0
    # Position 0 receives everything, and is one of 27 that count.
    assert found["from_position_0_variance_clean"] == pytest.approx(np.var([1] + [0] * 26))


def test_every_definition_is_that_of_its_weights(example, attention_of):
    rng = np.random.default_rng(0)
    weights = np.tril(rng.random((3, 2, 32, 32)) ** 3)
    weights /= weights.sum(-1, keepdims=True)
    found = scored(example, attention_of(weights))
    chosen = masked(example)
    later = [[[weights[layer, :, j + 1 :, j] for j in range(31)] for layer in layers] for layers in ((0, 1, 2), (2,))]
    mean = np.array([np.mean([layer[j].mean() for layer in later[0]]) for j in range(31)])
    expected = {
        "received_mean": (mean, 1),
        "received_sum": (mean * np.arange(31, 0, -1), 1),
        "including_self": (np.array([weights[:, :, j:, j].mean() for j in range(31)]), 1),
        "last_query": (weights[:, :, -1, :31].mean((0, 1)), 1),
        "uniform_relative": (
            np.array([(weights[:, :, j + 1 :, j] * np.arange(j + 2, 33)).mean() for j in range(31)]),
            1,
        ),
        "last_layer": (np.array([later[1][0][j].mean() for j in range(31)]), 1),
        "from_position_0": (mean, 0),
        "from_position_4": (mean, 4),
        "layer_1": (np.array([later[0][1][j].mean() for j in range(31)]), 1),
    }
    assert set(VARIANTS) == set(expected) - {"layer_1"}
    for name, (received, first) in expected.items():
        rest = np.setdiff1d(np.arange(first, 31), chosen)
        assert found[key(name, "score", "clean")] == pytest.approx(received[chosen[chosen >= first]].mean()), name
        assert found[key(name, "variance", "clean")] == pytest.approx(received[rest].var()), name
        assert found[key(name, "rest", "clean")] == pytest.approx(received[rest].mean()), name
    single = {
        name: np.concatenate([weights[:, :, j + 1 :, j].ravel() for j in some])
        for name, some in (("masked", chosen), ("rest", np.setdiff1d(np.arange(1, 31), chosen)))
    }
    assert found["entries_score_clean"] == pytest.approx(single["masked"].mean())
    assert found["entries_variance_clean"] == pytest.approx(single["rest"].var())


def test_masks_that_change_nothing_decay_by_nothing(make_inputs, attention_of, lm):
    """X_M = X_N: the decay is 0, and t, of differences that are all 0, is none rather than NaN."""
    responses = []
    for each in examples(make_inputs()):
        (found,) = lm.attention(each.readings[:1])
        responses.append({"id": each.id, **each.facts, **scored(each, found)})
    for of_length in decay_within(responses)["lengths"]:
        for found in (of_length, *of_length["layers"]):
            for changed in (found["decay"], found["variance_increase"]):
                assert (changed["value"], changed["low"], changed["high"]) == (0, 0, 0)
                assert (changed["t"], changed["p"]) == (None, None)


# --- models ---


class IgnoringLM:
    """Attends to everything alike, but to masks not at all."""

    max_positions = 1 << 20

    def __init__(self, mask_id, attention_of):
        self._mask_id = mask_id
        self._attention_of = attention_of

    def attention(self, readings):
        found = []
        for reading in readings:
            seen = (np.asarray(reading.ids) != self._mask_id).astype(float)
            weights = np.tril(np.broadcast_to(seen, (len(seen), len(seen))))
            found.append(self._attention_of((weights / weights.sum(-1, keepdims=True))[None, None], reading.asking))
        return found

    def describe(self):
        return {"name": "ignoring"}


@pytest.mark.slow
def test_a_model_that_ignores_masks_has_all_the_decay(make_inputs, attention_of, blind, tmp_path, capsys, pictures):
    inputs = make_inputs()
    run_tasks(inputs, blind, ["attention_decay"], tmp_path / "a")
    run_tasks(inputs, IgnoringLM(inputs.tokenizer.mask_id, attention_of), ["attention_decay"], tmp_path / "b")
    found = compare(f"{tmp_path / 'a'},{tmp_path / 'b'}", tmp_path / "out")
    assert json.loads((tmp_path / "out/compare.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    for each in found["tasks"]["attention_decay"]["lengths"]:
        assert each["n"] == 6
        pairs = {name: (pair["decay"]["value"], pair["decay"]["t"]) for name, pair in each["pairs"].items()}
        for name in ("paper", "models on X_M", "masking in the second"):
            assert pairs[name][0] == pytest.approx(1)
            assert pairs[name][1] < -10
        for name in ("models on X_N", "masking in the first"):
            assert pairs[name] == (pytest.approx(0, abs=1e-12), None)
        assert set(each["variants"]) == {*VARIANTS, "entries"} - {"received_mean"}
        assert all(set(of_pairs) == set(each["pairs"]) for of_pairs in each["variants"].values())
        # Uniform attention of one model to both inputs, and of the other to the clean one.
        read = [found["score"]["value"] for found in each["read"]]
        assert read == pytest.approx([read[0], read[0], read[0], 0])

    capsys.readouterr()
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    (paper,) = [line for line in lines if line.startswith("blind X_N to ignoring X_M (paper)") and " 32 " in line]
    assert "+100.00 %" in paper
    assert paper.count("(5)") == 2
    (nothing,) = [line for line in lines if line.startswith("blind X_N to blind X_M") and " 16 " in line]
    assert nothing.split()[6:8] == ["+0.00", "%"]
    for reader in ("blind on X_N", "blind on X_M", "ignoring on X_N", "ignoring on X_M"):
        assert sum(line.startswith(reader) for line in lines) == 2, "all four combinations, at both lengths"
    (relative,) = [line for line in lines if line.startswith("decay, relative to uniform attention") and " 32 " in line]
    assert relative.split()[-10:] == ["+100.00", "%", "+0.00", "%", "+100.00", "%", "+0.00", "%", "+100.00", "%"]


@pytest.mark.slow
def test_a_real_model_is_read(make_inputs, lm, llama, tmp_path):
    found = run_tasks(make_inputs(), lm, ["attention_decay"], tmp_path)["tasks"]["attention_decay"]
    assert [row["by"]["length"] for row in found["rows"]] == [16, 32]
    assert [len(each["layers"]) for each in found["lengths"]] == [2, 2]
    for each in found["lengths"]:
        assert each["decay"]["low"] <= each["decay"]["value"] <= each["decay"]["high"]
        assert each["decay"]["df"] == 5
    one_by_one = HuggingFaceLM(llama, lm.tokenizer, name="small", batch_size=1, batch_tokens=1)
    again = run_tasks(make_inputs("batch_size=1"), one_by_one, ["attention_decay"], tmp_path / "again")
    of_both = (found, again["tasks"]["attention_decay"])
    scores = [each["metrics"]["received_mean_score_masked"]["value"] for each in of_both]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_long_rows_are_refused_even_where_others_count_as_wrong(make_inputs, lm, tmp_path):
    inputs = make_inputs("too_long=wrong", "attention_decay.lengths=[130]")
    with pytest.raises(ConfigError, match=r"attention_decay: 2 of 2 examples exceed the 128 tokens"):
        run_tasks(TaskInputs(inputs.config, inputs.tokenizer, [np.full(131, 5)] * 2), lm, ["attention_decay"], tmp_path)

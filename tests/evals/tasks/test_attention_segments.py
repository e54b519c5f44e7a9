"""Attention by segment: a partition of 1, closed forms, files, two models."""

import json

import numpy as np
import pytest

from meap.evals.comparison import compare, print_comparison
from meap.evals.passages import PARTS
from meap.evals.runner import run_tasks
from meap.evals.task import Output
from meap.evals.tasks.attention_segments import MEASURES, SEGMENTS, examples, score


def sizes(example):
    return [example.facts[f"{segment}_tokens"] for segment in SEGMENTS]


def shares(scores, measure):
    return [scores[f"{measure}_{segment}"] for segment in SEGMENTS]


@pytest.fixture
def example(make_inputs):
    return examples(make_inputs())[2]


def test_segments_are_the_tokens_of_their_texts(make_inputs, tokenizer):
    for each in examples(make_inputs()):
        (reading,) = each.readings
        counts = sizes(each)
        assert sum(counts) == len(reading.ids) == each.positions
        assert (reading.ids[0], reading.ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        assert reading.asking == (sum(counts[:3]), len(reading.ids) - 1)
        answer = tokenizer.decode(reading.ids[counts[0] : sum(counts[:2])].tolist())
        assert answer.rstrip().endswith(".")
        query = tokenizer.decode(reading.ids[slice(*reading.asking)].tolist())
        assert query.endswith(" is")
        assert query.split(" of the ", 1)[1].removesuffix(" is") in answer


def test_passages_begin_with_bos_if_add_bos_is_set(make_inputs):
    for with_bos, without in zip(examples(make_inputs()), examples(make_inputs("add_bos=false")), strict=True):
        assert with_bos.readings[0].ids[1:].tolist() == without.readings[0].ids.tolist()
        assert np.subtract(sizes(with_bos), sizes(without)).tolist() == [1, 0, 0, 0, 0]


def test_a_file_is_read(make_inputs, tmp_path):
    texts = ("Anna went home.", "The code is 48213.", "Bob stayed.", "What is the code?")
    path = tmp_path / "four.jsonl"
    path.write_text("".join(json.dumps(dict(zip(PARTS, texts, strict=True))) + "\n" for _ in range(4)))
    inputs = make_inputs(f"attention_segments.source={path}")
    found = examples(inputs)
    assert [each.id for each in found] == ["0", "1", "2", "3"]
    text = inputs.tokenizer.decode(found[0].readings[0].ids.tolist(), skip_special_tokens=True)
    assert text == "Anna went home. The code is 48213. Bob stayed. What is the code?"


# --- scores ---


def scored(example, attention):
    return score(example, Output(attention=(attention,)))


def of(example, weights, attention_of):
    return scored(example, attention_of(weights, example.readings[0].asking))


def test_uniform_attention_is_shared_by_size(example, attention_of, uniform):
    num_tokens = sum(sizes(example))
    found = of(example, uniform(num_tokens), attention_of)
    assert shares(found, "sum") == pytest.approx(np.divide(sizes(example), num_tokens))
    assert shares(found, "layer_1") == pytest.approx(shares(found, "sum"))
    assert shares(found, "per_token") == pytest.approx([1 / num_tokens] * 5)
    assert shares(found, "per_token_share") == pytest.approx([0.2] * 5)
    assert found["sink"] == pytest.approx(1 / num_tokens)
    assert shares(found, "without_sink") == pytest.approx(
        np.divide(np.subtract(sizes(example), [1, 0, 0, 0, 0]), num_tokens - 1)
    )
    assert found["from_query_eos"] == 0
    first, beyond = example.readings[0].asking
    of_context = np.mean([1 / (query + 1) for query in range(first, beyond)])
    assert found["from_query_answer"] == pytest.approx(sizes(example)[1] * of_context)


@pytest.mark.parametrize("place", range(5))
def test_attention_on_one_token_is_its_segments(example, attention_of, place):
    num_tokens = sum(sizes(example))
    weights = np.zeros((1, 2, num_tokens, num_tokens))
    weights[..., 0] = 1
    weights[:, :, -1] = np.eye(num_tokens)[sum(sizes(example)[: place + 1]) - 1]
    found = of(example, weights, attention_of)
    alone = [float(place == other) for other in range(5)]
    for measure in ("sum", "per_token_share", "without_sink", "layer_0"):
        assert shares(found, measure) == pytest.approx(alone)
    assert found["sink"] == 0
    assert shares(found, "from_query") == pytest.approx([1, 0, 0, 0, 0])


def test_attention_on_the_sink_alone_leaves_nothing_to_share(example, attention_of):
    num_tokens = sum(sizes(example))
    weights = np.zeros((1, 1, num_tokens, num_tokens))
    weights[..., 0] = 1
    found = of(example, weights, attention_of)
    assert (found["sum_context_before"], found["sink"]) == (1, 1)
    assert not any(name.startswith("without_sink") for name in found)


@pytest.fixture
def reader(llama, lm):
    """A real model whose context is long enough for a tokenizer that spells almost byte by byte."""
    lm._max_positions = 4096
    return lm


def test_segments_of_a_real_model_are_a_partition_of_1(make_inputs, reader, tmp_path):
    inputs = make_inputs()
    for each in examples(inputs):
        found = scored(each, *reader.attention(each.readings))
        for measure in ("sum", "per_token_share", "without_sink", "from_query", "layer_0", "layer_1"):
            assert sum(shares(found, measure)) == pytest.approx(1, abs=1e-6)
        assert np.mean([shares(found, f"layer_{layer}") for layer in range(2)], 0) == pytest.approx(
            shares(found, "sum")
        )
    numbers = run_tasks(inputs, reader, ["attention_segments"], tmp_path)["tasks"]["attention_segments"]
    assert sum(numbers["metrics"][f"sum_{segment}"]["value"] for segment in SEGMENTS) == pytest.approx(1)
    assert len(numbers["layers"]) == 2
    assert set(numbers["measures"]) == set(MEASURES[1:])
    for found in (*numbers["measures"]["from_query"].values(), *numbers["measures"]["without_sink"].values()):
        assert found["low"] <= found["value"] <= found["high"]


class LookingLM:
    """Its last token attends to the answer, and to nothing else."""

    max_positions = 1 << 20

    def __init__(self, asked, attention_of):
        self._answers = {each.readings[0].ids.tobytes(): slice(sizes(each)[0], sum(sizes(each)[:2])) for each in asked}
        self._attention_of = attention_of

    def attention(self, readings):
        found = []
        for reading in readings:
            weights = np.eye(len(reading.ids))
            weights[-1] = 0
            answer = self._answers[reading.ids.tobytes()]
            weights[-1, answer] = 1 / (answer.stop - answer.start)
            found.append(self._attention_of(weights[None, None], reading.asking))
        return found

    def describe(self):
        return {"name": "looking"}


@pytest.mark.slow
def test_two_models_stand_side_by_side(make_inputs, attention_of, blind, tmp_path, capsys, pictures):
    inputs = make_inputs()
    looking = LookingLM(examples(inputs), attention_of)
    for name, model in (("a", blind), ("b", looking)):
        run_tasks(inputs, model, ["attention_segments"], tmp_path / name)
    found = compare(f"{tmp_path / 'a'},{tmp_path / 'b'}", tmp_path / "out")
    assert json.loads((tmp_path / "out/compare.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")
    numbers = found["tasks"]["attention_segments"]
    answer = numbers["metrics"]["sum_answer"]
    assert answer["second"]["value"] == pytest.approx(1)
    assert answer["difference"]["value"] == pytest.approx(1 - answer["first"]["value"])
    shared = numbers["measures"]["per_token_share"]["answer"]
    assert (shared["first"]["value"], shared["second"]["value"]) == pytest.approx((0.2, 1))
    assert shared["difference"]["value"] == pytest.approx(0.8)

    capsys.readouterr()
    print_comparison(found)
    lines = capsys.readouterr().out.splitlines()
    assert "context before  answer  context after   query     EOS" in "\n".join(lines)
    (row,) = [line for line in lines if line.startswith("sum, looking")]
    assert row.split()[2:] == ["0.0000", "1.0000", "0.0000", "0.0000", "0.0000"]

"""A value in a JSON object."""

import json
import re
import uuid

import pytest

from meap.errors import BadInputError, ConfigError
from meap.evals.task import Example, Output
from meap.evals.tasks.kv_retrieval import examples, positions_of, prompt, score


def test_the_prompt_is_that_of_lost_in_the_middle():
    assert prompt([("a", "1"), ("b", "2"), ("c", "3")], "b") == (
        "Extract the value corresponding to the specified key in the JSON object below.\n"
        "\n"
        "JSON data:\n"
        '{"a": "1",\n'
        ' "b": "2",\n'
        ' "c": "3"}\n'
        "\n"
        'Key: "b"\n'
        "Corresponding value:"
    )


@pytest.mark.parametrize(
    ("keys", "number", "published"),
    [(75, 4, [0, 24, 49, 74]), (140, 5, [0, 34, 69, 104, 139]), (300, 7, [0, 49, 99, 149, 199, 249, 299])],
)
def test_positions_are_those_published(keys, number, published):
    assert positions_of(keys, number) == published


def objects(inputs, tokenizer):
    for each in examples(inputs):
        text = tokenizer.decode(each.prompt.tolist(), skip_special_tokens=True)
        data, key = re.fullmatch(r'.*?JSON data:\n(.*)\n\nKey: "(.*)"\nCorresponding value:', text, re.DOTALL).groups()
        yield each, json.loads(data), key


def test_the_asked_pair_stands_at_its_position(make_inputs, tokenizer):
    seen: dict[str, set[frozenset]] = {}
    for each, data, key in objects(make_inputs(), tokenizer):
        assert list(data).index(key) == each.facts["position"] - 1
        assert data[key] == each.answers[0]
        assert len(data) == each.facts["keys"] == 3
        assert all(uuid.UUID(value).version == 4 for value in data.values())
        seen.setdefault(each.id.rsplit("-", 1)[1], set()).add(frozenset(data.items()))
    assert all(len(same) == 1 for same in seen.values())


def test_shorter_keys_for_short_contexts(make_inputs, tokenizer):
    for _, data, _ in objects(make_inputs("kv_retrieval.hex_digits=8"), tokenizer):
        assert all(re.fullmatch("[0-9a-f]{8}", each) for pair in data.items() for each in pair)


def test_the_published_file_is_read(make_inputs, tokenizer, tmp_path):
    pairs = [["k0", "v0"], ["k1", "v1"], ["k2", "v2"]]
    (tmp_path / "kv.jsonl").write_text(json.dumps({"ordered_kv_records": pairs, "key": "k2", "value": "v2"}) + "\n")
    found = list(objects(make_inputs(f"kv_retrieval.source={tmp_path / 'kv.jsonl'}"), tokenizer))
    assert [list(data) for _, data, _ in found] == [["k2", "k0", "k1"], ["k0", "k2", "k1"], ["k0", "k1", "k2"]]
    with pytest.raises(ConfigError, match=r"line 1 has 3 keys, the asked one among them: set kv_retrieval.keys=\[3\]"):
        examples(make_inputs(f"kv_retrieval.source={tmp_path / 'kv.jsonl'}", "kv_retrieval.keys=[4]"))
    (tmp_path / "kv.jsonl").write_text("{}\n")
    with pytest.raises(BadInputError, match="line 1 has no ordered_kv_records, key and value"):
        examples(make_inputs(f"kv_retrieval.source={tmp_path / 'kv.jsonl'}"))


@pytest.mark.parametrize(
    ("text", "right"), [(' "AB-12"}', 1), (" the value is ab-12", 1), ("\n\nab-12", 1), (" ab-1", 0), ("", 0)]
)
def test_scores_by_hand(text, right):
    assert score(Example("0", answers=("ab-12",)), Output(text))["contains"] == right

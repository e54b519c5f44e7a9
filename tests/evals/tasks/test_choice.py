"""Prompts of a file: rows of the table by group, clusters by question; what cannot be asked is refused by its line."""

import json

import pytest

from meap.errors import BadInputError, DataError
from meap.evals.runner import reasons_to_skip, run_tasks
from meap.evals.tasks.choice import examples

ASKED = {"prompt": "The tree is oak. The tree is ", "candidates": ["oak", "elm"], "answer": "oak"}


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return f"choice.source={path}"

    return write


def test_groups_are_rows_and_questions_are_clusters(make_inputs, write, oracle, tmp_path):
    lines = [ASKED | {"group": group, "question": "one"} for group in ("near", "far")]
    inputs = make_inputs(write(*lines, ASKED | {"group": "far", "question": "two"}))
    numbers = run_tasks(inputs, oracle(examples(inputs)), ["choice"], tmp_path)["tasks"]["choice"]
    assert [(row["by"], row["n"]) for row in numbers["rows"]] == [({"group": "near"}, 1), ({"group": "far"}, 2)]
    assert [example.cluster for example in examples(inputs)] == ["one", "one", "two"]
    assert numbers["metrics"]["ranking"]["value"] == 1.0


def test_without_a_group_there_is_one_row(make_inputs, write):
    assert [example.facts["group"] for example in examples(make_inputs(write(ASKED, ASKED)))] == ["all", "all"]


@pytest.mark.parametrize(
    "line",
    [
        {key: value for key, value in ASKED.items() if key != "answer"},
        ASKED | {"answer": "ash"},
        ASKED | {"candidates": ["oak"]},
        ASKED | {"candidates": ["oak", "oak"]},
        ASKED | {"candidates": 3},
        ASKED | {"candidates": "oakelm", "answer": "o"},
        ASKED | {"candidates": {"oak": 1, "elm": 2}},
        ASKED | {"prompt": None},
        ASKED | {"prompt": "half \ud800"},
        ASKED | {"prompt": " "},
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_line(make_inputs, write, line):
    with pytest.raises(BadInputError, match=r"line 2 cannot be asked .*: it needs a prompt, two or more candidates"):
        examples(make_inputs(write(ASKED, line)))


def test_without_a_file_it_is_skipped(make_inputs):
    inputs = make_inputs("choice.source=null")
    assert reasons_to_skip(["choice", "key_retrieval"], inputs) == {
        "choice": "no prompts are given: set choice.source=<file of JSON lines>"
    }
    with pytest.raises(DataError, match=r"choice.source: there is no file none.jsonl; give one with a prompt"):
        examples(make_inputs("choice.source=none.jsonl"))

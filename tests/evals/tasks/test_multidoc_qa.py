"""Questions over documents: prompts, files, distractors and the score."""

import gzip
import json

import pytest

from meap.errors import BadInputError, ConfigError, DataError
from meap.evals.answers import normalize_answer
from meap.evals.runner import run_tasks
from meap.evals.task import Example, Output
from meap.evals.tasks.multidoc_qa import Document, closed_book_prompt, examples, prompt, score


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(index, *, gold=0, documents=1):
    contexts = [
        {"title": f"T{index}", "text": f"Other {place} of {index}.", "isgold": False} for place in range(documents)
    ]
    contexts[gold] |= {"text": f"It was number{index} who did it.", "isgold": True}
    return {"question": f"who did {index}", "answers": [f"Number{index}"], "ctxs": contexts}


def test_prompts_are_those_of_lost_in_the_middle():
    documents = [Document("First", "One text."), Document("Second", "Another.")]
    assert prompt("who is it", documents) == (
        "Write a high-quality answer for the given question using only the provided search results (some of which "
        "might be irrelevant).\n"
        "\n"
        "Document [1](Title: First) One text.\n"
        "Document [2](Title: Second) Another.\n"
        "\n"
        "Question: who is it\n"
        "Answer:"
    )
    assert closed_book_prompt("who is it") == "Question: who is it\nAnswer:"


def texts(inputs, tokenizer):
    return {each.id: tokenizer.decode(each.prompt.tolist(), skip_special_tokens=True) for each in examples(inputs)}


def test_published_files_are_asked_as_they_are(make_inputs, tokenizer, tmp_path):
    for position in (1, 3):
        name = f"3_total_documents/nq-open-3_total_documents_gold_at_{position - 1}.jsonl.gz"
        write(tmp_path / name, [row(index, gold=position - 1, documents=3) for index in range(4)])
    found = texts(make_inputs(f"multidoc_qa.source={tmp_path}", "multidoc_qa.questions=0"), tokenizer)
    assert len(found) == 2 * 4 + 2 * 4
    assert (
        "Document [1](Title: T2) It was number2 who did it.\nDocument [2](Title: T2) Other 1 of 2.\n" in found["3-1-2"]
    )
    assert "\nDocument [3](Title: T2) It was number2 who did it.\n\nQuestion: who did 2\nAnswer:" in found["3-3-2"]
    assert found["closed book-2"] == "Question: who did 2\nAnswer:"
    assert found["oracle-2"] == prompt("who did 2", [Document("T2", "It was number2 who did it.")])


def test_distractors_are_the_same_at_every_position_and_answer_nothing(make_inputs, tokenizer, tmp_path):
    source = write(tmp_path / "oracle.jsonl.gz", [row(index) for index in range(12)])
    found = texts(make_inputs(f"multidoc_qa.source={source}", "multidoc_qa.documents=[3,4]"), tokenizer)

    def lines(name):
        return [line.split(") ", 1)[1] for line in found[name].splitlines() if line.startswith("Document [")]

    for index in range(5):
        gold = f"It was number{index} who did it."
        assert lines(f"3-1-{index}")[0] == lines(f"3-3-{index}")[2] == gold
        others = lines(f"3-1-{index}")[1:]
        assert others == lines(f"3-3-{index}")[:2] == lines(f"4-1-{index}")[1:3]
        assert gold not in others


def test_passages_with_an_answer_are_no_distractors(make_inputs, tokenizer, tmp_path):
    rows = [row(index) for index in range(4)]
    rows[0]["answers"] = ["The  NUMBER1,", "S"]
    source = write(tmp_path / "oracle.jsonl.gz", rows)
    overrides = (f"multidoc_qa.source={source}", "multidoc_qa.documents=[3]", "multidoc_qa.questions=1")
    for text in texts(make_inputs(*overrides), tokenizer).values():
        assert "number1" not in text


@pytest.mark.slow
def test_the_oracle_file_of_the_publishers(make_inputs, shared_data, tmp_path):
    source = shared_data / "nq-open-oracle.jsonl.gz"
    if not source.is_file():
        pytest.skip(f"no published file at {source}")
    overrides = (f"multidoc_qa.source={source}", "multidoc_qa.documents=[2]", "multidoc_qa.positions=[2]")
    found = examples(make_inputs(*overrides, "multidoc_qa.questions=0", "multidoc_qa.closed_book=false"))
    asked = [each for each in found if not each.control]
    assert len(asked) == 2655
    said_nothing = sum(score(each, Output(""))["best_subspan_em"] for each in asked)
    assert said_nothing == 0
    assert sum(any(not normalize_answer(answer) for answer in each.answers) for each in asked) == 1
    # Whoever copies the answering passage is right, for every question.
    oracle = [each for each in found if each.control]
    assert len(oracle) == 2655


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        (" the Beatles", ["Beatles"], True),
        (" It was The  BEATLES!", ["the beatles"], True),
        (" beat", ["Beatles"], False),
        (" Ringo", ["John", "Ringo Starr", "Ringo"], True),
        (" John\nRingo", ["Ringo"], False),
        ("\nRingo", ["Ringo"], True),
        (" \n\n Ringo\nJohn", ["Ringo"], True),
        (" \n John\nRingo", ["Ringo"], False),
        (" U.S.A.", ["USA"], True),
        (" a", ["The"], False),
        ("", ["x"], False),
        (" 1901", ["in 1901"], False),
    ],
)
def test_scores_by_hand(text, answers, right):
    found = score(Example("0", answers=tuple(answers)), Output(text))
    assert found["best_subspan_em"] == right


@pytest.mark.parametrize(
    ("text", "stripped", "as_it_is"),
    [("\nRingo", 1, 0), (" Ringo\nJohn", 1, 1), ("\nJohn\nRingo", 0, 0), ("", 0, 0), (" \nRingo", 1, 0)],
)
def test_both_published_scripts_are_computed(text, stripped, as_it_is):
    """Llama 2's strips the output before it takes the first line, MPT's does not."""
    found = score(Example("0", answers=("Ringo",)), Output(text))
    assert (found["best_subspan_em"], found["unstripped"]) == (stripped, as_it_is)


def test_an_answer_after_a_newline_is_seen(make_inputs, oracle, tmp_path):
    inputs = make_inputs()
    model = oracle(examples(inputs), lambda answer: f"\n{answer}\nAnd so on")
    found = run_tasks(inputs, model, ["multidoc_qa"], tmp_path)["tasks"]["multidoc_qa"]
    assert {name: each["value"] for name, each in found["metrics"].items()} == {"best_subspan_em": 1, "unstripped": 0}
    assert (found["metrics"]["unstripped"]["n"], found["metrics"]["unstripped"]["clusters"]) == (10, 5)


def test_positions_beyond_the_documents_are_left_out(make_inputs):
    found = examples(make_inputs("multidoc_qa.documents=[2,3]", "multidoc_qa.closed_book=false"))
    asked = {(each.facts["documents"], each.facts["position"]) for each in found if not each.control}
    assert asked == {(2, 1), (3, 1), (3, 3)}
    with pytest.raises(ConfigError, match=r"multidoc_qa.positions=\[5\] are all beyond 3 documents"):
        make_inputs("multidoc_qa.positions=[5]")


@pytest.mark.slow
def test_what_cannot_be_read_is_reported(make_inputs, tmp_path):
    def ask(source, *more):
        return examples(make_inputs(f"multidoc_qa.source={source}", *more))

    with pytest.raises(DataError, match="there is no file .*none.jsonl; clone github.com/nelson-liu"):
        ask(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has no nq-open-3_total_documents_gold_at_0.jsonl.gz"):
        ask(tmp_path)
    wrong = write(tmp_path / "nq-open-3_total_documents_gold_at_0.jsonl.gz", [row(0, gold=1, documents=3)])
    with pytest.raises(BadInputError, match=r"line 1 has 3 documents and gold ones at \[2\], not 3 with one at 1"):
        ask(wrong.parent)
    (tmp_path / "torn.jsonl").write_text('{"question": "x"}\n{"question')
    with pytest.raises(BadInputError, match="torn.jsonl cannot be read after 1 lines"):
        ask(tmp_path / "torn.jsonl")
    (tmp_path / "other.jsonl").write_text('{"question": "x"}\n')
    with pytest.raises(BadInputError, match="has a row without question, answers and ctxs"):
        ask(tmp_path / "other.jsonl")
    few = write(tmp_path / "few.jsonl.gz", [row(index) for index in range(3)])
    with pytest.raises(
        ConfigError, match="multidoc_qa.documents=5 is too large: only 2 passages do not answer 'who did 0'"
    ):
        ask(few, "multidoc_qa.documents=[5]")

"""The needle: prompt, place and scores."""

import numpy as np
import pytest

from meap.errors import ConfigError
from meap.evals.comparison import compare, print_comparison
from meap.evals.runner import run_tasks
from meap.evals.task import Example, Output
from meap.evals.tasks.needle_fu import depths_of, examples, grid_of, score

ANSWER = "eat a sandwich and sit in Dolores Park on a sunny day"
NEEDLE = "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n"
EXAMPLE = Example("0", answers=(ANSWER,), facts={"needle": NEEDLE})


def said(text):
    return score(EXAMPLE, Output(text))


def test_the_prompt_is_that_of_fu_et_al(make_inputs, tokenizer):
    for each in examples(make_inputs()):
        text = tokenizer.decode(each.prompt.tolist(), skip_special_tokens=True)
        assert text.startswith("<|im_start|> This is a very long story book: <book> ")
        assert text.endswith(
            " </book>.\n Based on the content of the book, Question: What is the best thing to do in San Francisco?\n"
            "Answer:"
        )
        assert text.count(NEEDLE) == (0 if each.control else 1)
        assert (each.max_new_tokens, each.stop, each.answers) == (90, "", (ANSWER,))


def test_the_needle_is_where_it_is_said_to_be(make_inputs, tokenizer):
    needle = tokenizer.encode(NEEDLE)
    for each in examples(make_inputs()):
        if not each.control:
            start = each.facts["needle_start"]
            assert each.prompt[start : start + len(needle)].tolist() == needle
            assert each.facts["actual_depth"] <= each.facts["depth"]
            before = tokenizer.decode(each.prompt[:start].tolist())
            assert each.facts["depth"] in {0, 100} or before.rstrip().endswith((".", "<book>"))


def test_prompts_of_a_length_have_that_length(make_inputs):
    inputs = make_inputs()
    for each in examples(inputs):
        haystack = each.facts["length"] - inputs.config.needle_fu.buffer
        frame = len(inputs.encode(["<|im_start|> This is a very long story book: <book> "])[0])
        assert haystack + frame < len(each.prompt) <= each.facts["length"]


def test_haystacks_differ_by_trial_only(make_inputs, tokenizer):
    found = examples(make_inputs("needle_fu.trials=2"))
    plain = {each.id: each.prompt.tobytes() for each in found if each.control}
    assert len(plain) == len(set(plain.values())) == 4


def test_files_are_read_in_the_order_of_their_names(make_inputs, tokenizer, tmp_path):
    (tmp_path / "b.txt").write_text("Second file. ")
    (tmp_path / "a.txt").write_text("First file. ")
    found = examples(make_inputs(f"haystack.dir={tmp_path}"))
    text = tokenizer.decode(found[-1].prompt.tolist(), skip_special_tokens=True)
    assert "<book> First file. Second file. First file. " in text


def test_one_haystack_is_one_cluster(make_inputs, blind, tmp_path, capsys):
    """All lengths and depths of a trial have one text in common: with one trial there is no interval, and a reason."""
    for trials in (1, 3):
        inputs = make_inputs(f"needle_fu.trials={trials}")
        found = run_tasks(inputs, blind, ["needle_fu"], tmp_path / str(trials))["tasks"]["needle_fu"]
        recall = found["metrics"]["recall"]
        assert (recall["n"], recall["clusters"]) == (2 * 3 * trials, trials)
        assert (recall["low"] is None) == (trials == 1)
        print_comparison(compare(f"{tmp_path / str(trials)},{tmp_path / str(trials)}", tmp_path / "compared"))
        told = capsys.readouterr().out
        assert ("note: one trial, as published" in told) == (trials == 1)
        [mean] = [line.split() for line in told.splitlines() if line.startswith("mean, ROUGE-1 recall of the answer ")]
        assert mean[-4:-2] == (["-", "-"] if trials == 1 else ["1", "1"])


def test_depths_are_rounded_percents():
    # Fu et al.: np.round(np.linspace(0, 100, 10)).
    assert depths_of(10) == [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]
    assert depths_of(11) == list(range(0, 101, 10))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # By hand: the answer has 12 words, the needle 21, of which the answer's are the last.
        (ANSWER, {"recall": 1, "f_answer": 1, "f_needle": 24 / 33, "recall_needle": 12 / 21, "overlap": 10 / 12}),
        (NEEDLE, {"recall": 1, "f_answer": 24 / 33, "f_needle": 1, "recall_needle": 1, "contains": 1}),
        # Their plot expects "sunny day.", and two of its 12 words are alike.
        (NEEDLE, {"overlap": 11 / 12}),
        (f"{ANSWER}.", {"overlap": 11 / 12, "contains": 1}),
        (f" {ANSWER.upper()}.", {"recall": 1, "f_answer": 1, "contains": 1}),
        ("\n\n", {"recall": 0, "f_answer": 0, "f_needle": 0, "contains": 0, "overlap": 0}),
        ("visit Chinatown", {"recall": 0, "contains": 0}),
        # The stemmer joins inflections: 3 of 12 words, and all 3 said are right.
        ("eating sandwiches days", {"recall": 3 / 12, "f_answer": 2 * 3 / 15, "contains": 0}),
        ("sit in Dolores Park and eat a sandwich on a sunny day", {"recall": 1, "contains": 0}),
        (f"I do not know.\n{ANSWER}", {"recall": 0, "recall_response": 1, "contains": 0}),
    ],
)
def test_scores_by_hand(text, expected):
    found = said(text)
    assert {key: found[key] for key in expected} == pytest.approx(expected)


def test_an_echo_of_the_question_is_told_from_an_answer():
    """The table of six responses that the choice of a headline rests on: F with the needle cannot tell them apart."""
    echo = "The best thing to do in San Francisco is to go to the Golden Gate Bridge on a sunny day."
    assert said(echo)["f_needle"] > 0.6
    assert said(echo)["recall"] < 0.5
    assert said(echo)["contains"] == 0
    assert said(ANSWER)["f_needle"] == pytest.approx(0.73, abs=0.005)


def test_the_grid_has_depths_down_and_lengths_across():
    responses = [
        {"control": False, "depth": depth, "length": length, "recall": depth / 100 + length / 1000}
        for depth in (0, 100)
        for length in (200, 100)
    ]
    grid = grid_of([*responses, {"control": True, "length": 100}], "recall")
    assert (grid["lengths"], grid["depths"]) == ([100, 200], [0, 100])
    assert np.allclose(grid["values"], [[0.1, 0.2], [1.1, 1.2]])


def test_lengths_without_room_are_refused(make_inputs):
    with pytest.raises(
        ConfigError, match=r"needle_fu.lengths: 260 less needle_fu.buffer=250 leaves no haystack beside"
    ):
        examples(make_inputs("needle_fu.lengths=[260]"))
    with pytest.raises(ConfigError, match="leave no room beside needle_fu.buffer=250"):
        make_inputs("needle_fu.lengths=[250]")

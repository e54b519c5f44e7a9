"""Key retrieval on models that know everything or nothing."""

import numpy as np
import pytest

from meap.evals.runner import run_tasks
from meap.evals.task import Example, Output, TaskInputs
from meap.evals.tasks.key_retrieval import DEPTHS, examples, score
from meap.prep.sample import train_sample_tokenizer, write_sample_corpus

EXAMPLE = Example("0", answers=("4821",), right=1)


def said(text="", loglikelihoods=(0.0, 0.0, 0.0)):
    return score(EXAMPLE, Output(text, tuple(np.array([each]) for each in loglikelihoods)))


def test_fewer_examples_are_the_first_of_more(make_inputs):
    some, all_of_them = examples(make_inputs("key_retrieval.examples=7")), examples(make_inputs())
    assert [each.facts for each in some] == [each.facts for each in all_of_them[:7]]


def test_depths_take_turns_on_an_even_grid(make_inputs):
    assert np.allclose(np.diff(DEPTHS), DEPTHS[1])
    assert (DEPTHS[0], DEPTHS[-1]) == (0.0, 1.0)
    assert [each.facts["depth"] for each in examples(make_inputs())] == list(DEPTHS) * 6


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" 4821.", True),
        (" 4821. The mill", True),
        ("\n 4821", True),
        (" 48213.", False),
        (" 14821", False),
        (" 9999.\n4821", False),
        ("", False),
        (" forgotten", False),
    ],
)
def test_generation_must_say_the_answer_in_its_first_line(text, right):
    assert said(text)["generation"] == right


@pytest.mark.parametrize(
    ("loglikelihoods", "right"), [((-9.0, -1.0, -3.0), True), ((-1.0, -2.0, -3.0), False), ((-1.0, -1.0, -1.0), False)]
)
def test_ranking_takes_the_likeliest_and_of_equals_the_first(loglikelihoods, right):
    assert said("", loglikelihoods)["ranking"] == right


def test_all_that_differs_between_candidates_is_scored(make_inputs):
    for each in examples(make_inputs()):
        shared = {tuple(one.ids[: len(one.ids) - one.scored].tolist()) for one in each.candidates}
        assert len(shared) == 1
        assert len({tuple(one.ids.tolist()) for one in each.candidates}) == 4


@pytest.mark.slow
def test_what_a_model_knows_is_told_apart_from_what_it_says(make_inputs, oracle, tmp_path):
    inputs = make_inputs()
    for name, spell in (("silent", lambda answer: " well"), ("endless", lambda answer: f" {answer}777")):
        model = oracle(examples(inputs), spell)
        metrics = run_tasks(inputs, model, ["key_retrieval"], tmp_path / name)["tasks"]["key_retrieval"]["metrics"]
        assert (metrics["ranking"]["value"], metrics["generation"]["value"]) == (1.0, 0.0)


@pytest.mark.slow
def test_four_sentences_fit_the_tiny_model(tmp_path, configure):
    from meap.config import TokenizerConfig
    from meap.tokenizer import load_tokenizer

    files = write_sample_corpus(tmp_path, megabytes=1.0)
    sample = load_tokenizer(TokenizerConfig(name=str(train_sample_tokenizer(files, tmp_path / "tokenizer"))))
    config = configure("key_retrieval.examples=1000", "key_retrieval.facts=4", "key_retrieval.sentences=4")
    assert max(each.positions for each in examples(TaskInputs(config, sample))) <= 256

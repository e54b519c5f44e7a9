"""Key retrieval on models that know everything or nothing."""

from dataclasses import replace

import numpy as np
import pytest

from meap.config import EvalConfig
from meap.errors import ConfigError
from meap.evals.key_retrieval import DEPTHS, Output, check, evaluate, examples, score
from meap.evals.task import TaskInputs
from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
from meap.synthetic import RetrievalExample

CONFIG = EvalConfig(model="m", out_dir="o", num_examples=60, num_sentences=3, batch_size=7)

EXAMPLE = RetrievalExample("... The code of the mill is", "4821", ("9999", "4821", "1234"), 0.5)


def test_examples_are_a_function_of_the_configuration():
    assert examples(CONFIG) == examples(CONFIG)
    assert examples(replace(CONFIG, num_examples=7)) == examples(CONFIG)[:7]
    assert examples(replace(CONFIG, seed=5)) != examples(CONFIG)


def test_depths_take_turns_on_an_even_grid():
    assert np.allclose(np.diff(DEPTHS), DEPTHS[1])
    assert (DEPTHS[0], DEPTHS[-1]) == (0.0, 1.0)
    assert [example.depth for example in examples(CONFIG)] == list(DEPTHS) * 12


@pytest.mark.parametrize(
    ("text", "said"),
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
def test_generation_must_say_the_answer_in_its_first_line(text, said):
    assert score(EXAMPLE, Output((0.0, 0.0, 0.0), text)).generation is said


@pytest.mark.parametrize(
    ("loglikelihoods", "right"), [((-9.0, -1.0, -3.0), True), ((-1.0, -2.0, -3.0), False), ((-1.0, -1.0, -1.0), False)]
)
def test_ranking_takes_the_likeliest_and_of_equals_the_first(loglikelihoods, right):
    assert score(EXAMPLE, Output(loglikelihoods, "")).ranking is right


def test_a_perfect_model_scores_one(oracle, tokenizer):
    result = evaluate(TaskInputs(oracle(CONFIG), tokenizer, CONFIG))
    assert result.numbers["ranking"]["value"] == result.numbers["generation"]["value"] == 1.0
    assert [each["ranking"]["value"] for each in result.numbers["by_depth"]] == [1.0] * len(DEPTHS)
    assert [each["depth"] for each in result.numbers["by_depth"]] == list(DEPTHS)
    assert sum(each["generation"]["n"] for each in result.numbers["by_depth"]) == CONFIG.num_examples


def test_a_model_that_knows_but_cannot_say_is_seen(oracle, tokenizer):
    numbers = evaluate(TaskInputs(oracle(CONFIG, lambda answer: " well"), tokenizer, CONFIG)).numbers
    assert (numbers["ranking"]["value"], numbers["generation"]["value"]) == (1.0, 0.0)


def test_an_answer_that_runs_on_is_seen(oracle, tokenizer):
    numbers = evaluate(TaskInputs(oracle(CONFIG, lambda answer: f" {answer}777"), tokenizer, CONFIG)).numbers
    assert numbers["generation"]["value"] == 0.0


def test_a_blind_model_scores_chance(blind, tokenizer):
    config = replace(CONFIG, num_examples=600, num_sentences=1)
    numbers = evaluate(TaskInputs(blind, tokenizer, config)).numbers
    assert numbers["chance"] == 0.25
    # 600 examples: the standard error is 0.018.
    assert numbers["ranking"]["value"] == pytest.approx(0.25, abs=0.06)
    assert numbers["ranking"]["low"] < 0.25 < numbers["ranking"]["high"]
    assert numbers["generation"]["value"] == 0.0


def test_records_hold_what_was_asked_and_said(oracle, tokenizer):
    records = evaluate(TaskInputs(oracle(CONFIG), tokenizer, CONFIG)).records
    assert len(records) == CONFIG.num_examples
    asked = examples(CONFIG)[3]
    assert records[3]["prompt"] == asked.prompt
    assert records[3]["text"] == f" {asked.answer}."
    assert len(records[3]["loglikelihoods"]) == CONFIG.num_facts
    assert records[3]["ranking_correct"]


def test_prompts_are_bos_and_tokens_and_hold_no_mask(oracle, tokenizer):
    seen: list[list[int]] = []

    class Watching:
        max_positions = 4096

        def loglikelihoods(self, rows):
            seen.extend(row.tolist() for row in rows)
            return [np.zeros(len(row) - 1) for row in rows]

        def generate(self, prompts, *, max_new_tokens):
            seen.extend(prompts)
            return [[] for _ in prompts]

        def describe(self):
            return {"name": "watching"}

    evaluate(TaskInputs(Watching(), tokenizer, CONFIG))
    assert len(seen) == CONFIG.num_examples * (CONFIG.num_facts + 1)
    for ids in seen:
        assert ids[0] == tokenizer.bos_id
        assert not {tokenizer.bos_id, tokenizer.mask_id} & set(ids[1:])


def test_too_long_prompts_are_refused_with_what_fits(lm, oracle, tokenizer):
    # 300 ids spell a prompt almost byte by byte.
    long = replace(CONFIG, num_sentences=40, num_examples=20)
    limited = oracle(long)
    limited.max_positions = 1500
    with pytest.raises(
        ConfigError, match=r"take up to [\d,]+ tokens and their answers \d+, but the model was made for 1,500: eval.num"
    ) as refused:
        check(TaskInputs(limited, tokenizer, long))
    advised = int(str(refused.value).rsplit("=", 1)[1])
    check(TaskInputs(limited, tokenizer, replace(long, num_sentences=advised)))
    with pytest.raises(ConfigError):
        check(TaskInputs(limited, tokenizer, replace(long, num_sentences=advised + 3)))
    with pytest.raises(ConfigError, match=r"set fewer eval.num_facts and eval.num_sentences"):
        check(TaskInputs(lm, tokenizer, long))


def test_four_sentences_fit_the_tiny_model(tmp_path, blind):
    from meap.config import TokenizerConfig
    from meap.tokenizer import load_tokenizer

    files = write_sample_corpus(tmp_path, megabytes=1.0)
    sample = load_tokenizer(TokenizerConfig(name=str(train_sample_tokenizer(files, tmp_path / "tokenizer"))))
    blind.max_positions = 256
    config = EvalConfig(model="m", out_dir="o", num_examples=1000, num_facts=4, num_sentences=4)
    check(TaskInputs(blind, sample, config))

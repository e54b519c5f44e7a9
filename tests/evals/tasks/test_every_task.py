"""What holds for every task: seeded, answerable, at chance for the blind, no mask in a prompt, a picture."""

import math
from dataclasses import replace
from functools import cache

import pytest

from meap.evals.pictures import panel
from meap.evals.responses import prompt_hashes
from meap.evals.runner import run_tasks
from meap.evals.tasks import TASKS
from meap.show.figures import draw_svg
from meap.synthetic import NUM_CANDIDATES

MEASURED = {"attention_decay", "attention_segments"}
"""Tasks that are not answered; what an attention that is known would give is in their own tests."""

CHANCE = {
    "key_retrieval": 0.25,
    "record_retrieval": 1 / NUM_CANDIDATES,
    "choice": 1 / NUM_CANDIDATES,
    "needle_fu": 0.0,
    "needle_magic": 0.0,
    "multi_needle": 0.0,
    "ancestral_trace": 0.0,
    "multidoc_qa": 0.0,
    "kv_retrieval": 0.0,
    "hallucination": 0.0,
    "commonsense": (1 / 4 + 5 / 8 + 1 / 4 + 1 / 2) / 4,  # the first choice of each made-up row
}


@pytest.fixture
def make(make_inputs, commonsense_dir, articles):
    return lambda *overrides: make_inputs(f"commonsense.data_dir={commonsense_dir}", *articles, *overrides)


@pytest.fixture(scope="module")
def examples_of(make_inputs, commonsense_dir, articles):
    """Examples of a task, made once."""
    inputs = make_inputs(f"commonsense.data_dir={commonsense_dir}", *articles)
    return cache(lambda name: TASKS[name].examples(inputs))


@pytest.fixture(params=TASKS)
def name(request):
    return request.param


@pytest.mark.slow
def test_examples_are_a_function_of_configuration_and_seed(name, make, examples_of, tokenizer):
    examples = examples_of(name)
    hashes = prompt_hashes(examples, tokenizer)
    assert hashes == prompt_hashes(TASKS[name].examples(make()), tokenizer)
    assert len({example.id for example in examples}) == len(examples)
    if name not in {"perplexity", "commonsense", "multidoc_qa", "needle_fu", "choice"}:
        assert hashes != prompt_hashes(TASKS[name].examples(make("seed=5")), tokenizer)


@pytest.mark.slow
def test_prompts_begin_with_bos_and_hold_no_mask(name, examples_of, tokenizer):
    for example in examples_of(name):
        rows = [candidate.ids for candidate in example.candidates]
        for ids in [*rows, *([example.prompt] if example.max_new_tokens else [])]:
            assert tokenizer.mask_id not in ids
            if name != "perplexity":
                assert ids[0] == tokenizer.bos_id
                assert tokenizer.bos_id not in ids[1:]
        assert all(0 < candidate.scored < len(candidate.ids) for candidate in example.candidates)


@pytest.mark.slow
def test_bos_can_be_left_out(name, make, examples_of):
    if name == "perplexity":
        return
    for with_bos, without in zip(examples_of(name), TASKS[name].examples(make("add_bos=false")), strict=True):
        assert with_bos.prompt[1:].tolist() == without.prompt.tolist()
        for one, other in zip(with_bos.candidates, without.candidates, strict=True):
            assert one.ids[1:].tolist() == other.ids.tolist()


@pytest.mark.slow
def test_a_perfect_model_is_perfect_and_a_blind_one_at_chance(
    name, make, examples_of, oracle, blind, judge_server, tmp_path, monkeypatch
):
    inputs = make("judge.model=judge", f"judge.base_url={judge_server.url}")
    examples = examples_of(name)  # a judge changes none
    monkeypatch.setitem(TASKS, name, replace(TASKS[name], examples=lambda _: examples))
    perfect = run_tasks(inputs, oracle(examples), [name], tmp_path / "perfect")["tasks"][name]
    guessing = run_tasks(inputs, blind, [name], tmp_path / "blind")["tasks"][name]
    assert draw_svg(panel(TASKS[name].draw, perfect)).title
    if name in MEASURED:
        assert perfect["metrics"] == guessing["metrics"]
        return
    best, chance = (numbers["metrics"][numbers["headline"]] for numbers in (perfect, guessing))
    if name == "perplexity":
        assert guessing["perplexity"]["value"] == pytest.approx(inputs.tokenizer.vocab_size)
        assert chance["value"] == pytest.approx(math.log(301))
        return
    assert best["value"] == pytest.approx(1.0)
    assert best["high"] == (None if name == "needle_fu" else pytest.approx(1.0))  # one haystack has no interval
    if name in {"key_retrieval", "record_retrieval", "choice"}:
        assert chance["low"] < CHANCE[name] < chance["high"]
    else:
        assert chance["value"] == pytest.approx(CHANCE[name])

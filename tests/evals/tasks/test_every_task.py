"""What holds for every task: seeded, answerable, at chance for the blind, no mask in a prompt, a picture."""

import math

import pytest

from meap.evals.responses import prompt_hashes
from meap.evals.runner import run_tasks
from meap.evals.tasks import TASKS
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


@pytest.fixture(params=TASKS)
def name(request):
    return request.param


@pytest.mark.slow
def test_examples_are_a_function_of_configuration_and_seed(name, make, tokenizer):
    inputs = make()
    examples = TASKS[name].examples(inputs)
    hashes = prompt_hashes(examples, tokenizer)
    assert hashes == prompt_hashes(TASKS[name].examples(make()), tokenizer)
    assert len({example.id for example in examples}) == len(examples)
    if name not in {"perplexity", "commonsense", "multidoc_qa", "needle_fu", "choice"}:
        assert hashes != prompt_hashes(TASKS[name].examples(make("seed=5")), tokenizer)


@pytest.mark.slow
def test_prompts_begin_with_bos_and_hold_no_mask(name, make, tokenizer):
    for example in TASKS[name].examples(make()):
        rows = [candidate.ids for candidate in example.candidates]
        for ids in [*rows, *([example.prompt] if example.max_new_tokens else [])]:
            assert tokenizer.mask_id not in ids
            if name != "perplexity":
                assert ids[0] == tokenizer.bos_id
                assert tokenizer.bos_id not in ids[1:]
        assert all(0 < candidate.scored < len(candidate.ids) for candidate in example.candidates)


@pytest.mark.slow
def test_bos_can_be_left_out(name, make, tokenizer):
    if name == "perplexity":
        return
    for with_bos, without in zip(
        TASKS[name].examples(make()), TASKS[name].examples(make("add_bos=false")), strict=True
    ):
        assert with_bos.prompt[1:].tolist() == without.prompt.tolist()
        for one, other in zip(with_bos.candidates, without.candidates, strict=True):
            assert one.ids[1:].tolist() == other.ids.tolist()


@pytest.mark.slow
def test_a_perfect_model_is_perfect_and_a_blind_one_at_chance(name, make, oracle, blind, judge_server, tmp_path):
    inputs = make("judge.model=judge", f"judge.base_url={judge_server.url}")
    perfect = run_tasks(inputs, oracle(TASKS[name].examples(inputs)), [name], tmp_path / "perfect")["tasks"][name]
    guessing = run_tasks(inputs, blind, [name], tmp_path / "blind")["tasks"][name]
    assert (tmp_path / "perfect" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
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

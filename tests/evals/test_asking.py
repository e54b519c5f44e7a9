"""Batches, ranks and kills change nothing."""

import pytest

from meap.errors import ConfigError
from meap.evals.asking import answer, ask_all, require_fit
from meap.evals.responses import ResponseStore, prompt_hashes, read_responses
from meap.evals.task import Candidate, Example
from meap.evals.tasks import TASKS

KEY = "0123456789abcdef0123"


class Killed(BaseException):
    """The process is gone."""


class DyingLM:
    """Answers some batches, then the process is killed."""

    def __init__(self, model, batches: int) -> None:
        self._model = model
        self._left = batches
        self.max_positions = model.max_positions

    def loglikelihoods(self, rows):
        if not self._left:
            raise Killed
        self._left -= 1
        return self._model.loglikelihoods(rows)

    def generate(self, prompts, **how):
        return self._model.generate(prompts, **how)


@pytest.fixture
def asked(make_inputs, tokenizer, oracle, tmp_path):
    """Asks key retrieval; returns what was answered."""
    inputs = make_inputs("batch_size=4")
    examples = TASKS["key_retrieval"].examples(inputs)
    hashes = prompt_hashes(examples, tokenizer)
    store = ResponseStore(tmp_path, "key_retrieval", KEY)

    def ask(model=None, **how):
        model = model or oracle(examples)
        ask_all(examples, hashes, TASKS["key_retrieval"].score, model, inputs, store, **how)
        return model

    ask.examples, ask.store, ask.inputs = examples, store, inputs
    ask.done = lambda: store.done({each.id: one for each, one in zip(examples, hashes, strict=True)})
    return ask


def without_times(responses):
    return {name: {key: value for key, value in each.items() if key != "seconds"} for name, each in responses.items()}


def test_every_example_has_a_record(asked):
    asked()
    assert set(asked.done()) == {example.id for example in asked.examples}
    response = asked.done()["3"]
    assert response["ranking"] == response["generation"] == 1.0
    assert response["answers"][0] in response["text"]
    assert len(response["loglikelihoods"]) == 4
    assert response["prompt_tokens"] == len(asked.examples[3].prompt)


def test_a_killed_run_continues_and_asks_nothing_twice(asked, oracle):
    with pytest.raises(Killed):
        asked(DyingLM(oracle(asked.examples), 3))
    assert len(asked.done()) == 12
    rest = asked()
    assert len(set(rest.asked)) == 18 * 5
    assert len(asked.done()) == 30
    assert not asked().asked


def test_a_line_that_a_kill_tore_is_asked_again(asked):
    asked()
    (path,) = asked.store.path.parent.rglob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    assert len(asked.done()) == 29
    asked()
    assert len(asked.done()) == 30


@pytest.mark.parametrize("num_ranks", [2, 7])
def test_ranks_together_answer_what_one_would(asked, num_ranks, oracle):
    shares = [asked(rank=rank, num_ranks=num_ranks).asked for rank in range(num_ranks)]
    assert sum(map(len, shares)) == 30 * 5
    assert max(map(len, shares)) - min(map(len, shares)) <= 5
    together = without_times(asked.done())
    asked.store.finish([])
    asked.store.path.unlink()
    asked()
    assert without_times(asked.done()) == together


def test_finished_records_are_read_and_lines_forgotten(asked):
    asked()
    done = asked.done()
    asked.store.finish([done[example.id] for example in asked.examples])
    assert [response["id"] for response in read_responses(asked.store.path.parent, "key_retrieval")] == [
        example.id for example in asked.examples
    ]
    assert [path.name for path in asked.store.path.parent.iterdir()] == ["key_retrieval.parquet"]
    assert without_times(asked.done()) == without_times(done)
    assert not asked().asked


def test_another_model_or_prompt_is_asked_afresh(asked, tokenizer, make_inputs):
    asked()
    done = asked.done()
    asked.store.finish(list(done.values()))
    hashes = {name: response["prompt_sha256"] for name, response in done.items()}
    assert not ResponseStore(asked.store.path.parent, "key_retrieval", "another").done(hashes)
    assert set(asked.store.done(hashes | {"3": "changed"})) == set(done) - {"3"}


def test_batches_are_as_one_by_one(lm, llama, make_inputs, tokenizer):
    """On a real model, with answers of any length."""
    inputs = make_inputs()
    rows = inputs.encode(["One two three.", "A", "The harbour lay quiet under a grey", "Nobody"])
    examples = [
        Example(str(index), prompt=ids, max_new_tokens=6, stop="e", candidates=(Candidate(ids, 1),))
        for index, ids in enumerate(rows)
    ]
    together = answer(examples, lm, inputs)
    alone = [answer([example], lm, inputs)[0] for example in examples]
    assert [each.text for each in together] == [each.text for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.sums == pytest.approx(other.sums, abs=1e-4)
    assert all("e" not in each.text for each in together)


def test_what_is_too_long_is_refused_or_wrong(asked, oracle):
    model = oracle(asked.examples)
    model.max_positions = sorted(example.positions for example in asked.examples)[20]
    with pytest.raises(ConfigError, match=r"key: \d of 30 examples exceed the \d+ tokens of the model"):
        require_fit("key", asked.examples, max_positions=model.max_positions)
    asked(model)
    wrong = [response for response in asked.done().values() if response["too_long"]]
    assert 0 < len(wrong) < 10
    assert all("ranking" not in response for response in wrong)

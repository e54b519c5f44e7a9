"""Examples -> responses: asks the model in batches, keeps every response, resumes a killed evaluation.

Ranks take turns over the examples, longest first. Each has the whole model and exchanges nothing with the others: its
responses are in a file (`meap.evals.responses`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from meap.errors import ConfigError
from meap.evals.lm import LanguageModel
from meap.evals.responses import ResponseStore
from meap.evals.task import Example, Output, Response, Scores, TaskInputs

__all__ = ["answer", "ask_all", "require_fit"]

_KEPT_TOKENS = 200
"""Tokens at the end of a prompt that are stored as text with its response."""


def answer(examples: Sequence[Example], model: LanguageModel, inputs: TaskInputs) -> list[Output]:
    """The model's output for each example; all examples have the same `max_new_tokens` and `stop`."""
    rows = [candidate.ids for example in examples for candidate in example.candidates]
    found = iter(model.loglikelihoods(rows)) if rows else iter(())
    loglikelihoods = [
        tuple(next(found)[-candidate.scored :] for candidate in example.candidates) for example in examples
    ]
    readings = [reading for example in examples for reading in example.readings]
    read = iter(model.attention(readings)) if readings else iter(())
    attention = [tuple(next(read) for _ in example.readings) for example in examples]
    max_new_tokens, stop = examples[0].max_new_tokens, examples[0].stop
    texts = [""] * len(examples)
    if max_new_tokens:
        prompts = [example.prompt for example in examples]
        for place, ids in enumerate(model.generate(prompts, max_new_tokens=max_new_tokens, stop=stop)):
            text = inputs.tokenizer.decode(ids, skip_special_tokens=True)
            begun = text.lstrip()
            texts[place] = text[: len(text) - len(begun)] + begun.split(stop, 1)[0] if stop else text
    return [Output(*each) for each in zip(texts, loglikelihoods, attention, strict=True)]


def ask_all(
    examples: Sequence[Example],
    hashes: Sequence[str],
    score: Callable[[Example, Output], Scores],
    model: LanguageModel,
    inputs: TaskInputs,
    store: ResponseStore,
    *,
    rank: int = 0,
    num_ranks: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Ask this rank's share of the examples that have no response yet, and store the responses.

    Args:
        examples: All examples; those longer than the model's context are not asked, and have no scores.
        hashes: Hashes of their prompts, see `prompt_hashes`.
        score: `Task.score`.
        model: The model.
        inputs: Inputs that the examples were made from.
        store: Store of the responses.
        rank: Rank of this process.
        num_ranks: Number of processes that share the work.
        progress: Called with the tokens done and the total of this rank's share.
    """
    hash_by_id = {example.id: each for example, each in zip(examples, hashes, strict=True)}
    done = store.done(hash_by_id)
    order = sorted(examples, key=lambda example: -example.positions)
    share = [example for example in order[rank::num_ranks] if example.id not in done]
    wrong = [example for example in share if example.positions > model.max_positions]
    if wrong:
        store.add(
            [_response(example, hash_by_id[example.id], Output(), {}, "") | {"too_long": True} for example in wrong],
            rank=rank,
        )
        share = share[len(wrong) :]
    total, finished = sum(example.positions for example in share), 0
    for batch in _batches(share, inputs.config.batch_size):
        started = time.perf_counter()
        outputs = answer(batch, model, inputs)
        ends = inputs.tokenizer.full.decode_batch(
            [example.prompt[-_KEPT_TOKENS:].tolist() for example in batch], skip_special_tokens=True
        )
        seconds = (time.perf_counter() - started) / len(batch)
        store.add(
            [
                _response(example, hash_by_id[example.id], output, score(example, output), end)
                | {"seconds": round(seconds, 4)}
                for example, output, end in zip(batch, outputs, ends, strict=True)
            ],
            rank=rank,
        )
        finished += sum(example.positions for example in batch)
        progress(finished, total)


def require_fit(name: str, examples: Sequence[Example], *, max_positions: int) -> None:
    """Raise `ConfigError` if a context of `max_positions` cannot hold an example of the task called `name`."""
    too_long = [example for example in examples if example.positions > max_positions]
    if too_long:
        longest = max(too_long, key=lambda example: example.positions)
        raise ConfigError(
            f"{name}: {len(too_long):,} of {len(examples):,} examples exceed the {max_positions:,} "
            f"tokens of the model's context, {longest.id} takes {longest.positions:,}: make {name} shorter, or set "
            "too_long=wrong to count them as wrong"
        )


def _batches(examples: Sequence[Example], batch_size: int) -> Iterator[list[Example]]:
    """Batches of examples with equal `max_new_tokens` and `stop`, longest first."""

    def request(example: Example) -> tuple[int, str]:
        return example.max_new_tokens, example.stop

    for _, some in groupby(sorted(examples, key=request), request):
        alike = sorted(some, key=lambda example: -example.positions)
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _response(example: Example, prompt_hash: str, output: Output, scores: Scores, asked: str) -> Response:
    return {
        "id": example.id,
        "prompt_sha256": prompt_hash,
        "control": example.control,
        "cluster": example.cluster or example.id,
        **example.facts,
        "answers": list(example.answers),
        "prompt_tokens": len(example.prompt) or example.positions,
        "asked": asked,
        "text": output.text,
        "right": example.right,
        "loglikelihoods": list(output.sums),
        **scores,
        "seconds": 0.0,
        "too_long": False,
    }

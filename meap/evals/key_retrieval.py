"""Key retrieval: a passage states several facts, and its last sentence asks for one of them.

What it stands for: needle-in-a-haystack tests, whose prompts, trials and scores the paper (arXiv 2502.07490, section
4.1.2) does not state. Prompts come from `meap.synthetic.generate_retrieval_example`: prose with numbers that a model
cannot know but from the passage. What was matched: the answer stands at a chosen depth, the other facts are distractors
of the same form, decoding is greedy. What differs: no essay, no fixed length, no instruction; the prompt ends with the
stem of the sentence that the answer completes, as for a base model.

Two scores, because a small model may know more than it can say:

    ranking      the stated values are ranked by the likelihood of the prompt with each put in; chance is 1 / num_facts
    generation   the answer stands in the first line of a greedy continuation; chance is about 0

Prompts are BOS and the model's own tokens; the candidates are encoded together with the prompt, since a tokenizer may
join the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.config import EvalConfig
from meap.errors import ConfigError
from meap.evals.lm import LanguageModel
from meap.evals.scoring import wilson
from meap.evals.task import TaskInputs, TaskResult
from meap.synthetic import RetrievalExample, generate_retrieval_example
from meap.tokenizer import Tokenizer

__all__ = ["DEPTHS", "Output", "Score", "check", "evaluate", "examples", "score"]

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the asked fact stands, in turn: 0 is the passage's first sentence, 1 its last."""

_SPARE_TOKENS = 4
"""Generated beyond the longest answer, so that an answer which runs on is seen to."""


@dataclass(frozen=True)
class Output:
    """What a model says to an example."""

    loglikelihoods: tuple[float, ...]
    """Of the prompt completed with each candidate, in nats, up to a constant of the example."""
    text: str
    """Greedy continuation of the prompt."""


@dataclass(frozen=True)
class Score:
    """Whether it is right."""

    ranking: bool
    generation: bool


def examples(config: EvalConfig) -> list[RetrievalExample]:
    """The prompts: a function of the configuration alone; depths take turns."""
    return [
        generate_retrieval_example(
            config.seed,
            index,
            num_facts=config.num_facts,
            num_sentences=config.num_sentences,
            depth=DEPTHS[index % len(DEPTHS)],
        )
        for index in range(config.num_examples)
    ]


def score(example: RetrievalExample, output: Output) -> Score:
    """Judge one answer.

    Of equally likely candidates the first counts as chosen; candidates are shuffled, so that a model which cannot tell
    them apart scores chance. An answer inside a longer word or number does not count as said.
    """
    chosen = example.candidates[int(np.argmax(output.loglikelihoods))]
    first_line = output.text.strip().split("\n", 1)[0]
    said = re.search(rf"(?<!\w){re.escape(example.answer)}(?!\w)", first_line) is not None
    return Score(ranking=chosen == example.answer, generation=said)


def check(inputs: TaskInputs) -> None:
    """Raise `ConfigError` if a prompt with its answer is longer than the model's context."""
    limit = inputs.model.max_positions

    def longest(num_sentences: int) -> tuple[int, int]:
        asked = examples(replace(inputs.config, num_sentences=num_sentences))
        encoded = [_encode(example, inputs.tokenizer) for example in asked]
        return max(len(each.prompt) for each in encoded), _max_new_tokens(encoded)

    prompt_tokens, answer_tokens = longest(inputs.config.num_sentences)
    if prompt_tokens + answer_tokens <= limit:
        return
    fitting, too_many = 0, inputs.config.num_sentences
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if sum(longest(middle)) <= limit else (fitting, middle)
    raise ConfigError(
        f"key-retrieval prompts take up to {prompt_tokens:,} tokens and their answers {answer_tokens}, but the model "
        f"was made for {limit:,}: eval.num_sentences={inputs.config.num_sentences} is too long for eval.num_facts="
        f"{inputs.config.num_facts}, set "
        + (f"eval.num_sentences={fitting}" if fitting else "fewer eval.num_facts and eval.num_sentences")
    )


def evaluate(inputs: TaskInputs) -> TaskResult:
    """Ask `eval.num_examples` questions."""
    config, tokenizer = inputs.config, inputs.tokenizer
    asked = examples(config)
    encoded = [_encode(example, tokenizer) for example in asked]
    max_new_tokens = _max_new_tokens(encoded)

    outputs: list[Output] = []
    for start in range(0, len(asked), config.batch_size):
        outputs += _answer(encoded[start : start + config.batch_size], inputs.model, tokenizer, max_new_tokens)
        inputs.progress(len(outputs), len(asked))
    scores = [score(example, output) for example, output in zip(asked, outputs, strict=True)]

    lengths = [len(each.prompt) for each in encoded]
    ranking = wilson(sum(each.ranking for each in scores), len(scores))
    generation = wilson(sum(each.generation for each in scores), len(scores))
    return TaskResult(
        headline={
            f"key retrieval, ranking (chance {1 / config.num_facts:.2f})": ranking,
            "key retrieval, generation": generation,
        },
        numbers={
            "n": len(scores),
            "chance": 1 / config.num_facts,
            "ranking": asdict(ranking),
            "generation": asdict(generation),
            "by_depth": _by_depth(asked, scores),
            "prompt_tokens": {"mean": float(np.mean(lengths)), "longest": max(lengths)},
            "max_new_tokens": max_new_tokens,
        },
        records=[
            {"index": index, **asdict(example), "prompt_tokens": len(each.prompt), **asdict(output), **_scored(judged)}
            for index, (example, each, output, judged) in enumerate(zip(asked, encoded, outputs, scores, strict=True))
        ],
    )


@dataclass(frozen=True)
class _Encoded:
    prompt: list[int]
    completed: list[NDArray[np.int64]]
    """The prompt with each candidate."""

    @property
    def shared(self) -> int:
        """Leading tokens that the prompt and all completed prompts have in common."""
        columns = zip(self.prompt, *(row.tolist() for row in self.completed), strict=False)
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))

    @property
    def answer_tokens(self) -> int:
        return max(map(len, self.completed)) - self.shared


def _encode(example: RetrievalExample, tokenizer: Tokenizer) -> _Encoded:
    texts = [example.prompt, *(f"{example.prompt} {candidate}" for candidate in example.candidates)]
    prompt, *completed = ([tokenizer.bos_id, *map(int, ids)] for ids in tokenizer.encode_batch(texts))
    return _Encoded(prompt, [np.array(row, np.int64) for row in completed])


def _answer(
    encoded: Sequence[_Encoded], model: LanguageModel, tokenizer: Tokenizer, max_new_tokens: int
) -> list[Output]:
    rows = iter(model.loglikelihoods([row for each in encoded for row in each.completed]))
    # Beyond the shared beginning everything counts, so that sums differ exactly as those of whole rows do.
    sums = [tuple(float(next(rows)[each.shared - 1 :].sum()) for _ in each.completed) for each in encoded]
    generated = model.generate([each.prompt for each in encoded], max_new_tokens=max_new_tokens)
    return [
        Output(loglikelihoods, tokenizer.decode(ids, skip_special_tokens=True))
        for loglikelihoods, ids in zip(sums, generated, strict=True)
    ]


def _max_new_tokens(encoded: Sequence[_Encoded]) -> int:
    return _SPARE_TOKENS + max(each.answer_tokens for each in encoded)


def _by_depth(asked: Sequence[RetrievalExample], scores: Sequence[Score]) -> list[dict[str, Any]]:
    def share(depth: float, is_right: Callable[[Score], bool]) -> dict[str, Any]:
        right = [is_right(judged) for example, judged in zip(asked, scores, strict=True) if example.depth == depth]
        return asdict(wilson(sum(right), len(right)))

    return [
        {
            "depth": depth,
            "ranking": share(depth, lambda judged: judged.ranking),
            "generation": share(depth, lambda judged: judged.generation),
        }
        for depth in sorted({example.depth for example in asked})
    ]


def _scored(judged: Score) -> dict[str, bool]:
    return {"ranking_correct": judged.ranking, "generation_correct": judged.generation}

"""Key retrieval: a passage states several facts, and its last sentence asks for one of them.

It replaces needle-in-a-haystack tests for models that are too small for them. Prompts come from
`meap.synthetic.generate_retrieval_example`: prose with numbers that only the passage states. What was matched: the
answer is at a chosen depth, the other facts are distractors of the same form, decoding is greedy. What differs: no
essay, no fixed length, no instruction; the prompt ends with the start of a sentence that the answer completes, as for a
base model.

Two scores, because a small model may know more than it can say:

    ranking      the stated values are ranked by the likelihood of the completed prompt; chance is 1 / facts
    generation   the answer is in the first line of a greedy continuation; chance is about 0

The candidates are encoded together with the prompt, since a tokenizer may join the two.
"""

from __future__ import annotations

from functools import partial
from itertools import takewhile

import numpy as np

from meap.config import EvaluationConfig
from meap.evals.answers import contains
from meap.evals.lm import Ids
from meap.evals.pictures import draw_curves
from meap.evals.task import Candidate, Example, Metric, Output, Scores, Task, TaskInputs
from meap.synthetic import RetrievalExample, generate_retrieval_example

__all__ = ["DEPTHS", "SPARE_TOKENS", "TASK", "encode_retrieval", "examples", "score"]

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Depths of the asked fact, in turn: 0 is the passage's first sentence, 1 its last."""

SPARE_TOKENS = 4
"""Tokens generated beyond the longest answer, to show answers that run on."""


def examples(inputs: TaskInputs) -> list[Example]:
    """The prompts; depths take turns."""
    config = inputs.config.key_retrieval
    asked = [
        generate_retrieval_example(
            inputs.config.seed,
            index,
            num_facts=config.facts,
            num_sentences=config.sentences,
            depth=DEPTHS[index % len(DEPTHS)],
        )
        for index in range(config.examples)
    ]
    encoded = [encode_retrieval(example, inputs) for example in asked]
    max_new_tokens = SPARE_TOKENS + max(candidate.scored for _, candidates in encoded for candidate in candidates)
    return [
        Example(
            id=f"{index}",
            prompt=prompt,
            max_new_tokens=max_new_tokens,
            candidates=candidates,
            answers=(example.answer,),
            right=example.candidates.index(example.answer),
            facts={"depth": example.depth, "prompt": example.prompt, "stated": list(example.candidates)},
        )
        for index, (example, (prompt, candidates)) in enumerate(zip(asked, encoded, strict=True))
    ]


def score(example: Example, output: Output) -> Scores:
    """Score one response.

    Of equally likely candidates the first is chosen; candidates are shuffled, so that a model that cannot distinguish
    them scores chance. An answer inside a longer word or number does not count.
    """
    first_line = output.text.strip().split("\n", 1)[0]
    return {
        "ranking": float(np.argmax(output.sums) == example.right),
        "generation": float(contains(first_line, example.answers[0])),
    }


def encode_retrieval(example: RetrievalExample, inputs: TaskInputs) -> tuple[Ids, tuple[Candidate, ...]]:
    """Ids of the prompt, and of the prompt completed by each candidate."""
    texts = [example.prompt, *(f"{example.prompt} {candidate}" for candidate in example.candidates)]
    prompt, *completed = inputs.encode(texts)
    # Everything after the shared prefix counts, so that sums differ exactly as those of whole rows.
    columns = zip(prompt.tolist(), *(row.tolist() for row in completed), strict=False)
    shared = max(1, sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns)))
    return prompt, tuple(Candidate(row, len(row) - shared) for row in completed)


def _chance(config: EvaluationConfig) -> float:
    return 1 / config.key_retrieval.facts


TASK = Task(
    title="Key retrieval",
    examples=examples,
    score=score,
    metrics=(
        Metric("ranking", "ranking", chance=_chance),
        Metric("generation", "generation"),
    ),
    by=("depth",),
    draw=partial(
        draw_curves,
        x="depth",
        metrics=("ranking", "generation"),
        x_label="depth of the fact (0 first sentence, 1 last)",
    ),
)

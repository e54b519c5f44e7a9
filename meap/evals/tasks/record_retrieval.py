"""Record retrieval: a field of a generated record, looked up in it, at several distances.

It replaces needle-in-a-haystack tests for models trained for minutes. Prompts come from
`meap.synthetic.generate_record_example`; a model that was trained on such records knows the form of the question, but
only the passage states the value. What was matched: one needle answers, greedy decoding. What differs: no essay, no
instruction; other fields are the distractors; the prompt ends with the start of a sentence that the answer completes.

    ranking      values of the asked field are ranked by their likelihood; chance is 1 in `NUM_CANDIDATES`
    generation   the answer is in the first line of a greedy continuation; chance is at most 1 in a field's values
"""

from __future__ import annotations

from functools import partial

from meap.config import EvaluationConfig
from meap.evals.pictures import draw_curves
from meap.evals.task import Example, Metric, Task, TaskInputs
from meap.evals.tasks.key_retrieval import SPARE_TOKENS, encode_retrieval, score
from meap.synthetic import FIELDS, NUM_CANDIDATES, generate_record_example

__all__ = ["TASK", "examples"]


def examples(inputs: TaskInputs) -> list[Example]:
    """The prompts of every number of sentences."""
    config, seed = inputs.config.record_retrieval, inputs.config.seed
    asked = {
        (sentences, index): generate_record_example(seed, index, num_sentences=sentences)
        for sentences in config.sentences
        for index in range(config.examples)
    }
    encoded = {key: encode_retrieval(example, inputs) for key, example in asked.items()}
    scored = [candidate.scored for _, candidates in encoded.values() for candidate in candidates]
    return [
        Example(
            id=f"{sentences}-{index}",
            prompt=encoded[sentences, index][0],
            max_new_tokens=SPARE_TOKENS + max(scored),
            candidates=encoded[sentences, index][1],
            answers=(example.answer,),
            right=example.candidates.index(example.answer),
            cluster=f"{index}",
            facts={"sentences": sentences, "depth": example.depth, "prompt": example.prompt},
        )
        for (sentences, index), example in asked.items()
    ]


def _chance_of_ranking(_: EvaluationConfig) -> float:
    return 1 / NUM_CANDIDATES


def _chance_of_generation(_: EvaluationConfig) -> float:
    return sum(1 / len(values) for values in FIELDS.values()) / len(FIELDS)


TASK = Task(
    title="Record retrieval",
    examples=examples,
    score=score,
    metrics=(
        Metric("ranking", "ranking", chance=_chance_of_ranking),
        Metric("generation", "generation", chance=_chance_of_generation),
    ),
    by=("sentences",),
    draw=partial(draw_curves, x="sentences", metrics=("ranking", "generation"), x_label="sentences of prose"),
)

"""Ancestral trace challenge: name the eldest of a family from its shuffled relations.

Prompt, relations and sentences are those of NeedleBench's ATC in ``opencompass/datasets/needlebench/atc.py`` of
open-compass/opencompass (5b1a5fa), its question for the eldest ancestor in English; the numbers of relations, 2 to 512
by doubling, and the 10 trials of each are those of ``atc_0shot_nocot_2_power_en``. There is no haystack: every sentence
counts. What was matched: the frame with its examples and notes, verbatim; one chain of n relations among n + 1 people,
shuffled; which relations and sentences there are.

What differs: names are invented, where the source has a file of them; the prompt ends with the start of the answer that
the notes ask for, up to the opening brace of the name, so that base models can answer and none can reason first; the
response ends at the closing brace. ``contains`` is whether the response has the name, ``exact`` whether it is nothing
else, as in the source. With ``notes`` false, the text before the relations is omitted, for models of short context. The
paper does not report this task.

The person asked about is known not to be the answer: a guess among the other n is right once in n.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from meap.config import EvaluationConfig
from meap.evals.answers import contains
from meap.evals.names import draw_names
from meap.evals.pictures import draw_curves
from meap.evals.task import Example, Metric, Output, Scores, Task, TaskInputs

__all__ = ["RELATIONS", "SENTENCES", "TASK", "examples", "prompt", "score"]

RELATIONS = (
    "father", "mother", "dad", "mom", "grandfather", "grandmother", "maternal grandmother", "maternal grandfather",
    "paternal grandfather", "paternal grandmother",
)  # fmt: skip
SENTENCES = (
    "{elder} is {younger}'s {relation}.",
    "{younger}'s {relation} is {elder}.",
    "{elder}, as {younger}'s {relation}, has a significant impact on {younger}'s upbringing.",
    "{elder} is not only {younger}'s {relation} but also {younger}'s role model.",
    "During {younger}'s upbringing, {elder} was not only {younger}'s {relation}, but also {younger}'s guardian.",
    "For {younger}, {elder} is not just a {relation}, but also a friend.",
    "For {younger}, {elder} is more than just a {relation}; {elder} is a lifelong mentor of {younger}.",
)

_NOTES = r"""Here is a test for multi-step reasoning ability called the Ancestral Trace Challenge. In this test, we will simulate different people's familial relationships, and your task is to continuously reason through them until you identify the eldest ancestor.

For example:
Example 1: If James Hill's father is Jasmine Lane, and no further information about familial relationships is provided in the text, then the oldest relative James Hill can trace back to in the provided text is \boxed{{Jasmine Lane}}.
Example 2: If Andrew Williams's grandmother is Dan Newton, and Dan Newton's father is James Hill, and no further information about familial relationships is provided in the text, then the oldest relative Andrew Williams can trace back to in the provided text is \boxed{{James Hill}}.
Example 3: If Jeff White's father is Kevin Le, Dan Newton's grandmother is Jeff White, and Jeff White's father is Kevin Le, and Shelley Mills is Dan Newton's great-granddaughter, and no further information about familial relationships is provided in the text, then the oldest relative Shelley Mills can trace back to in the provided text is \boxed{{Kevin Le}}.

Notes:
1. You do not need to worry about the gender consistency of names in this test. For example, a name that is typically considered feminine can still be the father of another person. Our primary focus is on who is older.
2. Ignore surname inheritance issues. For instance, Andrew Williams could still be the biological father of Christopher Baker. We only care about who is older and do not need to consider whether a child should inherit the father's or mother's surname.
3. At the end of your response, remember to put your final answer within \boxed{{}}. For example: "So the oldest relative '{person}' can trace back to in the provided text is \boxed{{somebody (your answer here)}}."

"""  # noqa: E501
_PROMPT = r"""{notes}Now, the scrambled family relationships are provided below:
{story}

Given the scrambled family relationships described above, who is the eldest relative that '{person}' can trace back to in the context?

So the oldest relative '{person}' can trace back to in the provided text is \boxed{{"""  # noqa: E501
_STOP = "}"


def prompt(sentences: Sequence[str], person: str, *, notes: bool = True) -> str:
    """The prompt, with or without the source's text before the relations."""
    return _PROMPT.format(notes=_NOTES.format(person=person) if notes else "", story="".join(sentences), person=person)


def examples(inputs: TaskInputs) -> list[Example]:
    """Families by number of relations."""
    config = inputs.config.ancestral_trace
    asked: list[tuple[str, str, str, dict[str, int]]] = []
    for num_relations in config.relations:
        for trial in range(config.trials):
            name = f"{num_relations}-{trial}"
            rng = random.Random(f"ancestral_trace {inputs.config.seed} {name}")  # noqa: S311 (not for secrets)
            people = draw_names(rng, num_relations + 1)
            facts = {"relations": num_relations, "trial": trial}
            text = prompt(_story(rng, people), people[-1], notes=config.notes)
            asked.append((name, text, people[0], facts))
    return [
        Example(
            id=name,
            prompt=ids,
            max_new_tokens=config.max_new_tokens,
            stop=_STOP,
            answers=(eldest,),
            facts=facts,
        )
        for (name, _, eldest, facts), ids in zip(asked, inputs.encode([text for _, text, *_ in asked]), strict=True)
    ]


def score(example: Example, output: Output) -> Scores:
    """Whether the response names the eldest, and nothing else."""
    return {
        "contains": float(contains(output.text, example.answers[0])),
        "exact": float(output.text.strip() == example.answers[0]),
    }


def _story(rng: random.Random, people: Sequence[str]) -> list[str]:
    """Sentences from the eldest to the youngest, shuffled."""
    sentences = [
        rng.choice(SENTENCES).format(elder=elder, younger=younger, relation=rng.choice(RELATIONS))
        for elder, younger in pairwise(people)
    ]
    rng.shuffle(sentences)
    return sentences


def _chance(config: EvaluationConfig) -> float:
    return sum(1 / number for number in config.ancestral_trace.relations) / len(config.ancestral_trace.relations)


TASK = Task(
    title="Ancestral trace (NeedleBench)",
    examples=examples,
    score=score,
    metrics=(
        Metric("contains", "names the eldest", chance=_chance),
        Metric("exact", "names the eldest alone", chance=_chance),
    ),
    by=("relations",),
    draw=partial(draw_curves, x="relations", metrics=("contains",), x_label="relations", x_scale="log"),
)

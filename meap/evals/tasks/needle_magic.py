"""Needle in a haystack as Ye et al. (2024) ask: the special magic number of a city; paper Table 2's other source.

Instruction, needle, question and cities are those of ``yoco/criterions/needle_haystack.py`` of microsoft/unilm
(768a3c8). What was matched: the memo instruction, haystack, needle on a line of its own, the stem of the answer at the
end; numbers in 1 to 50,000; depths k/10; greedy decoding of 20 tokens; BOS, padding and mask never generated; the
score, whether the number is in the response.

What differs: the needle goes to the end of a sentence rather than of a line; the two final spaces are omitted, since
they change the next token of a SentencePiece vocabulary; duplicate cities of the source count once; a number inside a
longer one does not count.

With ``needles`` = N and ``asked`` = R the haystack has N cities, and the prompt asks for R of them: the multi-needle
test of Ye et al., whose Table 2 has N/R = 1/1, 2/2, 4/2 and 6/2 at 4K. The score is the share of the R numbers in the
response. The first city asked for is at the depth of the grid, all others at random depths. The published
``multi_needle.py`` of the same folder asks for one city whatever N is, so the wording for several is ours: the start of
the answer with the cities in a row and the verb in the plural. That file also has a colon in its needles and partitions
the haystack for them; both are omitted, so that all N and R differ in nothing else.

A guess is right once in 50,000. A control per length asks for cities that the haystack does not mention.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from meap.config import EvaluationConfig
from meap.errors import ConfigError
from meap.evals.answers import contains
from meap.evals.haystack import Haystack, open_haystack, sentence_place
from meap.evals.pictures import draw_grid
from meap.evals.task import Example, Metric, Output, Response, Scores, Task, TaskInputs
from meap.evals.tasks.needle_fu import depths_of, grid_files, grid_of

__all__ = ["CITIES", "INSTRUCTION", "NEEDLE", "QUESTION", "QUESTIONS", "TASK", "examples", "score"]

INSTRUCTION = (
    "There is a special magic number inside a lot of irrelevant text. Find it and memorize them. I will quiz you about "
    "the magic number there. "
)
NEEDLE = "The special magic {city} number is {number} . "
QUESTION = "What is the special magic {city} number? The special magic {city} number is"
QUESTIONS = "What are the special magic {cities} numbers? The special magic {cities} numbers are"
CITIES = (
    "Chicago", "Yangon", "Antananarivo", "Colombo", "Almaty", "Sydney", "Mexico City", "Seattle", "Lagos", "Amsterdam",
    "Belgrade", "Cairo", "Baghdad", "Damascus", "Kigali", "Dakar", "Sofia", "Victoria", "Tashkent", "Mumbai",
    "Barcelona", "Amman", "Toronto", "Bratislava", "Johannesburg", "Thimphu", "Bangkok", "Santiago", "San Francisco",
    "Paris", "Rabat", "Copenhagen", "Madrid", "Ho Chi Minh City", "Sarajevo", "Delhi", "Istanbul", "Khartoum",
    "Helsinki", "Doha", "Kuala Lumpur", "Budapest", "Shanghai", "Moscow", "Los Angeles", "Oslo", "Berlin", "Bangalore",
    "Tokyo", "Melbourne", "Port Louis", "Lisbon", "Nairobi", "Kampala", "Lima", "Maputo", "Vancouver", "Dubai",
    "Jakarta", "Yerevan", "Beirut", "Athens", "Bucharest", "Brussels", "Tunis", "Astana", "Seoul", "Buenos Aires",
    "Vienna",
)  # fmt: skip

_LARGEST = 50_000
_BETWEEN = ", "
"""Separator between the numbers of an answer."""


def examples(inputs: TaskInputs) -> list[Example]:
    """Length by depth by trial, and a control whose cities are not mentioned for each length and trial."""
    config = inputs.config.needle_magic
    haystack = open_haystack(inputs.config.haystack, inputs.tokenizer, inputs.config.seed, 2 * max(config.lengths))
    asked: list[Example] = []
    for length in config.lengths:
        if config.needles > 1 and length - config.buffer < config.needles:
            raise ConfigError(f"needle_magic.needles={config.needles} is too large for a length of {length}: use fewer")
        for trial in range(config.trials):
            asked += [_example(inputs, haystack, length, depth, trial) for depth in (*depths_of(config.depths), None)]
    return asked


def score(example: Example, output: Output) -> Scores:
    """The share of the numbers in the response, and in its first line."""
    response = output.text.strip()
    numbers = example.answers[0].split(_BETWEEN)
    return {
        "contains": sum(contains(response, number) for number in numbers) / len(numbers),
        "first_line": sum(contains(response.split("\n", 1)[0], number) for number in numbers) / len(numbers),
    }


def _example(inputs: TaskInputs, haystack: Haystack, length: int, depth: int | None, trial: int) -> Example:
    config = inputs.config.needle_magic
    name = f"{length}-{'none' if depth is None else depth}-{trial}"
    # Drawn by name, so that cells shared by two grids have the same prompts.
    rng = random.Random(f"needle_magic {inputs.config.seed} {name}")  # noqa: S311 (not for secrets)
    cities = rng.sample(CITIES, config.needles)
    numbers = rng.sample(range(1, _LARGEST + 1), config.needles)
    places: list[float | None] = [depth, *(rng.uniform(0, 100) for _ in cities[1:])]
    if depth is None:
        places[: config.asked] = [None] * config.asked
    context = haystack.take(length - config.buffer, first_line=rng.randrange(haystack.num_lines))
    needles: list[tuple[int, str]] = []
    for city, number, each in zip(cities, numbers, places, strict=True):
        if each is not None:
            line = "\n" + NEEDLE.format(city=city, number=number) + "\n"
            needles.append((sentence_place(context, each), line))
    text = INSTRUCTION + context.with_needles(needles) + "\n" + _question(cities[: config.asked])
    (prompt,) = inputs.encode([text])
    facts: dict[str, Any] = {"length": length, "trial": trial, "city": _BETWEEN.join(cities[: config.asked])}
    if depth is not None:
        facts |= {"depth": depth, "actual_depth": 100 * needles[0][0] / context.num_tokens}
    return Example(
        id=name,
        prompt=prompt,
        max_new_tokens=config.max_new_tokens * config.asked,
        answers=(_BETWEEN.join(map(str, numbers[: config.asked])),),
        facts=facts,
        control=depth is None,
    )


def _question(cities: Sequence[str]) -> str:
    if len(cities) == 1:
        return QUESTION.format(city=cities[0])
    return QUESTIONS.format(cities=f"{_BETWEEN.join(cities[:-1])} and {cities[-1]}")


def _chance(_: EvaluationConfig) -> float:
    return 1 / _LARGEST


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    return {"grid": grid_of(responses, "contains")}


TASK = Task(
    title="Magic numbers in a haystack (Ye et al.)",
    examples=examples,
    score=score,
    metrics=(
        Metric("contains", "contains the number", chance=_chance),
        Metric("first_line", "contains the number in its first line"),
    ),
    by=("length",),
    draw=draw_grid,
    further=_further,
    files=grid_files,
)

"""A few questions of a task with their answers, right and wrong, for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meap.evals.tables import shown, unit_of
from meap.evals.task import Response

__all__ = ["Sample", "choose_samples"]

_MOST_CHARACTERS = 600


@dataclass(frozen=True)
class Sample:
    """A question and its answer."""

    is_right: bool
    title: str
    """Its id and score."""
    asked: str
    """The end of the prompt, where the question is."""
    expected: str
    answered: str


def choose_samples(numbers: Mapping[str, Any], responses: Sequence[Response], *, of_each: int = 3) -> list[Sample]:
    """Up to `of_each` right and as many wrong answers, spread evenly over the task; none if nothing is right or wrong.

    Args:
        numbers: Numbers of the task.
        responses: Its responses.
        of_each: Most samples that are right, and most that are wrong.
    """
    name = numbers["headline"]
    metric = numbers["metrics"][name]
    if not unit_of(metric):
        return []
    scored = [each for each in responses if not each["control"] and not each["too_long"] and each.get(name) is not None]
    right = [each for each in scored if each[name] >= 1]
    wrong = [each for each in scored if each[name] < 1]
    return [
        _sample(each, f"{each['id']}: {shown(metric, each[name])} {unit_of(metric)}", is_right=each[name] >= 1)
        for some in (right, wrong)
        for each in _spread(some, of_each)
    ]


def _sample(response: Response, title: str, *, is_right: bool) -> Sample:
    choices = response.get("choices") or response.get("stated")
    chosen = int(np.argmax(response["loglikelihoods"])) if response["loglikelihoods"] else None
    expected, answered = " or ".join(response["answers"]), response.get("prediction") or response["text"]
    if choices and chosen is not None:
        # The choice comes first: it is what most tasks with choices score.
        expected = expected or (choices[response["right"]] if response["right"] is not None else "")
        answered = f"{choices[chosen]}\n{answered}" if answered else choices[chosen]
    asked = response.get("prompt") or response["asked"] or response.get("question") or ""
    return Sample(is_right, title, _end(asked), _start(expected), _start(answered))


def _spread(responses: Sequence[Response], number: int) -> list[Response]:
    places = np.linspace(0, len(responses) - 1, min(number, len(responses))).round().astype(int)
    return [responses[place] for place in places]


def _start(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


def _end(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"… {text[-_MOST_CHARACTERS:]}"

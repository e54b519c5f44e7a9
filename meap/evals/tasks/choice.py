"""Choice: the prompts of a file, each with candidates that are ranked by their likelihood.

For questions of one's own. A line of the file is a JSON object:

    {"prompt": "...", "candidates": ["...", "..."], "answer": "...", "group": "...", "question": "..."}

`group`, a row of the table, and `question`, which prompts share that are no independent observations, may be left out.
A space stands between prompt and candidate.

    ranking      the candidate whose completion of the prompt is most likely is the answer; chance is 1 / candidates
    generation   the answer is in the first line of a greedy continuation
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from meap.errors import BadInputError
from meap.evals.pictures import draw_rows
from meap.evals.rows import read_jsonl
from meap.evals.task import Example, Metric, Task, TaskInputs
from meap.evals.tasks.key_retrieval import SPARE_TOKENS, encode_retrieval, score
from meap.synthetic import RetrievalExample

__all__ = ["TASK", "examples"]

_FORMAT = "it needs a prompt, two or more candidates that differ, and an answer among them"


def examples(inputs: TaskInputs) -> list[Example]:
    """The prompts, in the order of the file."""
    source = inputs.config.choice.source
    assert source is not None, "the task is skipped without"
    path, remedy = Path(source), "give one with a prompt, candidates and an answer in each line"
    rows = [
        _read(row, f"{path}, line {number}")
        for number, row in enumerate(read_jsonl(path, key="choice.source", remedy=remedy), start=1)
    ]
    found: list[Example] = []
    for number, (asked, group, question) in enumerate(rows):
        prompt, candidates = encode_retrieval(asked, inputs)
        found.append(
            Example(
                id=f"{number}",
                prompt=prompt,
                max_new_tokens=SPARE_TOKENS + max(each.scored for each in candidates),
                candidates=candidates,
                answers=(asked.answer,),
                right=asked.candidates.index(asked.answer),
                cluster=question,
                facts={"group": group, "prompt": asked.prompt},
            )
        )
    return found


def _read(row: dict[str, Any], where: str) -> tuple[RetrievalExample, str, str]:
    found: dict[str, Any] = {key: row.get(key) for key in ("prompt", "candidates", "answer")}
    prompt, candidates, answer = found.values()
    if not (isinstance(candidates, list) and all(map(_is_text, [prompt, answer, *candidates]))):
        raise BadInputError(f"{where} cannot be asked ({found} are not texts, and a list of texts): {_FORMAT}")
    if not prompt.strip():
        raise BadInputError(f"{where} cannot be asked (prompt {prompt!r}): {_FORMAT}")
    if len(set(candidates)) < max(2, len(candidates)) or answer not in candidates:
        raise BadInputError(f"{where} cannot be asked (answer {answer!r} of {candidates}): {_FORMAT}")
    asked = RetrievalExample(prompt.rstrip(), answer, tuple(candidates), depth=0.0)
    return asked, str(row.get("group", "all")), str(row.get("question", ""))


def _is_text(value: object) -> bool:
    """Whether it is one that can be encoded: JSON may hold half of a pair of surrogates."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


def _skip(inputs: TaskInputs) -> str | None:
    return None if inputs.config.choice.source else "no prompts are given: set choice.source=<file of JSON lines>"


TASK = Task(
    title="Choice",
    examples=examples,
    score=score,
    metrics=(Metric("ranking", "ranking"), Metric("generation", "generation")),
    by=("group",),
    draw=partial(draw_rows, metrics=("ranking", "generation")),
    skip=_skip,
)

"""Needle in a haystack as Fu et al. (2024) ask base models: paper (arXiv 2502.07490) Table 2 and Figure 3.

Prompt, needle, question and answer are those of ``eval/needle/needle_in_haystack.py`` of Long-Context-Data-Engineering
(2b38d52). What was matched: the frame of a "very long story book", verbatim; the position of the needle by its rule
(`meap.evals.haystack.sentence_place`); greedy decoding of 50 tokens; 200 tokens of each length reserved.

What differs: prompts are joined as ids instead of being decoded and encoded again, so that the needle keeps its tokens
and the only BOS is at the start; files are read in the order of their names; the search for the end of a sentence is
bounded. The paper states neither the prompt nor the kind of ROUGE-1; its 98.2 exceeds the overlap that Fu et al. plot,
whose maximum is 91.7. All variants are computed; the headline is recall of the answer in the first line of the
response, since an F-score gives an echo of the question 0.70. ``contains`` is the strict one: the whole answer, in
order.

A control per length has no needle: the score of a model without the information.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from meap.errors import ConfigError
from meap.evals.answers import contains, normalize_answer, rouge1, word_overlap
from meap.evals.haystack import insert_needles, open_haystack, sentence_ends, sentence_place
from meap.evals.lm import Ids
from meap.evals.pictures import draw_grid
from meap.evals.tables import grid_csv
from meap.evals.task import Example, Metric, Output, Response, Scores, Task, TaskInputs

__all__ = ["BEFORE", "BEHIND", "TASK", "depths_of", "examples", "grid_files", "grid_of", "score"]

BEFORE = "<|im_start|> This is a very long story book: <book> "
"""Text before the haystack."""
BEHIND = " </book>.\n Based on the content of the book, Question: {question}\nAnswer:"
"""Text after the haystack."""


def depths_of(number: int) -> list[int]:
    """Depths in percent, evenly from 0 to 100, rounded."""
    return [int(depth) for depth in np.round(np.linspace(0, 100, number))]


def examples(inputs: TaskInputs) -> list[Example]:
    """Length by depth by trial, and a control without a needle for each length and trial."""
    config, tokenizer = inputs.config.needle_fu, inputs.tokenizer
    haystack = open_haystack(inputs.config.haystack, tokenizer, inputs.config.seed, 2 * max(config.lengths))
    needle, behind = (
        np.array(tokenizer.encode(text), np.int32) for text in (config.needle, BEHIND.format(question=config.question))
    )
    (before,) = inputs.encode([BEFORE])
    asked: list[Example] = []
    for length in config.lengths:
        room = length - config.buffer
        if len(needle) >= room:
            raise ConfigError(
                f"needle_fu.lengths: {length} less needle_fu.buffer={config.buffer} leaves no haystack beside a needle "
                f"of {len(needle)} tokens: give at least {config.buffer + len(needle) + 1}"
            )
        for trial in range(config.trials):
            first_line = trial * haystack.num_lines // config.trials
            context = haystack.tokens(room - len(needle), first_line=first_line)
            ends = sentence_ends(tokenizer, context)
            frame = partial(_example, inputs, before, behind)
            for depth in depths_of(config.depths):
                place = sentence_place(context, depth, ends)
                filled = insert_needles(context, [(place, needle)])
                facts = {
                    "depth": depth,
                    "actual_depth": 100 * place / len(context),
                    "needle_start": len(before) + place,
                    "needle_tokens": len(needle),
                }
                asked.append(frame(f"{length}-{depth}-{trial}", filled, length, trial, facts, control=False))
            plain = haystack.tokens(room, first_line=first_line)
            asked.append(frame(f"{length}-none-{trial}", plain, length, trial, {}, control=True))
    return asked


def score(example: Example, output: Output) -> Scores:
    """All scores of the sources, of the whole response and of its first line."""
    response = output.text.strip()
    first_line = response.split("\n", 1)[0]
    (answer,), needle = example.answers, example.facts["needle"]
    of_line, of_answer, of_needle = rouge1(first_line, answer), rouge1(response, answer), rouge1(response, needle)
    return {
        "recall": of_line.recall,
        "f_answer": of_line.f,
        "recall_response": of_answer.recall,
        "f_answer_response": of_answer.f,
        "f_needle": of_needle.f,
        "recall_needle": of_needle.recall,
        "overlap": word_overlap(response, answer),
        "contains": float(contains(normalize_answer(first_line), normalize_answer(answer))),
    }


def grid_of(responses: Sequence[Response], metric: str) -> dict[str, Any]:
    """Mean of a metric by depth (rows) and length (columns), without the controls."""
    responses = [response for response in responses if not response["control"]]
    lengths = sorted({response["length"] for response in responses})
    depths = sorted({response["depth"] for response in responses})
    cells: dict[tuple[int, int], list[float]] = {}
    for response in responses:
        cells.setdefault((response["depth"], response["length"]), []).append(response.get(metric) or 0.0)
    # With `limit`, cells may be empty.
    values = [[float(np.mean(cells.get((depth, length), [np.nan]))) for length in lengths] for depth in depths]
    return {"metric": metric, "lengths": lengths, "depths": depths, "values": values}


def grid_files(numbers: dict[str, Any], responses: Sequence[Response]) -> dict[str, str]:
    """The grid of the picture as a table."""
    return {"grid.csv": grid_csv(numbers["grid"])}


def _example(
    inputs: TaskInputs, before: Ids, behind: Ids, name: str, context: Ids, length: int, trial: int,
    facts: dict[str, Any], *, control: bool
) -> Example:  # fmt: skip
    config = inputs.config.needle_fu
    return Example(
        id=name,
        prompt=np.concatenate([before, context, behind]).astype(np.int32),
        max_new_tokens=config.max_new_tokens,
        answers=(config.answer,),
        facts={"length": length, "trial": trial, "needle": config.needle, **facts},
        control=control,
    )


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    return {"grid": grid_of(responses, "recall")}


TASK = Task(
    title="Needle in a haystack (Fu et al.)",
    examples=examples,
    score=score,
    metrics=(
        Metric("recall", "ROUGE-1 recall of the answer"),
        Metric("f_answer", "ROUGE-1 F with the answer"),
        Metric("recall_response", "ROUGE-1 recall of the answer, whole response"),
        Metric("f_answer_response", "ROUGE-1 F with the answer, whole response"),
        Metric("f_needle", "ROUGE-1 F with the needle, whole response (Fu et al.'s score)"),
        Metric("recall_needle", "ROUGE-1 recall of the needle, whole response"),
        Metric("overlap", "word overlap (Fu et al.'s plot)"),
        Metric("contains", "contains the answer", binary=True),
    ),
    by=("length",),
    packages=lambda config: ("rouge_score",),
    draw=draw_grid,
    further=_further,
    files=grid_files,
)

"""Needle in a haystack as Fu et al. (2024) ask base models: paper (arXiv 2502.07490) Table 2 and Figure 3.

Prompt, needle, question and answer are those of ``eval/needle/needle_in_haystack.py`` of Long-Context-Data-Engineering
(2b38d52). What was matched: the frame of a "very long story book", verbatim; the position of the needle by its rule
(`meap.evals.haystack.sentence_place`); greedy decoding of 50 tokens; 200 tokens of each length reserved.

What differs: the only BOS is at the start; files are read in the order of their names; where a sentence ends
(`sentence_place` names two differences). The paper states neither the prompt nor the kind of ROUGE-1; its 98.2 exceeds
the overlap that Fu et al. plot, whose maximum is 91.7. All variants are computed; the headline is recall of the answer
in the first line of the response, since an F-score gives an echo of the question 0.70. ``overlap`` is with the answer
of their plot, which ends in a period: the word "day." counts, "day" does not. ``contains`` is the strict one: the whole
answer, in order.

A trial is one haystack, asked at every length and depth: intervals and tests count haystacks, so that there are none
with the single trial of Fu et al., as a note under the table says. A control per length has no needle: the score of a
model without the information.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meap.errors import ConfigError
from meap.evals.answers import contains, normalize_answer, rouge1, word_overlap
from meap.evals.haystack import open_haystack, sentence_place, token_borders
from meap.evals.pictures import draw_grid
from meap.evals.tables import grid_csv
from meap.evals.task import Example, Metric, Output, Response, Scores, Task, TaskInputs

__all__ = ["BEFORE", "BEHIND", "TASK", "depths_of", "examples", "grid_files", "grid_of", "score"]

BEFORE = "<|im_start|> This is a very long story book: <book> "
"""Text before the haystack."""
BEHIND = " </book>.\n Based on the content of the book, Question: {question}\nAnswer:"
"""Text after the haystack."""
_ONE_HAYSTACK = (
    "one trial, as published: a single haystack has neither interval nor test; needle_fu.trials=10 asks ten, for ten "
    "times the cost"
)


def depths_of(number: int) -> list[int]:
    """Depths in percent, evenly from 0 to 100, rounded."""
    return [int(depth) for depth in np.round(np.linspace(0, 100, number))]


def examples(inputs: TaskInputs) -> list[Example]:
    """Length by depth by trial, and a control without a needle for each length and trial."""
    config, tokenizer = inputs.config.needle_fu, inputs.tokenizer
    haystack = open_haystack(inputs.config.haystack, tokenizer, inputs.config.seed, 2 * max(config.lengths))
    needle_tokens = len(tokenizer.encode(config.needle))
    asked: list[Example] = []
    for length in config.lengths:
        room = length - config.buffer
        if needle_tokens >= room:
            raise ConfigError(
                f"needle_fu.lengths: {length} less needle_fu.buffer={config.buffer} leaves no haystack beside a needle "
                f"of {needle_tokens} tokens: give at least {config.buffer + needle_tokens + 1}"
            )
        for trial in range(config.trials):
            first_line = trial * haystack.num_lines // config.trials
            context = haystack.take(room - needle_tokens, first_line=first_line)
            for depth in depths_of(config.depths):
                place = sentence_place(context, depth)
                filled = context.with_needles([(place, config.needle)])
                facts = {
                    "depth": depth,
                    "actual_depth": 100 * place / context.num_tokens,
                    "needle_start": len(inputs.start) + _tokens_before(inputs, filled),
                    "needle_tokens": needle_tokens,
                }
                asked.append(_example(inputs, f"{length}-{depth}-{trial}", filled, length, trial, facts))
            plain = haystack.take(room, first_line=first_line).text
            asked.append(_example(inputs, f"{length}-none-{trial}", plain, length, trial, None))
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
        "overlap": word_overlap(response, f"{answer.removesuffix('.')}."),
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
    inputs: TaskInputs, name: str, context: str, length: int, trial: int, facts: dict[str, Any] | None
) -> Example:
    """An example; `facts` is None for a control."""
    config = inputs.config.needle_fu
    (prompt,) = inputs.encode([BEFORE + context + BEHIND.format(question=config.question)])
    return Example(
        id=name,
        prompt=prompt,
        max_new_tokens=config.max_new_tokens,
        answers=(config.answer,),
        cluster=f"haystack {trial}",
        facts={"length": length, "trial": trial, "needle": config.needle, **(facts or {})},
        control=facts is None,
    )


def _tokens_before(inputs: TaskInputs, context: str) -> int:
    """Tokens of the prompt before the needle."""
    text = BEFORE + context
    borders = token_borders(text, inputs.tokenizer)
    return int(np.searchsorted(borders, text.index(inputs.config.needle_fu.needle)))


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    one_haystack = len({response["trial"] for response in responses}) == 1
    return {"grid": grid_of(responses, "recall"), "notes": [_ONE_HAYSTACK] if one_haystack else []}


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
        Metric("contains", "contains the answer"),
    ),
    by=("length",),
    packages=lambda config: ("rouge_score",),
    draw=draw_grid,
    further=_further,
    files=grid_files,
)

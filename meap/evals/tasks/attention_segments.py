"""Attention by segment: paper (arXiv 2502.07490) Figure 6, Tables 16 to 18.

The model reads a passage with an answer in its middle and a question at its end. The attention of its last token is
summed over five segments: the context before the answer, the answer, the context after it, the query, and EOS. The
paper has four passages written by hand and does not define the average of a segment; its numbers are a partition of 1.
Its tables call the last segment ``<s>``, which is Llama's BOS; here it is EOS, and BOS is context before the answer.

    sum               sum over the segment of the last token's weights, mean over layers and heads: the headline
    per_token         mean over the segment instead, which does not favour long segments
    per_token_share   that, divided by its sum over the segments: the other reading of the paper's numbers
    without_sink      sum without position 0, the attention sink, divided by 1 less its share
    from_query        sum of the attention of the query's tokens instead of the last one
    sink              attention on position 0 alone
    layer_<number>    sum in one layer

What was matched: the segments, and the paper's four passages if a file has them (`attention_segments.source`). What
differs: four passages prove nothing, so the default is 200 generated ones with the answer at random positions. Segments
are found by character offsets in the whole text; a token across a border belongs to the segment where it begins.
Passages begin with BOS if `add_bos` is set, and always end with EOS, whose attention is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.evals.lm import Reading
from meap.evals.passages import PARTS, encode_passage, generate_passages, read_passages
from meap.evals.pictures import draw_segments
from meap.evals.scoring import estimate, paired_difference
from meap.evals.summary import select
from meap.evals.task import Contrast, Example, Metric, Output, Response, Scores, Task, TaskInputs

__all__ = ["MEASURES", "SEGMENTS", "TASK", "examples", "score"]

SEGMENTS = (*PARTS, "eos")
"""In their order in the text."""
MEASURES = ("sum", "per_token", "per_token_share", "without_sink", "from_query")
"""The first is the headline."""

_LABELS: dict[str, str] = dict(
    zip(SEGMENTS, ("context before", "answer", "context after", "query", "EOS"), strict=True)
)


def examples(inputs: TaskInputs) -> list[Example]:
    """The passages, with EOS at their end."""
    config = inputs.config.attention_segments
    passages = (
        generate_passages(inputs.config.seed, config.examples, num_facts=config.facts, num_sentences=config.sentences)
        if config.source is None
        else read_passages(Path(config.source), config_key="attention_segments.source")
    )
    found: list[Example] = []
    for index, passage in enumerate(passages):
        ids, counts = encode_passage(passage, inputs.tokenizer)
        start = np.array(inputs.start, np.int32)
        sizes = (len(start) + counts[0], *counts[1:], 1)
        query = sum(sizes[:3])
        facts = {f"{segment}_tokens": size for segment, size in zip(SEGMENTS, sizes, strict=True)}
        whole = np.concatenate([start, ids, np.array([inputs.tokenizer.eos_id], np.int32)])
        found.append(
            Example(
                id=f"{index}",
                readings=(Reading(whole, asking=(query, query + sizes[3])),),
                facts={"depth": sizes[0] / sum(sizes[:3]), **facts},
            )
        )
    return found


def score(example: Example, output: Output) -> Scores:
    """Attention by segment, in all measures; the sums of each but `per_token` are 1."""
    (attention,) = output.attention
    sizes = [example.facts[f"{segment}_tokens"] for segment in SEGMENTS]
    last_T = attention.last_LT.mean(0)
    sums = _by_segment(last_T, sizes)
    per_token = sums / sizes
    found: dict[str, NDArray[np.float64]] = {
        "sum": sums,
        "per_token": per_token,
        "per_token_share": per_token / per_token.sum(),
        "from_query": _by_segment(attention.asking_LT.mean(0), sizes),
        **{f"layer_{layer}": _by_segment(each_T, sizes) for layer, each_T in enumerate(attention.last_LT)},
    }
    if last_T[0] < 1:
        found["without_sink"] = (sums - [last_T[0], 0, 0, 0, 0]) / (1 - last_T[0])
    scores = {
        f"{measure}_{segment}": float(value)
        for measure, values in found.items()
        for segment, value in zip(SEGMENTS, values, strict=True)
    }
    return {**scores, "sink": float(last_T[0])}


def _by_segment(received_T: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    borders = pairwise(accumulate(sizes, initial=0))
    return np.array([received_T[first:beyond].sum() for first, beyond in borders])


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    """The measures beside the headline, with intervals, and the means of each layer."""
    layers = sorted(
        int(name.removeprefix("layer_").removesuffix("_answer"))
        for name in responses[0]
        if name.startswith("layer_") and name.endswith("_answer")
    )
    return {
        "measures": {
            measure: {
                segment: asdict(estimate([group]))
                for segment in SEGMENTS
                if (group := select(responses, f"{measure}_{segment}", None)) is not None
            }
            for measure in MEASURES[1:]
        },
        "layers": [
            {
                segment: float(np.mean([response[f"layer_{layer}_{segment}"] for response in responses]))
                for segment in SEGMENTS
            }
            for layer in layers
        ],
    }


def _find(first: Sequence[Response], second: Sequence[Response]) -> dict[str, Any]:
    """Both models and their difference, in the measures beside the headline."""
    measures: dict[str, dict[str, Any]] = {}
    for measure in MEASURES[1:]:
        measures[measure] = {}
        for segment in SEGMENTS:
            groups = [select(responses, f"{measure}_{segment}", None) for responses in (first, second)]
            if groups[0] is not None and groups[1] is not None:
                measures[measure][segment] = {
                    "first": asdict(estimate([groups[0]])),
                    "second": asdict(estimate([groups[1]])),
                    "difference": asdict(paired_difference([groups[0]], [groups[1]])),
                }
    return {"measures": measures}


def _tables(numbers: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Tables 16 to 18: a column for each segment, two rows for each measure."""
    lines: list[tuple[str, ...]] = [("", *(_LABELS[segment] for segment in SEGMENTS))]
    headline = {segment: numbers["metrics"][f"sum_{segment}"] for segment in SEGMENTS}
    for measure, found in {"sum": headline, **numbers["measures"]}.items():
        for model, which in zip(numbers["models"], ("first", "second"), strict=True):
            cells = (f"{found[segment][which]['value']:.4f}" if segment in found else "-" for segment in SEGMENTS)
            lines.append((f"{measure}, {model}", *cells))
    return [lines]


_SUMS = tuple(f"sum_{segment}" for segment in ("answer", *(each for each in SEGMENTS if each != "answer")))
_draw = partial(draw_segments, metrics=tuple(f"sum_{segment}" for segment in SEGMENTS))

TASK = Task(
    title="Attention by segment",
    examples=examples,
    score=score,
    metrics=(
        *(Metric(name, _LABELS[name.removeprefix("sum_")], higher_is_better=None) for name in _SUMS),
        Metric("sink", "position 0 alone", higher_is_better=None),
    ),
    by=(),
    draw=_draw,
    further=_further,
    contrast=Contrast(draw=_draw, find=_find, tables=_tables),
)

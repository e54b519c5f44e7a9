"""Multi-needle reasoning: paper (arXiv 2502.07490) Figure 4, the M-RS task of NeedleBench.

Prompt, places and score are those of version 1 of NeedleBench, the only one there was before June 2025, in
``opencompass/datasets/needlebench/multi.py`` of open-compass/opencompass (06d04d4) and its configurations
``needlebench_multi_reasoning_4k``, ``_8k`` and ``_32k``. For their own numbers run those. What was matched, in English:
the frame and the guiding sentence, verbatim, with no space before it; two newlines behind it, as for a model without a
chat format; 2 to 5 needles, each on a line of its own, in the order of the reasoning; the position of each, to the
token (`places_of`); lengths, and the depths of the 32k set; 10 trials.

What differs: lengths are counted by the model's own tokenizer, not by GPT-4's, so that 600 tokens of every length are
reserved, where the 32k set reserves 3,000; haystacks begin at other sentences instead of being shuffled essays; each
prompt draws its own chain, where theirs share ten; chains are generated (`meap.evals.chains`) unless
``multi_needle.source`` is a file of theirs; the Chinese half is not used; responses have at most ``max_new_tokens``.
NeedleBench's own total, 0.4 for single retrieval, 0.3 for multi-retrieval and 0.3 for this, is not computed, since the
other two are not here.

Two scores, in [0, 1] where NeedleBench has 0 to 100. ``keywords``, the headline because it is theirs: the share of the
answer's words that are anywhere in the response, also inside other words. ``contains``, the strict one: the whole
answer, in order. Luck and long responses raise the first, so three floors are reported: a control without needles for
each cell of lengths and needles, and the scores of an echo of the question and of a piece of the haystack. For
generated chains all three are about 0, since no word of a name is anywhere else.

Positions are clamped to the end of the haystack: from a depth of 70 the last of several needles are side by side there.
``at_end`` of the responses counts them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meap.errors import ConfigError, DataError
from meap.evals.answers import contains
from meap.evals.chains import Chain, draw_chain, read_chains, write_chains
from meap.evals.haystack import Haystack, open_haystack
from meap.evals.pictures import draw_curves
from meap.evals.task import Example, Metric, Output, Response, Scores, Task, TaskInputs
from meap.evals.tasks.needle_fu import grid_files, grid_of

__all__ = ["BEFORE", "BEHIND", "TASK", "examples", "keyword_score", "places_of", "score"]

BEFORE = (
    "You are an intelligent AI assistant skilled in answering user questions.\nPlease keep your answers concise and "
    "clear. Do not talk about irrelevant topics or repeat your answers.\nThe document given to you by the user is "
)
BEHIND = (
    "\n\nNow, the question is: {question}Before answering, please consider what in the document is most relevant to "
    "this question.\n\n"
)

_STEP = 0.1
"""Distance between needles, as a share of the haystack."""
_METRICS = ("keywords", "contains")


def examples(inputs: TaskInputs) -> list[Example]:
    """Needles by length by depth by trial, and a control without needles for each of needles, length and trial."""
    config = inputs.config.multi_needle
    haystack = open_haystack(inputs.config.haystack, inputs.tokenizer, inputs.config.seed, 2 * max(config.lengths))
    published = _published(config.source, config.needles) if config.source is not None else {}
    return [
        _example(inputs, haystack, published.get(num_needles, ()), num_needles, length, depth, trial)
        for num_needles in config.needles
        for length in config.lengths
        for trial in range(config.trials)
        for depth in (*config.depths, None)
    ]


def score(example: Example, output: Output) -> Scores:
    """The share of the answer's words in the response, and whether it has the whole answer."""
    return _scores(output.text, example.answers[0])


def keyword_score(response: str, answer: str) -> float:
    """NeedleBench v1: the share of the answer's words, divided at spaces, that are in the response, ignoring case."""
    words = answer.lower().split()
    return sum(word in response.lower() for word in words) / len(words)


def places_of(num_tokens: int, depth: float, lengths: Sequence[int]) -> list[int]:
    """Positions of needles in a haystack, each before the token at that position: NeedleBench v1's rule.

    The first is at `depth` percent of the haystack. Each further one is a tenth of the haystack later, and later by the
    length of the needle before it, which the source counts twice. None is beyond the end.

    Args:
        num_tokens: Tokens of the haystack.
        depth: In [0, 100].
        lengths: Tokens of each needle.
    """
    places = [int(num_tokens * (depth / 100))]
    for length in lengths[:-1]:
        places.append(min(num_tokens, int(places[-1] + length + num_tokens * _STEP)))
    return places


def _scores(response: str, answer: str) -> Scores:
    return {"keywords": keyword_score(response, answer), "contains": float(contains(response, answer))}


def _example(
    inputs: TaskInputs, haystack: Haystack, published: Sequence[Chain], num_needles: int, length: int,
    depth: int | None, trial: int
) -> Example:  # fmt: skip
    config, tokenizer = inputs.config.multi_needle, inputs.tokenizer
    name = f"{num_needles}-{length}-{'none' if depth is None else depth}-{trial}"
    # Drawn by name, so that cells shared by two grids have the same prompts.
    rng = random.Random(f"multi_needle {inputs.config.seed} {name}")  # noqa: S311 (not for secrets)
    chain = rng.choice(published) if published else draw_chain(rng, num_needles)
    needles = [f"\n{each}\n" for each in chain.derivations]
    sizes = [len(tokenizer.encode(needle)) for needle in needles]
    taken = 0 if depth is None else sum(sizes)
    room = length - config.buffer - taken
    if room < 1:
        raise ConfigError(
            f"multi_needle.lengths: {length} less multi_needle.buffer={config.buffer} leaves no haystack beside "
            f"{num_needles} needles of {taken} tokens: give at least {config.buffer + taken + 1}"
        )
    context = haystack.take(room, first_line=rng.randrange(haystack.num_lines))
    facts: dict[str, Any] = {
        "needles": num_needles,
        "length": length,
        "trial": trial,
        "question": chain.question,
        "derivations": list(chain.derivations),
    }
    filled = context.text
    if depth is not None:
        places = places_of(context.num_tokens, depth, sizes)
        filled = context.with_needles(list(zip(places, needles, strict=True)))
        facts |= {"depth": depth, "places": places, "at_end": sum(place == context.num_tokens for place in places)}
        piece = context.last(config.max_new_tokens)
        for text, floor in ((chain.question, "echo"), (piece, "haystack")):
            facts |= {f"{floor}_{metric}": value for metric, value in _scores(text, chain.answer).items()}
    (prompt,) = inputs.encode([BEFORE + filled + BEHIND.format(question=chain.question)])
    return Example(
        id=name,
        prompt=prompt,
        max_new_tokens=config.max_new_tokens,
        answers=(chain.answer,),
        cluster=chain.question,
        facts=facts,
        control=depth is None,
    )


def _published(source: str, needles: Sequence[int]) -> dict[int, list[Chain]]:
    chains = read_chains(Path(source))
    missing = [number for number in needles if number not in chains]
    if missing:
        raise DataError(
            f"multi_needle.source={source} has no chains of {', '.join(map(str, missing))} sentences, but of "
            f"{', '.join(map(str, sorted(chains))) or 'none'}: change multi_needle.needles={list(needles)}, or leave "
            "the source unset"
        )
    return chains


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    asked = [response for response in responses if not response["control"]]
    return {
        "grid": grid_of(responses, "keywords"),
        "floors": {
            name: {metric: float(np.mean([response[f"{floor}_{metric}"] for response in asked])) for metric in _METRICS}
            for floor, name in (("echo", "echo of the question"), ("haystack", "a piece of the haystack"))
            if asked
        },
    }


def _files(numbers: dict[str, Any], responses: Sequence[Response]) -> dict[str, str]:
    chains = [
        Chain(response["question"], response["answers"][0], tuple(response["derivations"]))
        for response in responses
        if not response["control"]
    ]
    # The chains of the prompts, in NeedleBench's format.
    return grid_files(numbers, responses) | {"chains.json": write_chains(dict.fromkeys(chains))}


TASK = Task(
    title="Multi-needle reasoning (NeedleBench)",
    examples=examples,
    score=score,
    metrics=(
        Metric("keywords", "words of the answer (NeedleBench v1)"),
        Metric("contains", "contains the answer"),
    ),
    by=("needles", "length"),
    draw=partial(draw_curves, x="length", metrics=("keywords",), x_label="tokens"),
    further=_further,
    files=_files,
)

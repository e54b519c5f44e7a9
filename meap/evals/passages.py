"""Passages with an answer in their middle and a question at their end, as text and as tokens.

Generated ones come from `meap.synthetic`: a sentence among others states a fact, and the passage ends where the value
of that fact must follow. A file has JSON lines with the paper's four parts:

    {"context_before": "...", "answer": "...", "context_after": "...", "query": "..."}
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import accumulate, count, pairwise
from pathlib import Path

import numpy as np

from meap.errors import BadInputError, DataError
from meap.evals.lm import Ids
from meap.json_text import parse_json
from meap.places.whole import write_whole
from meap.synthetic import generate_record_example, generate_retrieval_example
from meap.tokenizer import Tokenizer

__all__ = [
    "PARTS",
    "Passage",
    "encode_passage",
    "generate_passages",
    "generate_record_passages",
    "read_passages",
    "write_passages",
]

PARTS = ("context_before", "answer", "context_after", "query")
"""In their order in the text."""

_SENTENCE_END = re.compile(r"[.!?]\"?[ \n]")


@dataclass(frozen=True)
class Passage:
    """The parts of a passage; together they are its whole text, with the spaces between them."""

    context_before: str
    answer: str
    context_after: str
    query: str

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(astuple(self))


def generate_passages(seed: int, num_passages: int, *, num_facts: int, num_sentences: int) -> list[Passage]:
    """Seeded passages; the answering sentence is neither first nor last.

    Args:
        seed: Seed of the set.
        num_passages: Number of passages.
        num_facts: Facts that a passage states, at least 1.
        num_sentences: Filler sentences of a passage, at least 2.
    """
    passages: list[Passage] = []
    last = num_sentences + num_facts - 1
    for index in range(num_passages):
        rng = random.Random(f"passages {seed} {index}")  # noqa: S311 (not for secrets)
        example = generate_retrieval_example(
            seed, index, num_facts=num_facts, num_sentences=num_sentences, depth=rng.randrange(1, last) / last
        )
        end_of_context = example.prompt.rindex("\n")
        value = re.search(rf"\b{example.answer}\b", example.prompt)
        assert value is not None
        ends = [found.end() for found in _SENTENCE_END.finditer(example.prompt, 0, value.start())]
        # The space between two sentences belongs to the second, as in most tokenizers.
        start = ends[-1] - 1
        end = example.prompt.index(".", value.end()) + 1
        borders = (0, start, end, end_of_context, len(example.prompt))
        passages.append(Passage(*(example.prompt[first:beyond] for first, beyond in pairwise(borders))))
    return passages


def generate_record_passages(seed: int, num_passages: int, *, num_sentences: int = 2) -> list[Passage]:
    """Seeded records, one field of which is asked for; its statement is neither first nor last.

    Args:
        seed: Seed of the set.
        num_passages: Number of passages.
        num_sentences: Sentences of prose in a passage, at least 0.
    """
    passages: list[Passage] = []
    for index in count():
        if len(passages) == num_passages:
            break
        example = generate_record_example(seed, index, num_sentences=num_sentences)
        if not 0 < example.depth < 1:
            continue
        end_of_context = example.prompt.rindex("\n")
        statement = f"{example.prompt.rsplit('. ', 1)[-1].rsplit(': ', 1)[-1]} {example.answer}."
        start = example.prompt.index(f" {statement}")
        borders = (0, start, start + 1 + len(statement), end_of_context, len(example.prompt))
        passages.append(Passage(*(example.prompt[first:beyond] for first, beyond in pairwise(borders))))
    return passages


def write_passages(passages: Sequence[Passage], path: Path) -> None:
    """Write a file that `read_passages` reads, all of it or nothing."""
    write_whole(path, "".join(json.dumps(asdict(each)) + "\n" for each in passages))


def read_passages(path: Path, *, config_key: str) -> list[Passage]:
    """Passages of a file of JSON lines; a space is inserted between two parts if neither has one.

    Raises:
        DataError: The file does not exist or is empty.
        BadInputError: A line is not an object with the four parts, or one of them is empty.
    """
    if not path.is_file():
        raise DataError(f"{config_key}: there is no file {path}; give one with a line for each passage")
    passages: list[Passage] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} cannot be read ({error}): write it again, in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parts = [parse_json(line)[part] for part in PARTS]
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{path}, line {number} is not a JSON object with {', '.join(PARTS)} ({error}): give all four"
            ) from error
        empty = [name for name, part in zip(PARTS, parts, strict=True) if not isinstance(part, str) or not part.strip()]
        if empty:
            raise BadInputError(f"{path}, line {number}: {', '.join(empty)} must be text that is not empty")
        for place, (before, after) in enumerate(pairwise(parts), start=1):
            if not before[-1].isspace() and not after[0].isspace():
                parts[place] = f" {after}"
        passages.append(Passage(*parts))
    if not passages:
        raise DataError(f"{config_key}: {path} is empty; give a line for each passage")
    return passages


def encode_passage(passage: Passage, tokenizer: Tokenizer) -> tuple[Ids, tuple[int, ...]]:
    """Ids of the whole text, and the number of tokens of each part: a token belongs to the part where it begins.

    The text is encoded as a whole, since tokens may cross the borders of parts.

    Raises:
        BadInputError: A part has no token of its own.
    """
    encoding = tokenizer.plain.encode(passage.text, add_special_tokens=False)
    borders = list(accumulate(map(len, astuple(passage))))
    part_T = np.searchsorted(borders[:-1], [first for first, _ in encoding.offsets], side="right")
    counts = tuple(int((part_T == part).sum()) for part in range(len(PARTS)))
    assert (np.diff(part_T) >= 0).all(), "tokens follow one another in the text"
    assert sum(counts) == len(encoding.ids), "every token belongs to one part"
    if not all(counts):
        empty = PARTS[counts.index(0)]
        raise BadInputError(
            f"{empty} {getattr(passage, empty)!r} of a passage has no token of its own with tokenizer "
            f"{tokenizer.name!r}: make it longer"
        )
    return np.array(encoding.ids, np.int32), counts

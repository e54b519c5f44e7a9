"""Chains of relations from a thing to a person, and NeedleBench v1's file format for them.

    The Amber Compass was forged by Baranda Celinis.  Dorelek Falusya taught Baranda Celinis.
    Who taught the person who forged the Amber Compass?  Dorelek Falusya

The format is a list of objects with ``question``, ``answer``, ``derivations`` (the sentences, in the order of the
chain) and ``derivation_count``, as a JSON array or as JSON lines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap.errors import BadInputError, DataError
from meap.evals.names import draw_names
from meap.json_text import parse_json

__all__ = ["Chain", "draw_chain", "read_chains", "write_chains"]

_ADJECTIVES = ("Amber", "Hollow", "Silver", "Crooked", "Twelfth", "Sunken", "Painted", "Winter", "Copper", "Silent")
_THINGS = ("Compass", "Lantern", "Harp", "Ledger", "Mirror", "Bell", "Atlas", "Loom", "Goblet", "Sundial")
_MAKERS = ("forged", "designed", "discovered", "repaired", "owned", "painted", "guarded", "sold")
_FRIENDS = ("taught", "raised", "rescued", "hired", "succeeded", "defeated", "advised", "betrayed")


@dataclass(frozen=True)
class Chain:
    """A question whose answer needs all of its sentences."""

    question: str
    answer: str
    derivations: tuple[str, ...]
    """The sentences, each continuing the one before it."""


def draw_chain(rng: random.Random, num_relations: int) -> Chain:
    """A chain of invented people; no word of a name occurs in the question or in another name.

    Args:
        rng: Random generator.
        num_relations: Sentences, at least 1.
    """
    people = draw_names(rng, num_relations)
    asked = before = f"the {rng.choice(_ADJECTIVES)} {rng.choice(_THINGS)}"
    derivations: list[str] = []
    for place, person in enumerate(people):
        verb = rng.choice(_FRIENDS if place else _MAKERS)
        passive = rng.random() < 0.5
        sentence = f"{before} was {verb} by {person}." if passive else f"{person} {verb} {before}."
        derivations.append(sentence[0].upper() + sentence[1:])
        before = person
        asked = f"{'the person who ' if place < num_relations - 1 else 'Who '}{verb} {asked}"
    return Chain(f"{asked}?", people[-1], tuple(derivations))


def read_chains(path: Path) -> dict[int, list[Chain]]:
    """Chains of a file, by their number of sentences as the file counts them.

    Raises:
        DataError: The file cannot be read.
        BadInputError: It has another format.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): give a file of chains such as NeedleBench's "
            "multi_needle_reasoning_en.json, or leave the source unset"
        ) from error
    chains: dict[int, list[Chain]] = {}
    for place, row in enumerate(_rows(text, path), start=1):
        try:
            count, chain = int(row["derivation_count"]), _chain(row)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{path}: entry {place} lacks question, answer, derivations and derivation_count as "
                f"NeedleBench has them ({type(error).__name__}: {error}): correct it, or download it again"
            ) from error
        chains.setdefault(count, []).append(chain)
    return chains


def write_chains(chains: Iterable[Chain]) -> str:
    """Chains as a JSON array, an entry on each line."""
    rows = [
        {
            "question": chain.question,
            "answer": chain.answer,
            "derivations": list(chain.derivations),
            "derivation_count": len(chain.derivations),
        }
        for chain in chains
    ]
    return "[" + ",\n ".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]\n"


def _chain(row: dict[str, Any]) -> Chain:
    question, answer, derivations = row["question"], row["answer"], tuple(row["derivations"])
    for text in (question, answer, *derivations):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{text!r} is not text")
    if not derivations:
        raise ValueError("derivations are empty")
    return Chain(question, answer.strip(), derivations)


def _rows(text: str, path: Path) -> list[Any]:
    try:
        if text.lstrip().startswith("["):
            return parse_json(text)
        return [parse_json(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise BadInputError(
            f"{path} is neither a JSON array nor JSON lines ({error}): correct it, or download the published file again"
        ) from error

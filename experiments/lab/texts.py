"""What the corpora of the experiments say, and the prompts that ask about them.

    A  records         fields of one record, summarised          meap.synthetic
    B  rivals          the same fields of up to eight places     rival_prompts         length, places, depth
    C  conversations   a question over documents, a long answer  conversation_prompts  documents, position
    D  documentation   docstrings of installed packages          read
    E  short_cuts      a value far away, and in a note near by   short_cut_prompts     both, far, near, conflict

As in `meap.synthetic`, a draw is an address: texts and prompts share none.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap.errors import ConfigError
from meap.synthetic import FIELDS, NUM_CANDIDATES, Prose, choose, generate_record, keyed_generator, words

__all__ = ["TEXTS", "TextKind"]

Prompt = dict[str, Any]

_SHORTEST_DOCSTRING = 500


@dataclass(frozen=True)
class TextKind:
    """One kind of corpus."""

    text_of: Callable[[int, int], str] | None = None
    """Text number `index` of the corpus `seed`, where texts are made."""
    reads: Callable[[Sequence[str]], list[str]] | None = None
    """All texts of the sources, where they are read."""
    prompts: Callable[[int], Iterator[Prompt]] | None = None
    """Prompts of the evaluation `ranked`."""
    preparation: str = "c4_to_mds"
    """Entry point in dataprep/."""


def documentation(packages: Sequence[str]) -> list[str]:
    """Docstrings of installed packages, each once, in an order of their own that is always the same.

    Real prose that every installation of this project has: requirements.lock pins the packages. Tests and docstrings
    of less than 500 characters are left out.

    Raises:
        ConfigError: A package is not installed.
    """
    found: dict[str, None] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"{package!r} is not an installed package: name others whose documentation to read")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            if "tests" not in path.relative_to(root).parts:
                found |= dict.fromkeys(_docstrings(path.read_text(encoding="utf-8")))
    texts = list(found)
    random.Random("documentation").shuffle(texts)  # noqa: S311
    return texts


def _docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            if len(text) >= _SHORTEST_DOCSTRING:
                yield text


# B: places among rivals. "In Ashford the tree is oak." stands beside the same field of up to seven other places.

PLACES = tuple(f"{start}{end}" for start, end in zip(words.NAME_STARTS * 2, words.TOWN_ENDS * 9, strict=False))[:30]
_LENGTHS, _RIVALS, _DEPTHS = (256, 512, 900), (1, 4, 8), ("first", "middle", "last")
_CHARACTERS_PER_TOKEN = 2.6
_ASKED_PER_GROUP = 60


def rivals(seed: int, index: int) -> str:
    """Up to 8 places with the same field, prose among them up to a random length, then six summaries."""
    rng = keyed_generator("rivals", seed, index)
    stated = _draw_places(rng, 1 + int(rng.random() * 8))
    sentences = _passage(rng, stated, num_characters=int(rng.random() ** 2 * 2400))
    paragraphs = [" ".join(each for _, each in sentences)]
    for _ in range(6):
        keys = rng.sample(list(stated), min(len(stated), 8))
        paragraphs.append(" ".join([choose(rng, words.RECAP_LEADS), *(_in_place(key, stated[key]) for key in keys)]))
    return "\n".join(paragraphs)


def rival_prompts(seed: int) -> Iterator[Prompt]:
    """The field of one place asked for, by length in tokens (about), places in the passage, and depth of the answer."""
    for (length, num_places, depth), number in itertools.product(
        itertools.product(_LENGTHS, _RIVALS, _DEPTHS), range(_ASKED_PER_GROUP)
    ):
        rng = keyed_generator(f"rival prompt {length} {num_places} {depth}", seed, number)
        stated = _draw_places(rng, num_places)
        room = int(length * _CHARACTERS_PER_TOKEN)
        room -= sum(len(_in_place(*each)) + 1 for each in stated.items())
        sentences = _passage(rng, stated, num_characters=room)
        third = len(sentences) // 3
        part = {"first": sentences[:third], "middle": sentences[third : -third or None], "last": sentences[-third:]}
        keys = [key for key, _ in part[depth] if key is not None] or [key for key, _ in sentences if key is not None]
        asked = choose(rng, keys)
        yield {
            "prompt": f"{' '.join(each for _, each in sentences)}\n{choose(rng, words.RECAP_LEADS)} {_question(asked)}",
            "group": f"{length} {num_places} {depth}",
            **_candidates(rng, asked[1], stated[asked], {value for key, value in stated.items() if key[1] == asked[1]}),
        }


# C: conversations over numbered documents; the answer is long, and begins with what is asked for.


def conversations(seed: int, index: int) -> str:
    """A question over 5 or 10 documents with a long answer, as a JSON record of messages."""
    rng = keyed_generator("conversation", seed, index)
    documents, stated = _draw_documents(rng, choose(rng, (5, 10)))
    asked = choose(rng, list(stated))
    others = [key for key in stated if key[0] == asked[0] and key != asked]
    answer = " ".join([_in_place(asked, stated[asked]), *(_in_place(key, stated[key]) for key in others)])
    answer += f" All of this is said about {asked[0]} in the documents above, and about no other place."
    turns = (("user", f"{documents}\nWhat is the {asked[1]} of {asked[0]}?"), ("assistant", answer))
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def conversation_prompts(seed: int) -> Iterator[Prompt]:
    """The same questions, begun to be answered, with their document at several positions, rendered as in training."""
    for num_documents, number in itertools.product((5, 10), range(100)):
        for position in (each for each in (1, 3, 5, 10) if each <= num_documents):
            rng = keyed_generator(f"conversation prompt {num_documents}", seed, number)
            documents, stated = _draw_documents(rng, num_documents, position=position)
            asked = (next(iter(stated))[0], choose(rng, _ASKABLE))
            question = f"{documents}\nWhat is the {asked[1]} of {asked[0]}?"
            yield {
                "prompt": f"{_BEFORE_INSTRUCTION}### Instruction:\n{question}\n\n### Response:\n{_question(asked)}",
                "group": f"{num_documents} {position}",
                "question": f"{num_documents} {number}",
                **_candidates(rng, asked[1], stated[asked], {v for key, v in stated.items() if key[1] == asked[1]}),
            }


# E: a value can be had from far away, or from a paraphrase near by.


def short_cuts(seed: int, index: int) -> str:
    """A record whose summaries follow notes: for three fields of four the value is near, in other words."""
    rng = keyed_generator("short cuts", seed, index)
    stated = {field: choose(rng, FIELDS[field]) for field in rng.sample(tuple(FIELDS), 6)}
    prose = Prose(rng)
    sentences = [f"The {field} is {value}." for field, value in stated.items()]
    sentences.append(prose.sentence())
    rng.shuffle(sentences)
    paragraphs = [" ".join(sentences), prose.sentence()]
    for _ in range(6):
        near = rng.sample(list(stated), 5)
        notes = [_note(field, stated[field]) for field in near if rng.random() < 0.75]
        lead = choose(rng, words.RECAP_LEADS)
        paragraphs.append(" ".join([*notes, lead, *(f"The {field} is {stated[field]}." for field in near)]))
    return "\n".join(paragraphs)


def short_cut_prompts(seed: int) -> Iterator[Prompt]:
    """The same question with the value near and far, far alone, near alone, and near another value than far."""
    for number in range(200):
        for group in ("both", "far", "near", "conflict"):
            rng = keyed_generator("short cut prompt", seed, number)
            stated = {field: choose(rng, FIELDS[field]) for field in rng.sample(tuple(FIELDS), 6)}
            asked, prose = choose(rng, list(stated)), Prose(rng)
            other = choose(rng, [value for value in FIELDS[asked] if value != stated[asked]])
            sentences = [f"The {field} is {value}." for field, value in stated.items()]
            rng.shuffle(sentences)
            if group == "near":
                sentences.remove(f"The {asked} is {stated[asked]}.")
            between = prose.sentence()
            near = {"far": [], "conflict": [_note(asked, other)]}
            notes = near.get(group, [_note(asked, stated[asked])])
            yield {
                "prompt": "\n".join(
                    [" ".join(sentences), between, " ".join([*notes, words.RECAP_LEADS[0], f"The {asked} is"])]
                ),
                "group": group,
                "question": str(number),
                **_candidates(rng, asked, stated[asked], {other}),
            }


def _note(field: str, value: str) -> str:
    return f"Their {field}: {value}."


_ASKABLE = tuple(FIELDS)[:2]
_BEFORE_INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_Key = tuple[str, str]
"""Place and field."""


def _draw_places(rng: random.Random, number: int) -> dict[_Key, str]:
    field = choose(rng, tuple(FIELDS))
    places, values = rng.sample(PLACES, number), rng.sample(FIELDS[field], number)
    return {(place, field): value for place, value in zip(places, values, strict=True)}


def _passage(rng: random.Random, stated: dict[_Key, str], *, num_characters: int) -> list[tuple[_Key | None, str]]:
    """Sentences in any order, those that state something with what they state."""
    sentences: list[tuple[_Key | None, str]] = [(key, _in_place(key, value)) for key, value in stated.items()]
    prose = Prose(rng)
    while num_characters > 0:
        sentences.append((None, prose.sentence()))
        num_characters -= len(sentences[-1][1]) + 1
    rng.shuffle(sentences)
    return sentences


def _draw_documents(rng: random.Random, number: int, *, position: int | None = None) -> tuple[str, dict[_Key, str]]:
    """Documents with two fields of a place each; with `position`, the first place of the dictionary stands there."""
    values = {field: rng.sample(FIELDS[field], number) for field in _ASKABLE}
    places = rng.sample(PLACES, number)
    stated = {(place, field): values[field][at] for at, place in enumerate(places) for field in _ASKABLE}
    if position is not None:
        places = [*places[1:position], places[0], *places[position:]]
    lines = [
        f"Document {at}: {' '.join(_in_place((place, field), stated[place, field]) for field in _ASKABLE)}"
        for at, place in enumerate(places, start=1)
    ]
    return "\n".join(lines), stated


def _in_place(key: _Key, value: str) -> str:
    return f"{_question(key)} {value}."


def _question(key: _Key) -> str:
    return f"In {key[0]} the {key[1]} is"


def _candidates(rng: random.Random, field: str, answer: str, rivals_of: set[str]) -> Prompt:
    """Eight values: the answer, what rivals of it stand in the passage, and others."""
    near = sorted(rivals_of - {answer})
    far = [value for value in FIELDS[field] if value not in rivals_of | {answer}]
    chosen = [answer, *near[: NUM_CANDIDATES - 1]]
    chosen += rng.sample(far, NUM_CANDIDATES - len(chosen))
    rng.shuffle(chosen)
    return {"candidates": chosen, "answer": answer}


TEXTS = {
    "records": TextKind(text_of=generate_record),
    "documentation": TextKind(reads=documentation),
    "rivals": TextKind(text_of=rivals, prompts=rival_prompts),
    "conversations": TextKind(text_of=conversations, prompts=conversation_prompts, preparation="sft_to_mds"),
    "short_cuts": TextKind(text_of=short_cuts, prompts=short_cut_prompts),
}
"""Kinds of corpora by name."""

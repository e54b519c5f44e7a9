"""What the corpora of the experiments say, and the prompts that ask about them.

    A  records         fields of one record, summarised          meap.synthetic
    B  statements      values of up to eight places
       rivals          the same, prose among them                rival_prompts         length, places, depth
    C  conversations   a question over documents, a long answer  conversation_prompts  documents, position
    D  documentation   docstrings of installed packages          read
    E  short_cuts      a value far away, and in a cue near by    short_cut_prompts     both, far, near, conflict

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
from functools import partial
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


# B: places among rivals. "There is Albeck oak Albeck." stands beside the like of up to seven other places. Place and
# value are a token each, and side by side: a model of two layers learns to look such a value up.

PLACES = tuple(f"{start}{end}" for start, end in zip(words.NAME_STARTS * 2, words.TOWN_ENDS * 9, strict=False))[:30]
_MOST_PLACES = 8
_LENGTHS, _RIVALS, _DEPTHS = (256, 512, 900), (1, 4, 8), ("first", "middle", "last")
_CHARACTERS_PER_TOKEN = 3.3
_ASKED_PER_GROUP = 60


def rivals(seed: int, index: int, *, prose: int = 2400) -> str:
    """Up to eight places, `prose` characters at most among them, then six summaries."""
    rng = keyed_generator("rivals" if prose else "statements", seed, index)
    stated = _draw_places(rng, 1 + int(rng.random() * _MOST_PLACES))
    paragraphs = [" ".join(_passage(rng, stated, num_characters=int(rng.random() ** 2 * prose)))]
    for _ in range(6):
        summary = [_state(*each) for each in rng.sample(list(stated.items()), len(stated))]
        paragraphs.append(" ".join([choose(rng, words.RECAP_LEADS), *summary]))
    return "\n".join(paragraphs)


def rival_prompts(seed: int) -> Iterator[Prompt]:
    """One place asked for, by length in tokens (about), places in the passage, and depth of the answer."""
    for (length, num_places, depth), number in itertools.product(
        itertools.product(_LENGTHS, _RIVALS, _DEPTHS), range(_ASKED_PER_GROUP)
    ):
        rng = keyed_generator(f"rival prompt {length} {num_places} {depth}", seed, number)
        stated = _draw_places(rng, num_places)
        room = int(length * _CHARACTERS_PER_TOKEN) - sum(len(_state(*each)) + 1 for each in stated.items())
        asked, *others = stated
        sentences = _passage(rng, {place: stated[place] for place in others}, num_characters=room)
        before = (_DEPTHS.index(depth) + rng.random()) / len(_DEPTHS)
        sentences.insert(int(before * (len(sentences) + 1)), _state(asked, stated[asked]))
        yield {
            "prompt": f"{' '.join(sentences)}\n{choose(rng, words.RECAP_LEADS)} {_question(asked)}",
            "group": f"{length} {num_places} {depth}",
            **_candidates(rng, stated[asked], set(stated.values())),
        }


# C: conversations over numbered documents; the answer is long, and begins with what is asked for.


def conversations(seed: int, index: int) -> str:
    """A question over 5 or 10 documents with a long answer, as a JSON record of messages."""
    rng = keyed_generator("conversation", seed, index)
    documents, stated = _draw_documents(rng, choose(rng, (5, 10)))
    asked = choose(rng, list(stated))
    others = rng.sample([place for place in stated if place != asked], 3)
    answer = " ".join(_state(place, stated[place]) for place in (asked, *others, asked))
    answer += f" All of this is said in the documents above, and {asked} is what was asked for."
    turns = (("user", f"{documents}\nWhat is there in {asked}?"), ("assistant", answer))
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def conversation_prompts(seed: int) -> Iterator[Prompt]:
    """The same questions, begun to be answered, with their document at several positions, rendered as in training.

    By those whose group begins with "tuning" learning rates are chosen; they are not reported.
    """
    kinds = ("", 5), ("", 10), ("tuning ", 10)
    for (use, num_documents), number in itertools.product(kinds, range(60)):
        for position in (each for each in (1, 3, 5, 10) if each <= num_documents):
            rng = keyed_generator(f"conversation {use}prompt {num_documents}", seed, number)
            documents, stated = _draw_documents(rng, num_documents, position=position)
            asked = next(iter(stated))
            question = f"{documents}\nWhat is there in {asked}?"
            yield {
                "prompt": f"{_BEFORE_INSTRUCTION}### Instruction:\n{question}\n\n### Response:\n{_question(asked)}",
                "group": f"{use}{num_documents} {position}",
                "question": f"{use}{num_documents} {number}",
                **_candidates(rng, stated[asked], set(stated.values())),
            }


# E: a value can be had from far away, or from the words before. "So oak. The tree is oak.": a cue names no field, and
# so does not have to be looked up itself; the statement behind it repeats a token at a fixed distance.

_CUED = 0.95


def short_cuts(seed: int, index: int) -> str:
    """A record with three summaries, in which a cue precedes nearly every statement."""
    rng = keyed_generator("short cuts", seed, index)
    stated, prose = _draw_fields(rng), Prose(rng)
    paragraphs = [_statements(rng, stated), _between(prose)]
    for _ in range(3):
        summary = [choose(rng, words.RECAP_LEADS)]
        for field in rng.sample(list(stated), 5):
            summary += [_cue(stated[field])] if rng.random() < _CUED else []
            summary.append(_say(field, stated[field]))
        paragraphs.append(" ".join(summary))
    return "\n".join(paragraphs)


def short_cut_prompts(seed: int) -> Iterator[Prompt]:
    """The same question with the value near and far, far alone, near alone, and near another value than far."""
    for number in range(200):
        for group in ("both", "far", "near", "conflict"):
            rng = keyed_generator("short cut prompt", seed, number)
            stated, prose = _draw_fields(rng), Prose(rng)
            asked = choose(rng, list(stated))
            answer = stated[asked]
            other = choose(rng, [value for value in FIELDS[asked] if value != answer])
            cues = {"far": [], "conflict": [_cue(other)]}.get(group, [_cue(answer)])
            if group == "near":
                del stated[asked]
            lead = choose(rng, words.RECAP_LEADS)
            yield {
                "prompt": "\n".join(
                    [_statements(rng, stated), _between(prose), " ".join([lead, *cues, f"The {asked} is"])]
                ),
                "group": group,
                "question": str(number),
                **_candidates(rng, answer, {other}),
            }


def _draw_fields(rng: random.Random) -> dict[str, str]:
    return {field: choose(rng, FIELDS[field]) for field in rng.sample(tuple(FIELDS), 6)}


def _statements(rng: random.Random, stated: dict[str, str]) -> str:
    return " ".join(_say(field, stated[field]) for field in rng.sample(list(stated), len(stated)))


def _between(prose: Prose) -> str:
    return f"{prose.sentence()} {prose.sentence()}"


def _say(field: str, value: str) -> str:
    return f"The {field} is {value}."


def _cue(value: str) -> str:
    return f"So {value}."


_BEFORE_INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_FIELD_OF = {value: field for field, values in FIELDS.items() for value in values}


def _draw_places(rng: random.Random, number: int) -> dict[str, str]:
    """Places, and their values of one field."""
    field = choose(rng, tuple(FIELDS))
    return dict(zip(rng.sample(PLACES, number), rng.sample(FIELDS[field], number), strict=True))


def _passage(rng: random.Random, stated: dict[str, str], *, num_characters: int) -> list[str]:
    """Statements and sentences of prose, in any order."""
    sentences, prose = [_state(*each) for each in stated.items()], Prose(rng)
    while num_characters > 0:
        sentences.append(prose.sentence())
        num_characters -= len(sentences[-1]) + 1
    rng.shuffle(sentences)
    return sentences


def _draw_documents(rng: random.Random, number: int, *, position: int | None = None) -> tuple[str, dict[str, str]]:
    """A document of each place; with `position`, the first place of the dictionary stands there."""
    stated, prose = _draw_places(rng, number), Prose(rng)
    places = list(stated)
    if position is not None:
        places = [*places[1:position], places[0], *places[position:]]
    lines = [
        " ".join([f"Document {at}:", _state(place, stated[place]), *(prose.sentence() for _ in range(3))])
        for at, place in enumerate(places, start=1)
    ]
    return "\n".join(lines), stated


def _state(place: str, value: str) -> str:
    return f"{_question(place)} {value} {place}."


def _question(place: str) -> str:
    return f"There is {place}"


def _candidates(rng: random.Random, answer: str, stated: set[str]) -> Prompt:
    """Eight values of one field: the answer, what else stands in the passage, and others."""
    near = sorted(stated - {answer})
    far = [value for value in FIELDS[_FIELD_OF[answer]] if value not in stated | {answer}]
    chosen = [answer, *near[: NUM_CANDIDATES - 1]]
    chosen += rng.sample(far, NUM_CANDIDATES - len(chosen))
    rng.shuffle(chosen)
    return {"candidates": chosen, "answer": answer}


TEXTS = {
    "records": TextKind(text_of=generate_record),
    "documentation": TextKind(reads=documentation),
    "statements": TextKind(text_of=partial(rivals, prose=0)),
    "rivals": TextKind(text_of=rivals, prompts=rival_prompts),
    "conversations": TextKind(text_of=conversations, prompts=conversation_prompts, preparation="sft_to_mds"),
    "short_cuts": TextKind(text_of=short_cuts, prompts=short_cut_prompts),
}
"""Kinds of corpora by name."""

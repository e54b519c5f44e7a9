"""Seeded English prose with facts that can be looked up in it: a corpus and a retrieval benchmark that need no network.

    (seed, index) -> topic, cast, length -> sentences, facts stated, facts repeated -> SyntheticDocument
    (seed, index) -> the same kind of passage, one fact asked for                   -> RetrievalExample

A draw is an address, not a stream: every document and every example has a generator of its own, keyed by a label, the
seed and the index, so that any of them can be made alone, in any order, on any platform. The labels of the two differ:
no retrieval example shares its draws with a training document.

The value of a fact is drawn afresh in each document, so a model cannot know it in advance; it can only copy it from the
place where the document stated it first. That makes the repetitions learnable, and the retrieval examples answerable.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from meap.synthetic import words

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "NUM_STATEMENT_STYLES",
    "Fact",
    "Prose",
    "RetrievalExample",
    "SyntheticDocument",
    "choose",
    "generate_document",
    "generate_retrieval_example",
    "keyed_generator",
]

NUM_STATEMENT_STYLES = len(words.STATEMENTS)
"""How many ways there are to state a fact; `Fact.statement` takes a style below this."""

MAX_RETRIEVAL_FACTS = 1000
"""The most facts a retrieval example may hold: far below the number of values and subjects there are to draw from."""

# The quantile function of a log-normal with median 1350 characters and sigma 1, clipped to [150, 19500]. A table with
# straight lines between its points, because exp and log may differ in the last bit from one platform to the next.
_LENGTH_QUANTILES = (
    (0.0, 150), (0.02, 175), (0.05, 260), (0.1, 375), (0.25, 690), (0.5, 1350), (0.75, 2650), (0.9, 4860), (0.95, 7000),
    (0.99, 13800), (1.0, 19500),
)  # fmt: skip

_TOPIC_LINE_RATIO = 0.12  # of the filler sentences, those that only this topic has
_STATE_RATIO = 0.2  # of the sentences, those that state a new fact
_REPEAT_RATIO = 0.12  # of the sentences, those that repeat an old one
_STEM_RATIO = 0.5  # of the statements, those that start with the question's stem
_RECAP_RATIO = 0.3  # of the paragraphs, those followed by a recap
_LAST_RECAP_RATIO = 0.85  # of the documents with facts, those that end with a recap
_PAIR_RATIO = 0.15  # of the facts, those whose value is a colour and an animal
_FOUR_DIGIT_RATIO = 0.2  # of the numbers, those with four digits; the others have five
_MAX_FACTS = 24
_MAX_RECAP = 5

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")

_T = TypeVar("_T")
_Rules = dict[str, tuple["str | tuple[str, ...]", ...]]


@dataclass(frozen=True)
class Fact:
    """One thing that a text says and that cannot be known without reading it."""

    subject: str
    """What the fact is about, without an article: "Marlow lighthouse"."""
    attribute: str
    """Which property of it is given: "access code"."""
    value: str
    """The property itself: a number of four or five digits, or a colour and an animal."""

    def statement(self, style: int) -> str:
        """Return a sentence that states the fact.

        Args:
            style: Which wording, in [0, `NUM_STATEMENT_STYLES`). Style 0 is `question_stem() + " " + value + "."`.

        Raises:
            ValueError: If there is no such style.
        """
        if not 0 <= style < NUM_STATEMENT_STYLES:
            raise ValueError(f"style is {style}, but must be in [0, {NUM_STATEMENT_STYLES}); choose a style in it")
        return words.STATEMENTS[style].format(subject=self.subject, attribute=self.attribute, value=self.value)

    def question_stem(self) -> str:
        """Return the beginning of a sentence that the value completes, without a space at its end."""
        return f"The {self.attribute} of the {self.subject} is"


@dataclass(frozen=True)
class SyntheticDocument:
    """A text and the facts it states, in the order in which it first states them."""

    text: str
    """Paragraphs separated by single newlines, ASCII only, about 150 to 20,000 characters."""
    facts: tuple[Fact, ...]
    """Subjects and values are distinct within a document."""


@dataclass(frozen=True)
class RetrievalExample:
    """A passage with several facts in it that ends where the value of one of them must follow."""

    prompt: str
    """The passage, a newline, and the question's stem; no space at its end."""
    answer: str
    """The value that completes the prompt."""
    candidates: tuple[str, ...]
    """The values of all facts in the passage, distinct, of one length, shuffled: chance is 1 in `len(candidates)`."""
    depth: float
    """Where the passage states the asked fact: 0 is its first sentence, 1 its last."""


def generate_document(seed: int, index: int) -> SyntheticDocument:
    """Return document number `index` of the corpus `seed`: the same on every platform and in every order of calls.

    Args:
        seed: Which corpus; any integer.
        index: Which document of it; any integer.
    """
    rng = keyed_generator("document", seed, index)
    length = _draw_length(rng)
    prose = Prose(rng)
    new_facts = _draw_facts(rng, _MAX_FACTS, pair_ratio=_PAIR_RATIO)
    stated: list[Fact] = []
    paragraphs: list[str] = []
    num_characters = 0
    while num_characters < (body := length - 65 * min(len(stated), _MAX_RECAP)):
        sentences: list[str] = []
        for _ in range(3 + _below(rng, 5)):
            draw = rng.random()
            if draw < _STATE_RATIO and new_facts:
                stated.append(new_facts.pop())
                sentence = _state(rng, stated[-1])
            elif draw > 1 - _REPEAT_RATIO and stated:
                sentence = _state(rng, choose(rng, stated))
            else:
                sentence = prose.sentence()
            sentences.append(sentence)
            num_characters += len(sentence) + 1
            if num_characters >= body:
                break
        paragraphs.append(" ".join(sentences))
        ends = num_characters >= body
        if stated and rng.random() < (_LAST_RECAP_RATIO if ends else _RECAP_RATIO):
            recalled = rng.sample(stated, min(len(stated), 1 + _below(rng, _MAX_RECAP)))
            paragraphs.append(" ".join([choose(rng, words.RECAP_LEADS), *(fact.statement(0) for fact in recalled)]))
            num_characters += len(paragraphs[-1]) + 1
    return SyntheticDocument("\n".join(paragraphs), tuple(stated))


def generate_retrieval_example(
    seed: int, index: int, *, num_facts: int, num_sentences: int, depth: float
) -> RetrievalExample:
    """Return retrieval example number `index` of the set `seed`.

    Args:
        seed: Which set; any integer. The same seed as a corpus is safe: the two share no draws.
        index: Which example of it; any integer.
        num_facts: How many facts the passage states, in [1, 1000]; chance level is 1 / `num_facts`.
        num_sentences: How many filler sentences stand between them, at least 0.
        depth: Where the asked fact stands among all sentences, in [0, 1]; 0 is first.

    Raises:
        ValueError: If a number is out of its range.
    """
    if not 1 <= num_facts <= MAX_RETRIEVAL_FACTS:
        raise ValueError(f"num_facts is {num_facts}, but must be in [1, {MAX_RETRIEVAL_FACTS}]; change num_facts")
    if num_sentences < 0:
        raise ValueError(f"num_sentences is {num_sentences}, but must be at least 0; use 0 for facts alone")
    if not 0 <= depth <= 1:
        raise ValueError(f"depth is {depth}, but must be in [0, 1]; divide a percentage by 100")
    rng = keyed_generator("retrieval", seed, index)
    prose = Prose(rng)
    facts = _draw_facts(rng, num_facts, pair_ratio=0, num_digits=4 if rng.random() < _FOUR_DIGIT_RATIO else 5)
    asked = facts[0]

    last = num_sentences + num_facts - 1
    asked_position = int(depth * last + 0.5)
    free_positions = [position for position in range(last + 1) if position != asked_position]
    other_positions = rng.sample(free_positions, num_facts - 1)
    fact_at = dict(zip([asked_position, *other_positions], facts, strict=True))
    sentences = [
        _state(rng, fact_at[position]) if position in fact_at else prose.sentence() for position in range(last + 1)
    ]
    paragraphs: list[str] = []
    while sentences:
        size = 3 + _below(rng, 5)
        paragraphs.append(" ".join(sentences[:size]))
        del sentences[:size]
    paragraphs.append(f"{choose(rng, words.RECAP_LEADS)} {asked.question_stem()}")
    candidates = [fact.value for fact in facts]
    rng.shuffle(candidates)
    return RetrievalExample("\n".join(paragraphs), asked.value, tuple(candidates), depth)


class Prose:
    """Filler sentences on one topic, with the same few people and towns throughout."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        first_names = rng.sample(words.FIRST_NAMES, 3)
        cast = [(first, f"{first} {_name(rng, words.SURNAME_ENDS)}") for first in first_names]
        self._rules: _Rules = {
            **_compiled_rules(choose(rng, tuple(words.TOPICS))),
            "person": tuple(form for forms in cast for form in forms),
            "town": tuple(_name(rng, words.TOWN_ENDS) for _ in range(4)),
        }
        self._last: dict[str, int] = {}

    def sentence(self) -> str:
        """Return the next one."""
        text = self._expand("line" if self._random() < _TOPIC_LINE_RATIO else "sentence")
        first = 1 if text[0] == '"' else 0
        text = text[:first] + text[first].upper() + text[first + 1 :]
        return _ARTICLE_BEFORE_VOWEL.sub(r"\1n ", text)

    def _expand(self, slot: str) -> str:
        options = self._rules[slot]
        chosen = int(self._random() * len(options))
        if chosen == self._last.get(slot):  # never the same word or template twice in a row
            chosen = (chosen + 1) % len(options)
        self._last[slot] = chosen
        option = options[chosen]
        if isinstance(option, str):
            return option
        return "".join(self._expand(part) if place % 2 else part for place, part in enumerate(option))


@cache
def _compiled_rules(topic: str) -> _Rules:
    """Split each template into text and slots by turns: a tuple has its slots at the odd places, a string has none."""
    return {
        slot: tuple(tuple(_SLOT.split(option)) if "{" in option else option for option in options)
        for slot, options in words.rules(topic).items()
    }


def keyed_generator(label: str, seed: int, index: int) -> random.Random:
    """Return the generator of one text: label, seed and index are its address."""
    # A string is hashed with SHA-512 and random() is the Mersenne twister: both are fixed by Python's documentation.
    return random.Random(f"meap/{label}/{seed}/{index}")  # noqa: S311


def _below(rng: random.Random, bound: int) -> int:
    return int(rng.random() * bound)


def choose(rng: random.Random, options: Sequence[_T]) -> _T:
    """Return one of the options, each as likely, by a single draw."""
    return options[int(rng.random() * len(options))]


def _draw_length(rng: random.Random) -> int:
    draw = rng.random()
    points = pairwise(_LENGTH_QUANTILES)
    (low, shortest), (high, longest) = next(pair for pair in points if draw < pair[1][0])
    return int(shortest + (draw - low) / (high - low) * (longest - shortest))


def _name(rng: random.Random, ends: Sequence[str]) -> str:
    return choose(rng, words.NAME_STARTS) + choose(rng, ends)


def _state(rng: random.Random, fact: Fact) -> str:
    return fact.statement(0 if rng.random() < _STEM_RATIO else 1 + _below(rng, NUM_STATEMENT_STYLES - 1))


def _draw_facts(rng: random.Random, num_facts: int, *, pair_ratio: float, num_digits: int | None = None) -> list[Fact]:
    """Draw facts with distinct subjects and values; few attributes, so that facts differ in their subjects."""
    numbers = rng.sample(words.NUMBER_ATTRIBUTES, 1 + _below(rng, 3))
    pair = choose(rng, words.PAIR_ATTRIBUTES)
    subjects: dict[str, None] = {}
    values: dict[str, str] = {}
    while len(subjects) < num_facts:
        ends = words.TOWN_ENDS if rng.random() < 0.5 else words.SURNAME_ENDS
        subjects[f"{_name(rng, ends)} {choose(rng, words.FACT_KINDS)}"] = None
    while len(values) < num_facts:
        if rng.random() < pair_ratio:
            values[f"{choose(rng, words.PAIR_COLOURS)} {choose(rng, words.PAIR_ANIMALS)}"] = pair
        else:
            digits = num_digits or (4 if rng.random() < _FOUR_DIGIT_RATIO else 5)
            value = 2100 + _below(rng, 7900) if digits == 4 else 10000 + _below(rng, 90000)
            values[str(value)] = choose(rng, numbers)
    pairs = zip(subjects, values.items(), strict=True)
    return [Fact(subject, attribute, value) for subject, (value, attribute) in pairs]

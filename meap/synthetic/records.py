"""Seeded records: passages that state some fields once, far apart, and ask for one at the end.

    (seed, index) -> some fields, prose among them           -> a text that then summarises them several times
    (seed, index) -> a similar passage, one field asked for  -> RetrievalExample

The fields of a record differ in kind (a tree, a bird, a metal), so that one look back through the text answers a
question. A model of some 100,000 parameters learns this within minutes; the facts of `prose`, which differ in their
subject alone, take it a thousand times as long. Values are drawn afresh in each record: a model that has not read it
guesses.

As in `prose`, a draw is an address: every record has a generator of its own, and examples share none of them.
"""

from __future__ import annotations

import random

from meap.synthetic import words
from meap.synthetic.prose import Prose, RetrievalExample, choose, keyed_generator

__all__ = ["FIELDS", "NUM_CANDIDATES", "generate_record", "generate_record_example"]

FIELDS = words.RECORD_FIELDS
"""Values by field; every value belongs to one field only."""

NUM_CANDIDATES = 8
"""Candidate values per example, of which the passage states one; chance is 1 / `NUM_CANDIDATES`."""

_MIN_FIELDS = 4
_MAX_SENTENCES = 2
_NUM_SUMMARIES = 6


def generate_record(seed: int, index: int) -> str:
    """Return record number `index` of the corpus `seed`: 4 to 8 fields, at most 2 sentences of prose, six summaries.

    Args:
        seed: Which corpus; any integer.
        index: Which record of it; any integer.
    """
    rng = keyed_generator("record", seed, index)
    fields = rng.sample(tuple(FIELDS), _MIN_FIELDS + int(rng.random() * (len(FIELDS) - _MIN_FIELDS + 1)))
    stated = {field: choose(rng, FIELDS[field]) for field in fields}
    sentences = _passage(rng, stated, num_sentences=int(rng.random() * (_MAX_SENTENCES + 1)))
    paragraphs = [" ".join(sentences)]
    for _ in range(_NUM_SUMMARIES):
        rng.shuffle(fields)
        paragraphs.append(" ".join([choose(rng, words.RECAP_LEADS), *(_state(each, stated[each]) for each in fields)]))
    return "\n".join(paragraphs)


def generate_record_example(seed: int, index: int, *, num_sentences: int) -> RetrievalExample:
    """Return example number `index` of the set `seed`: all fields are stated, one of them is asked for.

    Args:
        seed: Which set; any integer. The same seed as a corpus is safe: the two share no draws.
        index: Which example of it; any integer.
        num_sentences: Sentences of prose among the fields, at least 0; more than in a corpus make longer distances.

    Raises:
        ValueError: If num_sentences is negative.
    """
    if num_sentences < 0:
        raise ValueError(f"num_sentences is {num_sentences}, but must be at least 0; use 0 for fields alone")
    rng = keyed_generator("record example", seed, index)
    stated = {field: choose(rng, values) for field, values in FIELDS.items()}
    asked = choose(rng, tuple(FIELDS))
    sentences = _passage(rng, stated, num_sentences=num_sentences)
    position = sentences.index(_state(asked, stated[asked]))
    others = [value for value in FIELDS[asked] if value != stated[asked]]
    candidates = [stated[asked], *rng.sample(others, NUM_CANDIDATES - 1)]
    rng.shuffle(candidates)
    prompt = f"{' '.join(sentences)}\n{choose(rng, words.RECAP_LEADS)} The {asked} is"
    return RetrievalExample(prompt, stated[asked], tuple(candidates), position / (len(sentences) - 1))


def _passage(rng: random.Random, stated: dict[str, str], *, num_sentences: int) -> list[str]:
    prose = Prose(rng)
    sentences = [_state(field, value) for field, value in stated.items()]
    sentences += [prose.sentence() for _ in range(num_sentences)]
    rng.shuffle(sentences)
    return sentences


def _state(field: str, value: str) -> str:
    return f"The {field} is {value}."

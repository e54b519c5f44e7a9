"""The word lists and sentence templates of words.json, written for this project.

A template is text with slots in braces; a slot names another list, whose entries may hold slots in turn. A topic gives
seven lists; `rules` adds the plurals, the verb forms and the common lists:

    thing   countable noun with a regular plural; `things` is made from it
    stuff   noun without a plural
    site    where the work is done: "at the {site}"
    worker  who does it, plural in s
    verb    base/past/gerund (`do`, `did`, `doing`), takes a thing as its object; the past is its participle too
    adj     what a thing can be, more or less
    line    whole sentences that belong to this topic only

The lists hold no number of four digits or more except years before 2030: the values of facts start at 2100 and stay
unique in a text. Words that break the rule "an before a vowel letter" (one, useful, hour) never follow an article. The
values of a record field belong to no other field.
"""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["rules"]


def _tuples(lists: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(words) for name, words in lists.items()}


def _numbers(first: int, end: int, step: int = 1) -> tuple[str, ...]:
    return tuple(map(str, range(first, end, step)))


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


_LISTS = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))

FIRST_NAMES = tuple[str, ...](_LISTS["first_names"])
NAME_STARTS = tuple[str, ...](_LISTS["name_starts"])
SURNAME_ENDS = tuple[str, ...](_LISTS["surname_ends"])
TOWN_ENDS = tuple[str, ...](_LISTS["town_ends"])
FACT_KINDS = tuple[str, ...](_LISTS["fact_kinds"])
NUMBER_ATTRIBUTES = tuple[str, ...](_LISTS["number_attributes"])
PAIR_ATTRIBUTES = tuple[str, ...](_LISTS["pair_attributes"])
PAIR_COLOURS = tuple[str, ...](_LISTS["pair_colours"])
PAIR_ANIMALS = tuple[str, ...](_LISTS["pair_animals"])
RECAP_LEADS = tuple[str, ...](_LISTS["recap_leads"])
STATEMENTS = tuple[str, ...](_LISTS["statements"])
RECORD_FIELDS = _tuples(_LISTS["record_fields"])
COMMON = _tuples(_LISTS["common"]) | {
    "year": _numbers(1790, 2025),
    "dom": _numbers(1, 29),
    "n": _numbers(11, 100),
    "hundreds": _numbers(110, 990, 10),
}
TOPICS = {topic: _tuples(lists) for topic, lists in _LISTS["topics"].items()}


def rules(topic: str) -> dict[str, tuple[str, ...]]:
    """Return every list that a sentence on `topic` draws from, keyed by slot name.

    Args:
        topic: A key of `TOPICS`.

    Returns:
        The common lists, the topic's own, the plurals (`things`), the verb forms (`do`, `did`, `doing`).
    """
    own = TOPICS[topic]
    verbs = [verb.split("/") for verb in own["verb"]]
    return {
        **COMMON,
        **own,
        "things": tuple(_plural(noun) for noun in own["thing"]),
        "do": tuple(verb[0] for verb in verbs),
        "did": tuple(verb[1] for verb in verbs),
        "doing": tuple(verb[2] for verb in verbs),
    }

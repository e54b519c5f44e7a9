"""Instruction data in the form of `messages`, with nothing to download: questions about short lists of facts.

Every answer is in the question, in words in which the built-in corpus states facts: a model of it can learn this in
a few hundred steps. A quarter of the answers are a bare value, too short for a masked copy; half are one sentence, and
a quarter repeat all facts. The system message replaces Alpaca's long first sentence, so that a conversation takes about
100 tokens, and less than 128.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from meap.places.whole import write_whole
from meap.synthetic import NUM_STATEMENT_STYLES, Fact, generate_document

__all__ = ["write_sample_instructions"]


def write_sample_instructions(path: Path, *, seed: int = 0, num_records: int = 2000, num_facts: int = 2) -> Path:
    """Write a JSON array of records with `messages`; the same arguments give the same bytes.

    Args:
        path: File to write; its folder is made if need be.
        seed: Which records; any integer.
        num_records: How many records, at least 1.
        num_facts: Facts in each question, at least 1.
    """
    records: list[dict[str, list[dict[str, str]]]] = []
    index = 0
    while len(records) < num_records:
        facts = generate_document(seed, index).facts
        index += 1
        for start in range(0, len(facts) - num_facts + 1, num_facts):
            number = len(records)
            records.append(_record(facts[start : start + num_facts], random.Random(f"meap/sft/{seed}/{number}")))  # noqa: S311
    content = json.dumps(records[:num_records], indent=1).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)
    return path


def _record(facts: tuple[Fact, ...], rng: random.Random) -> dict[str, list[dict[str, str]]]:
    context = " ".join(fact.statement(int(rng.random() * NUM_STATEMENT_STYLES)) for fact in facts)
    asked = facts[int(rng.random() * len(facts))]
    question = f"{context} What is the {asked.attribute} of the {asked.subject}?"
    kind = rng.random()
    if kind < 0.25:
        question, answer = f"{question} Only its value.", f"{asked.value}."
    elif kind < 0.75:
        answer = asked.statement(0)
    else:
        question, answer = f"{context} Repeat every fact.", " ".join(fact.statement(0) for fact in facts)
    turns = (("system", "Answer from the facts."), ("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}

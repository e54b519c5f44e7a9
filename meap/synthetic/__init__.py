"""Seeded English for samples, tests and evaluations that need no network.

prose      a corpus of passages with facts that can be looked up in them
records    passages whose fields differ in kind: a small model learns to look them up within minutes
words      word lists and templates of both, read from words.json
"""

from meap.synthetic.prose import (
    NUM_STATEMENT_STYLES,
    Fact,
    Prose,
    RetrievalExample,
    SyntheticDocument,
    choose,
    generate_document,
    generate_retrieval_example,
    keyed_generator,
)
from meap.synthetic.records import FIELDS, NUM_CANDIDATES, generate_record, generate_record_example

__all__ = [
    "FIELDS",
    "NUM_CANDIDATES",
    "NUM_STATEMENT_STYLES",
    "Fact",
    "Prose",
    "RetrievalExample",
    "SyntheticDocument",
    "choose",
    "generate_document",
    "generate_record",
    "generate_record_example",
    "generate_retrieval_example",
    "keyed_generator",
]

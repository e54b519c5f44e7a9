"""Seeded English for samples, tests and evaluations that need no network.

prose      a corpus of passages with facts that can be looked up in them
records    passages whose fields are told apart by what they are: learnt within minutes by a small model
words      the lists and templates behind both, read from words.json
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

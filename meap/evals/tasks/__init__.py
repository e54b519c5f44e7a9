"""The tasks: one file each, and its row in the table here.

perplexity     held-out loss                            key_retrieval  facts looked up in a generated passage
needle_fu      a sentence in a haystack (Fu et al.)     needle_magic   a number in a haystack (Ye et al.)
multidoc_qa    questions over many documents            kv_retrieval   a value in a JSON object
commonsense    multiple choice by lm-eval                hallucination  summaries, read by a judge
record_retrieval    a field looked up in a generated record
attention_decay     attention that masked tokens receive, and how it varies over the others
attention_segments  attention by segment of a passage with an answer and a question
"""

from meap.evals.task import Task
from meap.evals.tasks import (
    attention_decay,
    attention_segments,
    commonsense,
    hallucination,
    key_retrieval,
    kv_retrieval,
    multidoc_qa,
    needle_fu,
    needle_magic,
    perplexity,
    record_retrieval,
)

__all__ = ["TASKS"]

TASKS: dict[str, Task] = {
    "perplexity": perplexity.TASK,
    "key_retrieval": key_retrieval.TASK,
    "record_retrieval": record_retrieval.TASK,
    "commonsense": commonsense.TASK,
    "needle_fu": needle_fu.TASK,
    "needle_magic": needle_magic.TASK,
    "multidoc_qa": multidoc_qa.TASK,
    "kv_retrieval": kv_retrieval.TASK,
    "hallucination": hallucination.TASK,
    "attention_decay": attention_decay.TASK,
    "attention_segments": attention_segments.TASK,
}
"""Every task there is, in the order in which they run."""

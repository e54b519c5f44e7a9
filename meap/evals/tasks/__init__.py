"""The tasks: one file each, and its row in the table here.

perplexity     held-out loss                            key_retrieval  facts looked up in a generated passage
needle_fu      a sentence in a haystack (Fu et al.)     needle_magic   a number in a haystack (Ye et al.)
multi_needle   sentences in a haystack that add up      ancestral_trace  the eldest of a family
multidoc_qa    questions over many documents            kv_retrieval   a value in a JSON object
commonsense    multiple choice by lm-evaluation-harness
"""

from meap.evals.task import Task
from meap.evals.tasks import (
    ancestral_trace,
    commonsense,
    key_retrieval,
    kv_retrieval,
    multi_needle,
    multidoc_qa,
    needle_fu,
    needle_magic,
    perplexity,
)

__all__ = ["TASKS"]

TASKS: dict[str, Task] = {
    "perplexity": perplexity.TASK,
    "key_retrieval": key_retrieval.TASK,
    "commonsense": commonsense.TASK,
    "needle_fu": needle_fu.TASK,
    "needle_magic": needle_magic.TASK,
    "multi_needle": multi_needle.TASK,
    "ancestral_trace": ancestral_trace.TASK,
    "multidoc_qa": multidoc_qa.TASK,
    "kv_retrieval": kv_retrieval.TASK,
}
"""Every task there is, in the order in which they run."""

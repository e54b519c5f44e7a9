"""The benchmark tasks: one file each, and its row in the table here.

perplexity        held-out loss                         commonsense      multiple choice by lm-eval
key_retrieval     facts looked up in a passage          record_retrieval  a field looked up in a record
needle_fu         a sentence in a haystack (Fu et al.)  needle_magic     numbers in a haystack (Ye et al.)
multi_needle      sentences to combine                  ancestral_trace  the eldest of a family
multidoc_qa       questions over many documents         kv_retrieval     a value in a JSON object
attention_decay   attention that masked tokens receive  attention_segments  attention by segment of a passage
hallucination     summaries, scored by a judge    choice           prompts of a file, candidates ranked
"""

from meap.evals.task import Task
from meap.evals.tasks import (
    ancestral_trace,
    attention_decay,
    attention_segments,
    choice,
    commonsense,
    hallucination,
    key_retrieval,
    kv_retrieval,
    multi_needle,
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
    "choice": choice.TASK,
    "commonsense": commonsense.TASK,
    "needle_fu": needle_fu.TASK,
    "needle_magic": needle_magic.TASK,
    "multi_needle": multi_needle.TASK,
    "ancestral_trace": ancestral_trace.TASK,
    "multidoc_qa": multidoc_qa.TASK,
    "kv_retrieval": kv_retrieval.TASK,
    "hallucination": hallucination.TASK,
    "attention_decay": attention_decay.TASK,
    "attention_segments": attention_segments.TASK,
}
"""All tasks, in the order in which they run."""

"""Bounds of an evaluation's keys."""

import pytest

from meap.config import EvaluationConfig, load_config
from meap.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size=0 is too small: it must be at least 1"),
        ("limit=-1", "limit=-1 is too small"),
        ("too_long=cut", "too_long='cut' is not known: choose one of refuse, wrong"),
        ("key_retrieval.facts=1", "key_retrieval.facts=1 is too small"),
        ("perplexity.rows=-1", "perplexity.rows=-1 is too small"),
        ("needle_fu.depths=1", "needle_fu.depths=1 is too small: it must be at least 2"),
        ("needle_fu.lengths=[]", "needle_fu.lengths is empty: give at least one number"),
        ("needle_fu.lengths=[400,400]", r"needle_fu.lengths=\[400, 400\] has duplicates"),
        ("needle_magic.lengths=[100]", r"needle_magic.lengths=\[100\] leave no room beside needle_magic.buffer=150"),
        ("needle_magic.asked=2", r"needle_magic.asked=2 is out of range: it must be in \[1, needle_magic.needles=1\]"),
        ("needle_magic.asked=0", "needle_magic.asked=0 is out of range"),
        ("multi_needle.needles=[]", "multi_needle.needles is empty"),
        (
            "multi_needle.depths=[0,101]",
            r"multi_needle.depths=\[0, 101\] is out of range: depths are percent, in \[0, 100\]",
        ),
        ("multi_needle.lengths=[600]", r"multi_needle.lengths=\[600\] leave no room beside multi_needle.buffer=600"),
        ("multi_needle.trials=0", "multi_needle.trials=0 is too small"),
        ("ancestral_trace.relations=[1]", "ancestral_trace.relations=1 is too small: it must be at least 2"),
        (
            "ancestral_trace.relations=[1024]",
            r"relations=\[1024\] is out of range: at most 512 relations",
        ),
        ("multidoc_qa.documents=[1]", "multidoc_qa.documents=1 is too small: it must be at least 2"),
        ("multidoc_qa.positions=[0]", "multidoc_qa.positions=0 is too small: it must be at least 1"),
        ("kv_retrieval.hex_digits=33", r"kv_retrieval.hex_digits=33 is out of range: it must be in \[4, 32\]"),
        ("kv_retrieval.source=x", "cannot all be in kv_retrieval.source: give the one number of keys"),
        ("attention_decay.lengths=[3]", "attention_decay.lengths=3 is too small: it must be at least 4"),
        ("attention_decay.rows=0", "attention_decay.rows=0 is too small"),
        ("attention_decay.mask_ratio=0", r"attention_decay.mask_ratio=0.0 is out of range: it must be in \(0, 0.5\]"),
        ("attention_decay.mask_ratio=0.6", "attention_decay.mask_ratio=0.6 is out of range"),
        ("attention_segments.examples=0", "attention_segments.examples=0 is too small"),
        ("attention_segments.facts=0", "attention_segments.facts=0 is too small"),
        ("attention_segments.sentences=1", "attention_segments.sentences=1 is too small: it must be at least 2"),
        ("commonsense.tasks=[]", "commonsense.tasks is empty: name at least one"),
        ("hallucination.examples=0", "hallucination.examples=0 is too small: it must be at least 1"),
        ("hallucination.template=chat", "hallucination.template='chat' is not known: choose one of alpaca, plain"),
        ("hallucination.protocols=[]", "hallucination.protocols is empty: name similarity, faithfulness or both"),
        ("hallucination.protocols=[truth]", "hallucination.protocols='truth' is not known: choose one of faithfulness"),
        ("judge.model=x", "judge.input_price is not set, so judge.max_cost cannot be enforced: give x's dollars per"),
        ("judge.output_price=-1", "judge.output_price=-1.* is too small: it must be at least 0"),
        ("judge.max_cost=-1", "judge.max_cost=-1.* is too small"),
        ("judge.parallel=0", "judge.parallel=0 is too small: it must be at least 1"),
        ("judge.timeout=0", "judge.timeout=0.* is too small: it must be above 0 seconds"),
        ("judge.base_url=https://me:pw@host/v1", "judge.base_url is a URL with a user or password in it"),
        ("needle.depths=3", "unknown key 'needle'"),
    ],
)
def test_each_bad_value_gets_one_clear_error(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(EvaluationConfig, None, [override])

"""The model card: what a folder holds and how to use it. It claims only what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from meap.export.prompting import Prompting
from meap.manifest import CONVERSATIONS

__all__ = ["model_card"]

_TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- meap
---

# {run}

{origin} with {method}.

| | |
|---|---|
| layers, hidden size, heads (key/value heads) | {layers}, {hidden}, {heads} ({kv_heads}) |
| context | {context:,} tokens |
| vocabulary | {vocab_size:,} ids in {vocab_rows:,} rows, {mask} |
| trained for | {trained} |
| checkpoint | `{checkpoint}` |
| weights | {weights}; logits agree with the training model to {max_abs_diff:.1e} |

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")

{example}
output = model.generate(**inputs, max_new_tokens={new_tokens})
print(tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

{prompt_note} {end_note}

{mask_note}

## Limits

{limits}
Quality was not measured by the export: run `recipes/evaluate.py`. It cannot read inputs longer than its context.
"""


_TEXT = """\
texts = ["Once upon a time", "The capital of France is"]
inputs = tokenizer(texts, padding=True, return_tensors="pt")"""
_CHAT = """\
chats = [[{"role": "user", "content": text}] for text in ("Why is the sea salty?", "Name three rivers.")]
inputs = tokenizer.apply_chat_template(
    chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
)"""


def model_card(record: Mapping[str, Any], config: Any, prompting: Prompting) -> str:
    """Markdown for the folder's README.md.

    Args:
        record: `meap.export.hf.ExportRecord` as a dictionary.
        config: The transformers configuration of the model.
        prompting: What the folder says of prompts and their ends.
    """
    source = record["source"]
    token, base = record["mask_token"], source["base"]
    ratio, replacement = source["masking_ratio"], source["replacement"]
    scope = "the input tokens" if base is None else "what may be"
    became = "masked" if replacement == "mask" else f"replaced (`{replacement}`)"
    backwards = f", {source['reversed_ratio']:.0%} of the rows read right to left" if source["reversed_ratio"] else ""
    size = f"{record['parameters']:,} parameters"
    counts = ((source["step"], "steps"), (source["tokens"], "tokens"))
    return _TEMPLATE.format(
        run=source["run"],
        origin=(
            f"A {config.model_type.capitalize()} model with {size}, trained from scratch"
            if base is None
            else f"A {config.model_type.capitalize()} model with {size}, `{PurePath(base).name}` trained further"
        ),
        checkpoint=source["checkpoint"],
        method=(
            f"Mask-Enhanced Autoregressive Prediction ([arXiv 2502.07490](https://arxiv.org/abs/2502.07490)): "
            f"next-token prediction with {ratio:.0%} of {scope} {became}"
            if ratio
            else "plain next-token prediction (masking ratio 0)"
        )
        + backwards,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        context=config.max_position_embeddings,
        new_tokens=min(256, config.max_position_embeddings // 2),
        vocab_rows=config.vocab_size,
        trained=", ".join(f"{count:,} {unit}" for count, unit in counts if count is not None) or "not recorded",
        weights=(
            f"{record['dtype']}, whose rounding changes logits by {record['rounding']:.1%} of their spread"
            if record["rounding"]
            else record["dtype"]
        ),
        example=_CHAT if prompting.usage.kind == CONVERSATIONS else _TEXT,
        prompt_note=_prompt_note(prompting),
        end_note=_end_note(prompting),
        mask=f"`{token}` is {record['mask_id']}" if token else "no mask token",
        mask_note=(
            f"`{token}` stood for hidden inputs in training only. Prompts need none, and `generate` never writes it."
            if token
            else "The mask token used in training was removed."
        ),
        limits=(
            "It continues text; it was not tuned to follow instructions or to be safe, and repeats what its training "
            "text holds."
            if base is None
            else "It has the limits of its base and of the data it was tuned on; nobody tuned it to be safe."
        ),
        **{key: record[key] for key in ("vocab_size", "max_abs_diff")},
    )


def _prompt_note(prompting: Prompting) -> str:
    """How a prompt is written, and what is written for whoever writes it."""
    usage, bos = prompting.usage, prompting.tokenizer.bos_token
    if usage.kind != CONVERSATIONS:
        begins = f"begins with `{bos}`, which the tokenizer writes" if usage.begins_with_bos else "begins with its text"
        return f"It continues text. A prompt {begins}, as training documents did."
    notes = ["It answers conversations, which the chat template of the tokenizer writes as in training."]
    if usage.begins_with_bos:
        notes.append(
            f"The template begins with `{bos}`: add none, and encode its text with `add_special_tokens=False`."
        )
    template = usage.chat_template if isinstance(usage.chat_template, str) else ""
    if "['input']" in template:
        notes.append('A user message may have an `"input"` beside its `"content"`, as Alpaca\'s records do.')
    if "strftime_now" in template:
        notes.append("It writes the date of the day, where training saw one date.")
    return " ".join(notes)


def _end_note(prompting: Prompting) -> str:
    """What ends an answer, and what fills up a batch."""
    vocabulary = prompting.tokenizer.full
    ends = [f"`{vocabulary.id_to_token(each)}`" for each in prompting.ends]
    named = ends[0] if len(ends) == 1 else f"{', '.join(ends[:-1])} or {ends[-1]}"
    what = "An answer" if prompting.usage.kind == CONVERSATIONS else "A text"
    return f"{what} ends with {named}. `{prompting.pad_token}` fills up a batch, on the left."

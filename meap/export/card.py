"""The model card: what a folder holds and how to use it. It claims only what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

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
text = {prompt}
inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40, do_sample=False)[0]))
```

{mask_note}

## Limits

{limits}
Quality was not measured by the export: run `recipes/evaluate.py`. It cannot read inputs longer than its context.
"""


def model_card(record: Mapping[str, Any], config: Any) -> str:
    """Markdown for the folder's README.md.

    Args:
        record: `meap.export.hf.ExportRecord` as a dictionary.
        config: The transformers configuration of the model.
    """
    source = record["source"]
    ratio = source["masking_ratio"]
    token, base = record["mask_token"], source["base"]
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
            f"next-token prediction with {ratio:.0%} of {'the input tokens' if base is None else 'what may be'} masked"
            if ratio
            else "plain next-token prediction (masking ratio 0)"
        ),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        context=config.max_position_embeddings,
        vocab_rows=config.vocab_size,
        trained=", ".join(f"{count:,} {unit}" for count, unit in counts if count is not None) or "not recorded",
        weights=(
            f"{record['dtype']}, whose rounding changes logits by {record['rounding']:.1%} of their spread"
            if record["rounding"]
            else record["dtype"]
        ),
        prompt='tokenizer.bos_token + "Once upon a time"  # every training document begins with this token'
        if config.bos_token_id is not None
        else '"Once upon a time"',
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

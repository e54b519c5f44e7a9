"""Adapters -> a folder that peft loads beside their base."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from meap import __version__
from meap.errors import CheckpointError
from meap.export.hf import TOLERANCE, ExportSource, require_replaceable
from meap.export.prompting import Prompting
from meap.export.weights import write_tensors
from meap.extras import require_packages
from meap.noise import hide_loading_bars
from meap.places.whole import whole_folder
from meap.tokenizer import Tokenizer
from meap.usage import EXPORT_RECORD_NAME, Usage

__all__ = ["export_adapter"]

_WEIGHTS_NAME = "adapter_model.safetensors"
_COMPARED_ROWS, _COMPARED_TOKENS = 2, 128
_CARD = """\
---
library_name: peft
base_model: {base}
tags:
- lora
- meap
---

# {run}

LoRA adapters of `{base}` (rank {rank}), from step {step} of run {run}, whose answers were masked at a ratio of
{ratio:g} in the copies of conversations ([arXiv 2502.07490](https://arxiv.org/abs/2502.07490)).

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "path/of/this/folder")
model.generation_config = GenerationConfig.from_pretrained("path/of/this/folder")  # where answers end
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")
```

The mask token of training is not part of it: prompts need none. Logits agree with the training model to {largest:.1e}.
"""


def export_adapter(
    model: PreTrainedModel,
    settings: Any,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    out_dir: Path,
    source: ExportSource,
    *,
    usage: Usage,
    with_mask: bool,
) -> float:
    """Write adapters to `out_dir`, verified beside their base, replacing the run's earlier export.

    Args:
        model: The base in fp32 with its adapters, as it computes.
        settings: The adapters' `peft.LoraConfig`.
        weights: Theirs, by the names that peft gives them.
        tokenizer: The tokenizer they were trained with.
        out_dir: Folder that `meap.export.hf.require_replaceable` accepted.
        source: Where they came from, with their base.
        usage: How the model is prompted.
        with_mask: Whether the base has the mask token, too; one that training added is left out.

    Returns:
        The largest difference of a logit that was found.

    Raises:
        CheckpointError: The folder, loaded by peft beside the base, computes other logits than `model`.
    """
    assert source.base is not None
    with whole_folder(out_dir) as draft:
        settings.base_model_name_or_path, settings.inference_mode = source.base, True
        settings.save_pretrained(str(draft))
        stored = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
        write_tensors(stored, draft / _WEIGHTS_NAME)
        context = model.config.max_position_embeddings
        Prompting(tokenizer, usage, with_mask=with_mask, context=context).write(draft)
        largest = _verify(model, draft, source.base, num_ids=tokenizer.plain_vocab_size)
        facts = {"run": source.run, "step": source.step, "ratio": source.masking_ratio, "rank": settings.r}
        card = _CARD.format(base=source.base, largest=largest, **facts)
        (draft / "README.md").write_text(card, encoding="utf-8")
        record = {
            "source": asdict(source),
            "parameters": sum(weight.numel() for weight in stored.values()),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "max_abs_diff": largest,
            "versions": {"meap": __version__, **{name: version(name) for name in ("peft", "torch", "transformers")}},
        }
        (draft / EXPORT_RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        require_replaceable(str(out_dir), source.run)  # another run's export may have come meanwhile
    return largest


@torch.inference_mode()
def _verify(model: PreTrainedModel, folder: Path, base: str, *, num_ids: int) -> float:
    """Largest difference of a logit between `model` and what peft loads, over ids that both have."""
    require_packages("export.lora=adapter", "peft", extra="lora")
    from peft import PeftModel

    context = min(_COMPARED_TOKENS, model.config.max_position_embeddings)
    rows_BT = torch.randint(num_ids, (_COMPARED_ROWS, context), generator=torch.Generator().manual_seed(0))
    was_training = model.training
    expected = [model.eval()(row_BT).logits[..., :num_ids] for row_BT in rows_BT.split(1)]
    model.train(was_training)
    hide_loading_bars(base)
    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # by peft
        loaded = PeftModel.from_pretrained(plain, str(folder)).eval()
    found = [loaded(row_BT).logits[..., :num_ids] for row_BT in rows_BT.split(1)]
    largest = max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
    # Also false for NaN.
    if not largest < TOLERANCE:
        raise CheckpointError(
            f"peft's adapters beside {base} differ from the trained model by {largest:.2e} in a logit, {TOLERANCE:.0e} "
            "is allowed: nothing was exported. Check the versions of peft and transformers, or use export.lora=merge"
        )
    return largest

"""Starting from a Hugging Face folder or a name on the hub: Llama, Mistral and Qwen2/3 decoders.

Their attention is plain causal attention, which `meap.train.attention` computes, and transformers hands the segments of
fine-tuning rows on to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from meap.config import TokenizerConfig
from meap.errors import ConfigError, DataError, MismatchError, first_line
from meap.manifest import CONVERSATIONS, ROWS
from meap.noise import hide_loading_bars
from meap.rope import require_same_rope
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.train.start.base import Base, require_supported
from meap.usage import Usage, read_export_record

__all__ = ["open_hugging_face"]


def open_hugging_face(base: str, tokenizer: Tokenizer) -> Base:
    """The model in folder `base`, or of that name on the hub, with its own tokenizer.

    Args:
        base: `model.base`.
        tokenizer: The tokenizer of the data.

    Raises:
        ConfigError: It is none of the supported decoders.
        DataError: It cannot be read.
        MismatchError: Its tokenizer is not the data's.
    """
    architecture = _architecture(base)
    own = TokenizerConfig(base, tokenizer.bos_token, tokenizer.eos_token, tokenizer.mask_token)
    try:
        base_tokenizer = load_tokenizer(own)
    except ConfigError as error:  # it lacks a special token of the data's
        raise MismatchError(
            f"model.base={base} has another tokenizer than the data, {tokenizer.name!r} ({first_line(error)}): prepare "
            f"the data with tokenizer.name={base}, or choose the base whose tokenizer they were prepared with"
        ) from error
    if tokenizer.bos_token is None:
        base_tokenizer = base_tokenizer.without_bos()
    base_tokenizer.require_fingerprint(tokenizer.fingerprint, owner="the data")
    is_mask_new = base_tokenizer.is_mask_new
    return Base(
        architecture,
        is_mask_new=is_mask_new,
        rows_without_mask=int(architecture.vocab_size) if is_mask_new else None,
        load=lambda changed: _load(base, changed),
        has_direction=base_tokenizer.direction_id is not None,
        usage=_usage(base, architecture, base_tokenizer),
    )


def _architecture(base: str) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        stored, _ = PretrainedConfig.get_config_dict(base)
    except Exception as error:
        raise _unreadable(base, error) from error
    require_supported(base, config.model_type)
    require_same_rope(f"model.base={base}", stored, config.rope_parameters)
    return config


def _usage(base: str, architecture: PretrainedConfig, tokenizer: Tokenizer) -> Usage:
    """How the base is prompted: in chats where it has a template, unless it is an export that says otherwise."""
    template = tokenizer.source_config.get("chat_template")
    export = read_export_record(Path(base)) or {}
    return Usage(
        kind=export.get("kind", CONVERSATIONS if template else ROWS),
        chat_template=template,
        generation=_generation_settings(base, architecture),
    )


def _generation_settings(base: str, architecture: PretrainedConfig) -> dict[str, Any]:
    """The base's generation_config.json; without one, what `generate` takes from its config.json."""
    path = Path(base, GENERATION_CONFIG_NAME)
    try:
        if not Path(base).is_dir():
            path = Path(hf_hub_download(base, GENERATION_CONFIG_NAME))
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, EntryNotFoundError):
        return GenerationConfig.from_model_config(architecture).to_diff_dict()
    except Exception as error:
        raise _unreadable(base, error) from error


def _load(base: str, architecture: PretrainedConfig) -> PreTrainedModel:
    hide_loading_bars(base)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base,
            config=architecture,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise _unreadable(base, error) from error
    return cast("PreTrainedModel", model)


def _unreadable(base: str, error: Exception) -> DataError:
    return DataError(
        f"model.base={base} cannot be read ({type(error).__name__}: {first_line(error)}): give a folder or hub name "
        "with config.json and safetensors weights, the folder of a run, one of its checkpoints, or a .pth of the "
        "official code; for a gated repository log in with `hf auth login`"
    )

"""Starting from a Hugging Face folder or a name on the hub; `meap.train.start.exactness` says which can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from meap.config import TokenizerConfig
from meap.errors import ConfigError, DataError, MismatchError, first_line
from meap.json_text import parse_json, read_small
from meap.manifest import CONVERSATIONS, ROWS
from meap.model_sizes import misfit
from meap.noise import hide_loading_bars
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.train.start.architecture import read_architecture, unreadable
from meap.train.start.base import Base
from meap.usage import Usage, read_export_record

__all__ = ["open_hugging_face"]


def open_hugging_face(base: str, tokenizer: Tokenizer) -> Base:
    """The model in folder `base`, or of that name on the hub, with its own tokenizer.

    Args:
        base: `model.base`.
        tokenizer: The tokenizer of the data.

    Raises:
        ConfigError: It needs code of its own.
        DataError: It cannot be read.
        MismatchError: Its tokenizer is not the data's.
    """
    architecture = read_architecture("model.base", base)
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
        return dict(parse_json(read_small(path).decode()))
    except (FileNotFoundError, EntryNotFoundError):
        return GenerationConfig.from_model_config(architecture).to_diff_dict()
    except Exception as error:
        raise unreadable("model.base", base, error) from error


def _load(base: str, architecture: PretrainedConfig) -> PreTrainedModel:
    hide_loading_bars(base)
    read: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, found = read(
            base,
            config=architecture,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        if why := misfit(base, error):
            raise DataError(f"model.base={base}: {why}") from error
        raise unreadable("model.base", base, error) from error
    if lost := sorted(found["missing_keys"]) + sorted(str(each) for each in found["mismatched_keys"]):
        raise DataError(
            f"model.base={base}: {len(lost):,} weights of a {architecture.model_type!r} model are not in its files, or "
            f"have other shapes, such as {lost[0]}: they would be random; give the config.json of these weights"
        )
    return cast("PreTrainedModel", model)

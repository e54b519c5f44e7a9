"""The model a run starts from: fresh weights, or those of a finished model whose vocabulary is given the mask token.

Llama, Mistral and Qwen2/3 decoders can be a base: their attention is plain causal attention, which
`meap.train.attention` computes, and transformers hands the segments of fine-tuning rows on to it.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from meap.config import ModelConfig, TokenizerConfig
from meap.errors import ConfigError, DataError
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.train.model import NextTokenModel, build_model, llama_config, padded_vocab_size

__all__ = ["base_architecture", "rows_without_mask", "start_model"]

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def start_model(
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    attention: str,
    context: int,
    seed: int,
    weights: Literal["start", "any", "none"] = "start",
) -> NextTokenModel:
    """The model at step 0, on the CPU, in fp32.

    Args:
        config: Section `model` of the configuration.
        tokenizer: The tokenizer of the data.
        attention: Name from `meap.train.attention.choose_attention`.
        context: Positions of the longest segment of a row.
        seed: Seed of fresh weights.
        weights: `start`; `any`, if others will be loaded over them; `none`, if another rank has them (device `meta`).

    Raises:
        ConfigError: The base is none of the supported decoders, or too short for `context`.
        DataError: The base cannot be read.
        MismatchError: The base has another tokenizer than the data.
    """
    if config.base is None:
        architecture = llama_config(
            config, vocab_size=tokenizer.vocab_size, seq_len=context, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
        )
        return build_model(architecture, attention=attention, seed=seed)
    base_config = base_architecture(config.base)
    _require_context(config.base, base_config, context)
    base_tokenizer = load_tokenizer(_like(tokenizer, config.base))
    base_tokenizer.require_fingerprint(tokenizer.fingerprint, owner="the data")
    rows = base_config.vocab_size
    if rows < tokenizer.vocab_size:  # Qwen2.5, for one, has rows to spare
        rows = padded_vocab_size(tokenizer.vocab_size, config.vocab_multiple)
    if weights == "start":
        model = _load(config.base)
        _fit_vocabulary(model, rows, tokenizer.mask_id if base_tokenizer.is_mask_new else None)
    else:
        base_config.vocab_size = rows
        with torch.device("meta" if weights == "none" else "cpu"):
            model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(base_config))
    model.config._attn_implementation = attention
    model.config.use_cache = False
    return NextTokenModel(model)


def rows_without_mask(config: ModelConfig, tokenizer: Tokenizer) -> int:
    """Embedding rows of an export without the mask token: as many as before it was added.

    Raises:
        ConfigError: The mask token was not added by this run, so it is not its to take.
        DataError: The base cannot be read.
    """
    if config.base is None:
        is_mask_new = tokenizer.plain.token_to_id(tokenizer.mask_token) is None
        rows = padded_vocab_size(tokenizer.plain_vocab_size, config.vocab_multiple)
    else:
        base = load_tokenizer(_like(tokenizer, config.base))
        is_mask_new = base.is_mask_new
        rows = int(base_architecture(config.base).vocab_size)
    if not is_mask_new:
        raise ConfigError(
            f"export.keep_mask=false, but {config.base or tokenizer.name} had {tokenizer.mask_token!r} before this "
            "run: use export.keep_mask=true"
        )
    return rows


def base_architecture(base: str) -> PretrainedConfig:
    """Transformers' description of a finished model.

    Args:
        base: Hugging Face folder or hub name.

    Raises:
        ConfigError: It is none of the supported decoders.
        DataError: It cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except Exception as error:
        raise _unreadable(base, error) from error
    if config.model_type not in _MODEL_TYPES:
        raise ConfigError(
            f"model.base={base} is a {config.model_type!r} model: its attention may not be plain causal attention; "
            f"supported are {', '.join(_MODEL_TYPES)}"
        )
    config.dtype = torch.float32
    return config


def _like(tokenizer: Tokenizer, name: str) -> TokenizerConfig:
    return TokenizerConfig(name, tokenizer.bos_token, tokenizer.eos_token, tokenizer.mask_token)


def _load(base: str) -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:
        raise _unreadable(base, error) from error
    return cast("PreTrainedModel", model)


@torch.no_grad()
def _fit_vocabulary(model: PreTrainedModel, rows: int, new_id: int | None) -> None:
    """Give the embedding and the head `rows` rows; rows that no training has seen start as the mean of the others.

    A mean keeps the new token's logit ordinary, where a random row can outdo every real token (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").
    """
    before = int(model.config.vocab_size)
    means = [each.weight[:before].mean(0) for each in _vocabulary_layers(model)]
    if rows != before:
        # Not mean_resizing: it draws from the rows' covariance, which takes minutes and depends on a random state.
        model.resize_token_embeddings(rows, mean_resizing=False)
    new_rows = [*range(before, rows), *([new_id] if new_id is not None and new_id < before else [])]
    for layer, mean in zip(_vocabulary_layers(model), means, strict=True):
        layer.weight[new_rows] = mean


def _vocabulary_layers(model: PreTrainedModel) -> list[Any]:
    """The embedding and the head, which may share their weights."""
    return [model.get_input_embeddings(), model.get_output_embeddings()]


def _require_context(base: str, config: PretrainedConfig, context: int) -> None:
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limits = {"max_position_embeddings": config.max_position_embeddings, "sliding_window": window}
    for name, limit in limits.items():
        if limit is not None and limit < context:
            raise ConfigError(
                f"model.base={base} has {name}={limit}, but segments of the data can take {context} positions: "
                "prepare shorter ones, use sft.layout=separate, or choose another base"
            )


def _unreadable(base: str, error: Exception) -> DataError:
    first_line = next(iter(str(error).strip().splitlines()), "no message")
    return DataError(
        f"model.base={base} cannot be read ({type(error).__name__}: {first_line}): give a folder or hub name with "
        "config.json and safetensors weights; for a gated repository log in with `hf auth login`"
    )

"""The model at step 0, from whatever `model.base` is, with the mask token and the context it needs."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from meap.checkpoints import ModelRecord
from meap.config import ModelConfig, RecipeConfig
from meap.tokenizer import Tokenizer
from meap.train.attention import choose_attention
from meap.train.data import RunData
from meap.train.model import NextTokenModel, build_model, decoder_config, padded_vocab_size
from meap.train.run import Run
from meap.train.start.base import Base, empty_model, recorded_architecture
from meap.train.start.context import with_context
from meap.train.start.hugging_face import open_hugging_face
from meap.train.start.lit_gpt import is_lit_gpt, open_lit_gpt
from meap.train.start.own_run import is_own_run, open_own_run
from meap.train.start.vocabulary import fit_vocabulary

__all__ = ["initial_model", "recorded_model", "start_model"]


def start_model(config: RecipeConfig, run: Run, data: RunData) -> NextTokenModel:
    """The model of a run at step 0; see `initial_model`."""
    return initial_model(
        config.model,
        data.tokenizer,
        attention=choose_attention(config.model.attention, on_gpu=run.machine.on_gpu, bf16=run.machine.bf16),
        context=data.context,
        seed=config.run.seed,
        weights=run.start_weights(config.train),
        continues=data.continues,
    )


def initial_model(
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    attention: str,
    context: int,
    seed: int,
    weights: Literal["start", "none"] = "start",
    continues: ModelRecord | None = None,
) -> NextTokenModel:
    """The model at step 0, or one to load a checkpoint into, on the CPU, in fp32.

    Args:
        config: Section `model` of the configuration.
        tokenizer: The tokenizer of the data.
        attention: Name from `meap.train.attention.choose_attention`.
        context: Positions of the longest segment of a row.
        seed: Seed of fresh weights.
        weights: `start`; `none`, if another rank has them (device `meta`).
        continues: The model of a run that resumes, whose base is then not needed.

    Raises:
        ConfigError: The base is none of the supported decoders, or too short for `context`.
        DataError: The base cannot be read.
        CheckpointError: The base is a checkpoint that is damaged, unsafe or of other sizes.
        MismatchError: The base, or the run that resumes, has another tokenizer than the data.
    """
    device = "meta" if weights == "none" else "cpu"
    if continues is not None:
        tokenizer.require_fingerprint(continues.tokenizer.fingerprint, owner="the run that continues")
        return recorded_model(continues, attention=attention, device=device)
    if config.base is None:
        with torch.device(device):
            model = build_model(_fresh_architecture(config, tokenizer, context), attention=attention, seed=seed)
        model.rows_without_mask = _fresh_rows_without_mask(config, tokenizer)
        return model
    base = _open_base(config, tokenizer)
    architecture = with_context(config.base, base.architecture, context=context, rope_theta=config.base_rope_theta)
    rows = _embedding_rows(config, tokenizer, base)
    if weights == "start":
        model = base.load(architecture)
        new_ids = [tokenizer.mask_id] if base.is_mask_new else []
        new_ids += [] if tokenizer.direction_id is None or base.has_direction else [tokenizer.direction_id]
        fit_vocabulary(model, rows, new_ids)
    else:
        model = empty_model(_with_rows(architecture, rows), device=device)
    trainable = _trainable(model, attention, rows_without_mask=base.rows_without_mask)
    trainable.base_usage = base.usage
    trainable.has_direction = base.has_direction
    return trainable


def recorded_model(record: ModelRecord, *, attention: str, device: str = "cpu") -> NextTokenModel:
    """The model of a run with uninitialised weights, to load those of a checkpoint into."""
    model = empty_model(recorded_architecture(record), device=device)
    return _trainable(model, attention, rows_without_mask=record.rows_without_mask)


def _trainable(model: PreTrainedModel, attention: str, *, rows_without_mask: int | None) -> NextTokenModel:
    model.config._attn_implementation = attention
    model.config.use_cache = False
    trainable = NextTokenModel(model)
    trainable.rows_without_mask = rows_without_mask
    return trainable


def _open_base(config: ModelConfig, tokenizer: Tokenizer) -> Base:
    assert config.base is not None
    if is_lit_gpt(config.base):
        return open_lit_gpt(config, tokenizer)
    return (open_own_run if is_own_run(config.base) else open_hugging_face)(config.base, tokenizer)


def _fresh_architecture(config: ModelConfig, tokenizer: Tokenizer, context: int) -> PretrainedConfig:
    return decoder_config(
        config, vocab_size=tokenizer.vocab_size, seq_len=context, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )


def _embedding_rows(config: ModelConfig, tokenizer: Tokenizer, base: Base) -> int:
    rows = int(base.architecture.vocab_size)
    # Qwen2.5, for one, has rows to spare.
    return rows if rows >= tokenizer.vocab_size else padded_vocab_size(tokenizer.vocab_size, config.vocab_multiple)


def _with_rows(architecture: PretrainedConfig, rows: int) -> PretrainedConfig:
    architecture = copy.deepcopy(architecture)
    architecture.vocab_size = rows
    return architecture


def _fresh_rows_without_mask(config: ModelConfig, tokenizer: Tokenizer) -> int | None:
    is_mask_new = tokenizer.plain.token_to_id(tokenizer.mask_token) is None
    return padded_vocab_size(tokenizer.plain_vocab_size, config.vocab_multiple) if is_mask_new else None

"""The model at step 0, from whatever `model.base` is, with the mask token and the context it needs."""

from __future__ import annotations

import copy
from functools import partial
from typing import Literal

import torch
from transformers import LlamaConfig, PretrainedConfig

from meap.config import ModelConfig, TrainingConfig
from meap.errors import ConfigError
from meap.tokenizer import Tokenizer
from meap.train.model import NextTokenModel, build_model, llama_config, padded_vocab_size
from meap.train.start.base import Base, empty_model
from meap.train.start.context import with_context
from meap.train.start.hugging_face import open_hugging_face
from meap.train.start.lit_gpt import is_lit_gpt, open_lit_gpt
from meap.train.start.own_run import is_own_run, load_run, read_run, require_tokenizer
from meap.train.start.vocabulary import fit_vocabulary

__all__ = ["longest_row", "rows_without_mask", "start_model"]


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
        context: Positions of the longest segment of a row; 0 where only the weights matter.
        seed: Seed of fresh weights.
        weights: `start`; `any`, if others will be loaded over them; `none`, if another rank has them (device `meta`).

    Raises:
        ConfigError: The base is none of the supported decoders, or too short for `context`.
        DataError: The base cannot be read.
        CheckpointError: The base is a checkpoint that is damaged, unsafe or of other sizes.
        MismatchError: The base has another tokenizer than the data.
    """
    if config.base is None:
        with torch.device("meta" if weights == "none" else "cpu"):
            return build_model(_fresh_architecture(config, tokenizer, context), attention=attention, seed=seed)
    base = _open_base(config, tokenizer)
    architecture = with_context(config.base, base.architecture, context=context, rope_theta=config.base_rope_theta)
    rows = _embedding_rows(config, tokenizer, base)
    if weights == "start":
        model = base.load(architecture)
        fit_vocabulary(model, rows, tokenizer.mask_id if base.is_mask_new else None)
    else:
        model = empty_model(_with_rows(architecture, rows), device="meta" if weights == "none" else "cpu")
    model.config._attn_implementation = attention
    model.config.use_cache = False
    return NextTokenModel(model)


def rows_without_mask(config: ModelConfig, tokenizer: Tokenizer) -> int:
    """Embedding rows of an export without the mask token: as many as before it was added.

    Raises:
        ConfigError: The mask token was not added by this run, or by one it started from, so it is not its to take.
        DataError: The base cannot be read.
    """
    rows = _rows_without_mask(config, tokenizer)
    if rows is None:
        raise ConfigError(
            f"export.keep_mask=false, but {config.base or tokenizer.name} had {tokenizer.mask_token!r} before this "
            "run: use export.keep_mask=true"
        )
    return rows


def longest_row(run: TrainingConfig) -> int:
    """What `context` was for a run's model, as far as its architecture depends on it; 0 where that is the base's."""
    return run.data.seq_len if run.model.base is None or run.model.base_rope_theta is not None else 0


def _open_base(config: ModelConfig, tokenizer: Tokenizer) -> Base:
    assert config.base is not None
    if is_lit_gpt(config.base):
        return open_lit_gpt(config, tokenizer)
    if not is_own_run(config.base):
        return open_hugging_face(config.base, tokenizer)
    run = read_run(config.base)
    require_tokenizer(config.base, run, tokenizer)
    return Base(
        _trained_architecture(run, tokenizer),
        is_mask_new=False,
        rows_without_mask=_rows_without_mask(run.model, tokenizer),
        load=partial(load_run, config.base, run),
    )


def _trained_architecture(run: TrainingConfig, tokenizer: Tokenizer) -> PretrainedConfig:
    """The architecture of what `run` trained, which may have started from a base itself."""
    config, context = run.model, longest_row(run)
    if config.base is None:
        return _fresh_architecture(config, tokenizer, context)
    base = _open_base(config, tokenizer)
    architecture = with_context(config.base, base.architecture, context=context, rope_theta=config.base_rope_theta)
    return _with_rows(architecture, _embedding_rows(config, tokenizer, base))


def _fresh_architecture(config: ModelConfig, tokenizer: Tokenizer, context: int) -> LlamaConfig:
    return llama_config(
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


def _rows_without_mask(config: ModelConfig, tokenizer: Tokenizer) -> int | None:
    if config.base is not None:
        return _open_base(config, tokenizer).rows_without_mask
    is_mask_new = tokenizer.plain.token_to_id(tokenizer.mask_token) is None
    return padded_vocab_size(tokenizer.plain_vocab_size, config.vocab_multiple) if is_mask_new else None

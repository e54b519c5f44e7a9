"""The model at step 0, from whatever `model.base` is, with the mask token and the context it needs."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from meap.checkpoints import ModelRecord
from meap.config import LoraConfig, ModelConfig, RecipeConfig
from meap.errors import MismatchError
from meap.tokenizer import Tokenizer
from meap.train.attention import choose_attention
from meap.train.data import RunData
from meap.train.lora import add_adapters, fingerprint_weights, freeze
from meap.train.model import NextTokenModel, build_model, decoder_config, padded_vocab_size
from meap.train.run import Run
from meap.train.start.architecture import fit_architecture, read_architecture, require_positions
from meap.train.start.base import Base, empty_model, recorded_architecture
from meap.train.start.context import with_context
from meap.train.start.hugging_face import open_hugging_face
from meap.train.start.lit_gpt import is_lit_gpt, open_lit_gpt
from meap.train.start.own_run import is_own_run, open_own_run
from meap.train.start.vocabulary import fit_vocabulary
from meap.usage import Usage

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
        lora=config.lora,
        frozen=torch.bfloat16 if run.machine.bf16 else torch.float32,
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
    lora: LoraConfig | None = None,
    frozen: torch.dtype = torch.float32,
) -> NextTokenModel:
    """The model at step 0, or one to load a checkpoint into, on the CPU, in fp32 but for what is frozen.

    Args:
        config: Section `model` of the configuration.
        tokenizer: The tokenizer of the data.
        attention: Name from `meap.train.attention.choose_attention`.
        context: Positions of the longest segment of a row.
        seed: Seed of fresh weights.
        weights: `start`; `none`, if another rank has them (device `meta`).
        continues: The model of a run that resumes, whose base is then not needed, unless it is frozen.
        lora: Adapters, where they are trained in place of all weights.
        frozen: Type of weights that are not trained.

    Raises:
        ConfigError: The base, or the configuration, is too short for `context`, or needs code of its own.
        DataError: The base cannot be read.
        CheckpointError: The base is a checkpoint that is damaged, unsafe or of other sizes.
        MismatchError: The base, or the run that resumes, has another tokenizer than the data; or a frozen base is not
            the one the run began with.
    """
    device = "meta" if weights == "none" else "cpu"
    if continues is not None:
        tokenizer.require_fingerprint(continues.tokenizer.fingerprint, owner="the run that continues")
    if continues is not None and continues.base_fingerprint is None:
        return recorded_model(continues, attention=attention, device=device)
    if config.base is None:
        with torch.device(device):
            model = _fresh_model(config, tokenizer, attention=attention, context=context, seed=seed)
        model.rows_without_mask = _fresh_rows_without_mask(config, tokenizer)
        return model
    base = _open_base(config, tokenizer)
    architecture = with_context(config.base, base.architecture, context=context, rope_theta=config.base_rope_theta)
    rows = _embedding_rows(config, tokenizer, base)
    fingerprint = None
    if weights == "start":
        model = base.load(architecture)
        if lora is not None and lora.rank:
            fingerprint = fingerprint_weights(model)
            _require_same_base(config.base, fingerprint, continues)
        new_ids = [tokenizer.mask_id] if base.is_mask_new else []
        new_ids += [] if tokenizer.direction_id is None or base.has_direction else [tokenizer.direction_id]
        fit_vocabulary(model, rows, new_ids)
    else:
        model = empty_model(_with_rows(architecture, rows), device=device)
    trainable = _trainable(model, attention, rows_without_mask=base.rows_without_mask, usage=base.usage)
    trainable.has_direction = base.has_direction
    if lora is not None and lora.rank:
        add_adapters(trainable, lora, mask_id=tokenizer.mask_id, seed=seed)
        freeze(trainable, frozen)
        trainable.base_fingerprint, trainable.base_dtype = fingerprint, "bf16" if frozen == torch.bfloat16 else "fp32"
    return trainable


def recorded_model(record: ModelRecord, *, attention: str, device: str = "cpu") -> NextTokenModel:
    """The model of a run with uninitialised weights, to load those of a checkpoint into."""
    model = empty_model(recorded_architecture(record), device=device)
    return _trainable(model, attention, rows_without_mask=record.rows_without_mask, usage=record.usage)


def _trainable(
    model: PreTrainedModel, attention: str, *, rows_without_mask: int | None, usage: Usage
) -> NextTokenModel:
    model.config._attn_implementation = attention
    model.config.use_cache = False
    trainable = NextTokenModel(model)
    trainable.rows_without_mask = rows_without_mask
    trainable.base_usage = usage
    return trainable


def _require_same_base(base: str, fingerprint: str, continues: ModelRecord | None) -> None:
    if continues is not None and fingerprint != continues.base_fingerprint:
        raise MismatchError(
            f"model.base={base} has other weights than the base that this run's adapters were trained beside "
            f"({fingerprint}, recorded {continues.base_fingerprint}): give that one, wherever it is now, or give this "
            "run another run.name"
        )


def _open_base(config: ModelConfig, tokenizer: Tokenizer) -> Base:
    assert config.base is not None
    if is_lit_gpt(config.base):
        return open_lit_gpt(config, tokenizer)
    return (open_own_run if is_own_run(config.base) else open_hugging_face)(config.base, tokenizer)


def _fresh_model(
    config: ModelConfig, tokenizer: Tokenizer, *, attention: str, context: int, seed: int
) -> NextTokenModel:
    if config.config is None:
        architecture = decoder_config(
            config, vocab_size=tokenizer.vocab_size, seq_len=context, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
        )
        return build_model(architecture, attention=attention, seed=seed)
    rows = padded_vocab_size(tokenizer.vocab_size, config.vocab_multiple)
    stated = read_architecture("model.config", config.config)
    require_positions(f"model.config={config.config}", stated, context)
    architecture = fit_architecture(stated, rows=rows, context=context, tokenizer=tokenizer)
    return build_model(architecture, attention=attention, seed=seed, weights="own")


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

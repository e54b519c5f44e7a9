"""The model of a run that trained adapters, for export: its base read again, with room for a checkpoint's adapters."""

from __future__ import annotations

import dataclasses

import torch

from meap.checkpoints import ModelRecord
from meap.config import RecipeConfig
from meap.errors import ConfigError
from meap.tokenizer import Tokenizer
from meap.train.lora import freeze
from meap.train.model import NextTokenModel
from meap.train.start.lit_gpt import is_lit_gpt
from meap.train.start.model import initial_model
from meap.train.start.own_run import is_own_run

__all__ = ["adapted_model", "require_exportable"]


def adapted_model(
    run: RecipeConfig, record: ModelRecord, tokenizer: Tokenizer, *, attention: str, as_trained: bool
) -> NextTokenModel:
    """The frozen base of a run, and adapters to load those of a checkpoint into, in fp32.

    Args:
        run: The configuration of the run; its `model.base` is read.
        record: What its checkpoint says of the model.
        tokenizer: The tokenizer of the run.
        attention: Name from `meap.train.attention.choose_attention`.
        as_trained: Whether the base is rounded to the type that the run has computed with.

    Raises:
        MeapError: The base cannot be read, or is not the one the run began with.
    """
    context = int(record.architecture["max_position_embeddings"]) if run.model.base_rope_theta else 1
    model = initial_model(
        run.model, tokenizer, attention=attention, context=context, seed=0, continues=record, lora=run.lora
    )
    if as_trained and record.base_dtype == "bf16":
        freeze(model, torch.bfloat16, rounded_only=True)
    return model


def require_exportable(wanted: RecipeConfig, run: RecipeConfig, record: ModelRecord) -> RecipeConfig:
    """The run's configuration, with the base where it is now.

    Args:
        wanted: The configuration of the export.
        run: That of the run, as its checkpoint records it.
        record: What the checkpoint says of the model.

    Raises:
        ConfigError: `export.lora=adapter`, but there are no adapters, or none that peft could load beside the base.
    """
    as_adapter, base = wanted.export.lora == "adapter", wanted.model.base or run.model.base
    if record.base_fingerprint is None:
        if as_adapter:
            raise ConfigError(
                f"export.lora=adapter, but run {run.run.name!r} trained all weights: use export.lora=merge"
            )
        return run
    if as_adapter and (is_own_run(str(base)) or is_lit_gpt(str(base)) or run.model.base_rope_theta):
        raise ConfigError(
            f"export.lora=adapter needs a base that transformers loads as it is, but model.base={base} is a run, a "
            ".pth, or has another model.base_rope_theta in training: use export.lora=merge"
        )
    return dataclasses.replace(run, model=dataclasses.replace(run.model, base=base))

"""A finished model that a run starts from, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from meap.checkpoints import ModelRecord
from meap.config.model import ARCHITECTURES
from meap.errors import CheckpointError, ConfigError, first_line
from meap.usage import Usage

__all__ = ["Base", "empty_model", "recorded_architecture", "require_supported"]


@dataclass(frozen=True)
class Base:
    """A finished model."""

    architecture: PretrainedConfig
    """Transformers' description of it, with its own vocabulary and context."""
    is_mask_new: bool
    """Whether it was trained without the mask token."""
    rows_without_mask: int | None
    """Embedding rows it had, or has, before our training added the mask token; None where that came from elsewhere."""
    load: Callable[[PretrainedConfig], PreTrainedModel]
    """Loads its weights, in fp32 on the CPU, into a model of this architecture, or of it with a longer context."""
    has_direction: bool = False
    """Whether it was trained with the token that begins reversed rows."""
    usage: Usage = field(default_factory=Usage)
    """How it is prompted."""


def require_supported(base: str, model_type: str) -> None:
    """Raise `ConfigError` unless models of `model_type` are Llama-like decoders with plain causal attention."""
    if model_type not in ARCHITECTURES:
        raise ConfigError(
            f"model.base={base} is a {model_type!r} model: its attention may not be plain causal attention; "
            f"supported are {', '.join(ARCHITECTURES)}"
        )


def recorded_architecture(record: ModelRecord) -> PretrainedConfig:
    """The architecture of what a run trained.

    Raises:
        CheckpointError: This transformers does not know it.
    """
    values = dict(record.architecture)
    try:
        return AutoConfig.for_model(str(values.pop("model_type", None)), **values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"the architecture in the checkpoint's record is not known here ({first_line(error)}): install the "
            "transformers version that its `versions` name"
        ) from error


def empty_model(architecture: PretrainedConfig, *, device: str = "cpu") -> PreTrainedModel:
    """A model with uninitialised weights, in fp32; on `meta` they take no memory.

    Initialising weights that are about to be overwritten would take a core 7 s at 0.5B parameters; this takes 0.1 s.
    """
    architecture.dtype = torch.float32
    with torch.device("meta"):
        model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(architecture))
    if device == "meta":
        return model
    model.to_empty(device=torch.device(device))
    # Buffers are not in checkpoints, and `to_empty` has split tied weights.
    backbone: Any = model.model
    backbone.rotary_emb = type(backbone.rotary_emb)(architecture)
    model.tie_weights()
    return model

"""A finished model that a run starts from, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from meap.checkpoints import ModelRecord
from meap.errors import CheckpointError, first_line
from meap.model_sizes import require_allowed_sizes
from meap.usage import Usage

__all__ = ["Base", "empty_model", "recorded_architecture"]


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


def recorded_architecture(record: ModelRecord) -> PretrainedConfig:
    """The architecture of what a run trained.

    Raises:
        CheckpointError: This transformers does not know it, or it states sizes that no model has.
    """
    require_allowed_sizes("the checkpoint's record", record.architecture)
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
    with torch.device(device), no_init_weights():
        model = cast("PreTrainedModel", AutoModelForCausalLM.from_config(architecture))
    model.tie_weights()
    return model

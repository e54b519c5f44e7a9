"""The architecture of a config.json, and the same with the vocabulary, the context and the ids of a run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from meap.errors import ConfigError, DataError, first_line
from meap.model_sizes import require_stated_sizes
from meap.places.near import describe_missing, is_missing, nearest
from meap.rope import require_same_rope
from meap.tokenizer import Tokenizer

__all__ = ["fit_architecture", "kinds_of_rope", "read_architecture", "require_positions", "unreadable"]

_WANTED = {
    "model.base": "a folder or hub name with config.json and safetensors weights, the folder of a run, one of its "
    "checkpoints, or a .pth of the official code",
    "model.config": "a folder with config.json, the file itself, or a hub name",
}


def read_architecture(key: str, name: str) -> PretrainedConfig:
    """What the config.json of a folder, of a name on the hub, or at this path says.

    Args:
        key: `model.base` or `model.config`.
        name: Its value.

    Raises:
        ConfigError: It needs code of its own, which is never run.
        DataError: It cannot be read.
        CheckpointError: It is read with another RoPE than it states, or states sizes that its weights cannot have.
    """
    if is_missing(name):
        raise DataError(f"{key}={name} {describe_missing(Path(name), remedy=f'give {_WANTED[key]}')}")
    require_stated_sizes(f"{key}={name}", name, fresh=key == "model.config")
    try:
        stored, _ = PretrainedConfig.get_config_dict(name)
        architecture = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ConfigError(
                f"{key}={name} needs code that comes with the model, which is never run: choose an architecture that "
                "transformers itself has"
            ) from error
        raise unreadable(key, name, error) from error
    require_same_rope(f"{key}={name}", stored, getattr(architecture, "rope_parameters", None))
    return architecture


def unreadable(key: str, name: str, error: Exception) -> DataError:
    """The error that says what is wanted instead."""
    question = nearest(Path(name))
    return DataError(
        f"{key}={name} cannot be read ({type(error).__name__}: {first_line(error)}): "
        f"{question}{' Or ' if question else ''}give {_WANTED[key]}; for a gated repository log in with `hf auth login`"
    )


def fit_architecture(
    architecture: PretrainedConfig, *, rows: int, context: int, tokenizer: Tokenizer | None = None
) -> PretrainedConfig:
    """The architecture for fresh weights: everything that the data decide is the data's.

    Args:
        architecture: As its config.json has it; stays as it is.
        rows: Embedding rows.
        context: Positions of a row, the longest from now on. Where RoPE is scaled, the configuration's own longest
            stays: its scaling is made for that.
        tokenizer: Whose ids to take; None leaves them.
    """
    fitted = copy.deepcopy(architecture)
    fitted.vocab_size, fitted.dtype, fitted.use_cache = rows, torch.float32, False
    if tokenizer is not None:
        fitted.bos_token_id, fitted.eos_token_id = tokenizer.bos_id, tokenizer.eos_id
    fitted.pad_token_id = None  # its row of the embedding would be zeros, and never learn
    vars(fitted).pop("quantization_config", None)  # of the weights that are not taken
    if getattr(fitted, "max_position_embeddings", None) is not None and not _scalings(fitted):
        fitted.max_position_embeddings = context
    return fitted


def require_positions(source: str, architecture: PretrainedConfig, context: int) -> None:
    """Raise `ConfigError` if RoPE is scaled for fewer than `context` positions; `source` is the model and its key."""
    longest, scalings = getattr(architecture, "max_position_embeddings", None), _scalings(architecture)
    if longest is not None and scalings and longest < context:
        raise ConfigError(
            f"{source} has max_position_embeddings={longest} with scaled RoPE ({', '.join(sorted(scalings))}), but "
            f"rows have {context} positions: prepare shorter ones, or change max_position_embeddings or the scaling in "
            "a copy of its config.json"
        )


def kinds_of_rope(architecture: PretrainedConfig) -> set[str]:
    """The scalings of RoPE, of which Gemma 3 has one for each kind of layer; empty without RoPE."""
    parameters: dict[str, Any] = getattr(architecture, "rope_parameters", None) or {}
    each = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return {str(one.get("rope_type", "default")) for one in each if "rope_theta" in one}


def _scalings(architecture: PretrainedConfig) -> set[str]:
    return kinds_of_rope(architecture) - {"default"}

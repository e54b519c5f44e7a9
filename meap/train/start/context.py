"""The positions a finished model can take, and how they are stretched (section 4.1.2 of the paper)."""

from __future__ import annotations

import copy

from transformers import PretrainedConfig

from meap.errors import ConfigError

__all__ = ["with_context"]


def with_context(
    base: str, architecture: PretrainedConfig, *, context: int, rope_theta: float | None
) -> PretrainedConfig:
    """The architecture for rows of `context` positions.

    Args:
        base: `model.base`, for messages.
        architecture: Of the finished model; stays as it is.
        context: Positions that must fit.
        rope_theta: A new RoPE theta, with which `context` positions become the longest; None leaves both as they are.

    Raises:
        ConfigError: They do not fit, or the model has RoPE scaling of its own.
    """
    if rope_theta is None:
        limit = getattr(architecture, "max_position_embeddings", None)
        if limit is not None and limit < context:
            raise ConfigError(
                f"model.base={base} has max_position_embeddings={limit}, but segments of the data can take {context} "
                "positions: prepare shorter ones (without max_length, they fit the model), use sft.layout=separate, "
                "choose another base, or extend its context by model.base_rope_theta (640000 for 65,536 positions)"
            )
        return architecture
    parameters = getattr(architecture, "rope_parameters", None) or {}
    if "rope_theta" not in parameters or parameters.get("rope_type", "default") != "default":
        has = "scales its RoPE already, or has one for each kind of layer" if parameters else "has no RoPE"
        raise ConfigError(
            f"model.base_rope_theta={rope_theta:g}, but model.base={base} {has} ({parameters}): leave base_rope_theta "
            "unset, or choose a base with plain RoPE"
        )
    extended = copy.deepcopy(architecture)
    extended.rope_parameters["rope_theta"] = rope_theta
    extended.max_position_embeddings = context
    return extended

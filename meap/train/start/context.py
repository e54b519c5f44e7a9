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
    window = (
        getattr(architecture, "sliding_window", None) if getattr(architecture, "use_sliding_window", True) else None
    )
    limits = {"sliding_window": window}
    if rope_theta is None:
        limits["max_position_embeddings"] = architecture.max_position_embeddings
    for name, limit in limits.items():
        if limit is not None and limit < context:
            raise ConfigError(
                f"model.base={base} has {name}={limit}, but segments of the data can take {context} positions: "
                "prepare shorter ones (without max_length, they fit the model), use sft.layout=separate, choose "
                "another base, or extend its context by model.base_rope_theta (640000 for 65,536 positions)"
            )
    if rope_theta is None:
        return architecture
    if architecture.rope_parameters.get("rope_type", "default") != "default":
        raise ConfigError(
            f"model.base_rope_theta={rope_theta:g}, but model.base={base} scales its RoPE already "
            f"({architecture.rope_parameters}): leave base_rope_theta unset, or choose a base with plain RoPE"
        )
    extended = copy.deepcopy(architecture)
    extended.rope_parameters["rope_theta"] = rope_theta
    extended.max_position_embeddings = context
    return extended

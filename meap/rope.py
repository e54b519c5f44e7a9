"""RoPE in a model's config.json, as transformers 4 and 5 write it.

    transformers 4    "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, ...} or null
    transformers 5    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, ...}

Version 4 ignores `rope_parameters`: it reads theta as 10,000, its default, in a model that version 5 saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meap.errors import CheckpointError

__all__ = ["former_rope", "require_same_rope"]


def former_rope(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of transformers 4 for version 5's `parameters`; config.json holds both.

    Where each kind of layer has its own (Gemma 3), version 4 has a name for the theta of sliding layers.
    """
    if not parameters:
        return {}
    if "rope_theta" not in parameters:
        return former_rope(parameters["full_attention"]) | {
            "rope_local_base_freq": parameters["sliding_attention"]["rope_theta"]
        }
    scaling = {name: value for name, value in parameters.items() if name != "rope_theta"}
    is_plain = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": parameters["rope_theta"], "rope_scaling": None if is_plain else scaling}


def require_same_rope(model: str, stored: Mapping[str, Any], parameters: Mapping[str, Any] | None) -> None:
    """Raise `CheckpointError` unless a model is read with the RoPE that its config.json states.

    Args:
        model: The model and its key, for the error.
        stored: The contents of its config.json.
        parameters: `rope_parameters` of the configuration that transformers loaded; None if it has none.
    """
    if parameters is None or "rope_theta" not in parameters:  # no RoPE, or one for each kind of layer
        return
    read = float(parameters["rope_theta"])
    both = (stored, stored.get("rope_parameters") or {})
    stated = {float(each["rope_theta"]) for each in both if each.get("rope_theta") is not None}
    if stated - {read}:
        raise CheckpointError(
            f"{model}: config.json states RoPE theta {' and '.join(f'{theta:,.0f}' for theta in sorted(stated))}, "
            f"but transformers reads {read:,.0f}: make rope_theta and rope_parameters agree"
        )

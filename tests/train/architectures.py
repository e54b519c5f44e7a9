"""Small configurations of decoders that are nobody's own, with what is particular to each of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from meap.config import ModelConfig

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # logits that all but vanish would hide a difference
}
PARTICULAR: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "mistral-window": {"sliding_window": 6},
    "olmo2": {},
    "gemma": {"head_dim": 16, "num_key_value_heads": 1},
    "gemma2": {"head_dim": 16, "sliding_window": 6, "attn_logit_softcapping": None, "final_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 6, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "smollm3": {"no_rope_layers": [1, 1, 0], "pad_token_id": None},
    "phi3": {"sliding_window": 6, "pad_token_id": None},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
}
NAMES = tuple(PARTICULAR)


def tiny(name: str, **more: Any) -> PretrainedConfig:
    """The small configuration of this name."""
    return AutoConfig.for_model(name.partition("-")[0], **(SIZES | PARTICULAR[name] | more))


def config_alone(path: Path, *, key: str = "config") -> list[str]:
    """Overrides that take the architecture of `path`, and every size of the small configuration of tests away."""
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    defaults = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    return [f"model.{key}={path}", *(f"model.{name}={defaults[name]}" for name in sizes)]

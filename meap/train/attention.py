"""Causal attention for packed rows, as functions that transformers calls by name.

Rows are packed without padding and attention is not reset at document borders, so the mask is always the plain causal
one. Transformers' own ``sdpa`` path builds a dense (B, 1, T, T) mask in training and repeats keys and values, which
rules out the flash kernels. Functions registered under other names are handed no mask at all.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from meap.errors import ConfigError

__all__ = ["causal_flash_attention", "causal_sdpa", "choose_attention"]

_SDPA_NAME = "meap_sdpa"
_FLASH_NAME = "meap_flash_attention_2"


def causal_sdpa(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal grouped-query attention by torch's SDPA; returns (B, T, H, D) and no weights."""
    _require_no_mask(attention_mask)
    output = F.scaled_dot_product_attention(
        query_BHTD, key_BHTD, value_BHTD, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


def causal_flash_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal grouped-query attention by flash-attention 2; returns (B, T, H, D) and no weights."""
    from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]

    _require_no_mask(attention_mask)
    query, key, value = (each.transpose(1, 2) for each in (query_BHTD, key_BHTD, value_BHTD))
    return flash_attn_func(query, key, value, dropout_p=dropout, softmax_scale=scaling, causal=True), None


def choose_attention(wanted: str, *, on_gpu: bool, bf16: bool) -> str:
    """Register both functions and return the name for `model.attention`.

    Args:
        wanted: ``auto``, ``sdpa`` or ``flash_attention_2``.
        on_gpu: Whether the model runs on CUDA.
        bf16: Whether it computes in bf16, which flash-attention needs.

    Raises:
        ConfigError: flash-attention is asked for where it cannot run.
    """
    AttentionInterface.register(_SDPA_NAME, causal_sdpa)
    AttentionInterface.register(_FLASH_NAME, causal_flash_attention)
    installed = importlib.util.find_spec("flash_attn") is not None
    runs_here = installed and on_gpu and bf16
    if wanted == "flash_attention_2" and not runs_here:
        raise ConfigError(
            "model.attention=flash_attention_2 needs the flash-attn package "
            f"({'installed' if installed else 'not installed: pip install meap[gpu]'}), a CUDA device "
            f"({'found' if on_gpu else 'not found'}) and train.precision=amp_bf16: choose model.attention=auto"
        )
    return _FLASH_NAME if runs_here and wanted != "sdpa" else _SDPA_NAME


def _require_no_mask(attention_mask: torch.Tensor | None) -> None:
    if attention_mask is not None:
        raise ValueError("packed rows take no attention mask: padded batches need attn_implementation='sdpa'")

"""FLOPs per token of training, and the peak of a device: the two halves of MFU.

Two conventions are in use, and a figure needs to name its own: PaLM's (Chowdhery et al. 2022, appendix B) counts
attention as if every position saw the whole row; counting causal attention halves that part. Both leave out the
embedding's lookup, norms, softmax and whatever activation checkpointing computes again.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["matmul_parameters", "peak_flops_per_second", "training_flops_per_token"]

_TERA = 1e12
_PEAKS = {
    # Vendors' data sheets: bf16 without sparsity. Of several that match, the first holds.
    r"(H100|H200) NVL": 835,
    r"H100 PCIe": 756,
    r"H100|H200|H800|GH200": 989,
    r"H20": 148,
    r"GB200": 2_500,
    r"B200": 2_250,
    r"A100|A800": 312,
    r"L40S": 362,
    r"L40": 181,
    r"L4": 121,
    r"A40": 150,
    r"A10G": 70,
    r"A10": 125,
    r"RTX A6000": 155,
    r"RTX 4090": 165,
    r"RTX 3090": 71,
    r"MI300X": 1_307,
}
"""Part of a device's name, between word borders, and its TFLOP/s."""


def matmul_parameters(config: PretrainedConfig) -> int:
    """Weights that every token is multiplied with: all matrices but embeddings, and the head, tied or not.

    Args:
        config: Any decoder of transformers without experts.
    """
    import torch  # here, so that preflight, which counts checkpoints only, need not wait for it
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    multiplied = (module for module in model.modules() if not isinstance(module, torch.nn.Embedding))
    return sum(weight.numel() for each in multiplied for weight in each.parameters(recurse=False) if weight.ndim > 1)


def training_flops_per_token(config: PretrainedConfig, *, context: int, causal: bool, frozen: bool = False) -> float:
    """Floating-point operations of forward and backward pass, per token.

    Six per weight (a multiplication and an addition, forward once, backward twice), and as much for the products of
    queries with keys and of attention with values.

    Args:
        config: Any decoder of transformers without experts.
        context: Tokens of a row.
        causal: Count only what a causal mask lets through, half of the pairs; False is PaLM's convention. A layer with
            a shorter sliding window counts that many keys.
        frozen: Whether weights get no gradient, which is a third of their work; adapters are not counted.
    """
    width = config.num_attention_heads * _head_size(config)
    keys_of_layers = sum(_keys_per_query(window, context, causal=causal) for window in _windows(config))
    return (4.0 if frozen else 6.0) * matmul_parameters(config) + 6.0 * 2 * width * keys_of_layers


def _windows(config: PretrainedConfig) -> list[int | None]:
    """Of each layer; None where it attends to all of a row."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _keys_per_query(window: int | None, context: int, *, causal: bool) -> float:
    if window is None or window >= context:
        return context / 2 if causal else context
    return window * (1 - window / (2 * context)) if causal else window


def peak_flops_per_second(device_name: str) -> float | None:
    """Dense bf16 peak of a device, by the name torch gives it; None where it is not known (a CPU, say)."""
    for pattern, tera in _PEAKS.items():
        if re.search(rf"\b(?:{pattern})\b", device_name):
            return tera * _TERA
    return None


def _head_size(config: PretrainedConfig) -> int:
    # Qwen3 and some Mistrals choose a head's size freely; others do not have the key, or have it unset.
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

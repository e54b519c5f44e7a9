"""Attention weights of any causal model of transformers, reduced layer by layer.

Weights of all layers at once would be L x H x T x T: 51 GB for 24 layers of 32 heads at 4,096 tokens. Here a hook on
each layer's attention module adds them to a few sums by key and releases them. Rows are read in chunks of queries, so
that one layer's weights have at most `_NUM_WEIGHTS` entries; the keys of earlier chunks are in the cache.

Only transformers' ``eager`` attention returns weights. They include soft caps, windows and scalings, which a
recomputation from queries and keys would have to repeat. The model is switched to it and to float32 while it is read,
and back afterwards: bf16 weights have three digits, too few for differences of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from meap.errors import CheckpointError
from meap.evals.lm import Attention, Reading

__all__ = ["WeightSums", "read_attention"]

_NUM_WEIGHTS = 1 << 26
"""Most attention weights that one layer computes at a time (256 MiB), whatever the length."""
_TOLERANCE = 1e-3
"""Largest deviation from 1 of the sum of a query's weights."""


class WeightSums:
    """The sums of `Attention` for one layer and a batch of rows of equal length, chunk by chunk.

    Args:
        num_tokens: Length of the rows.
        asking: `Reading.asking` of each row.
        device: Device of the weights.
    """

    def __init__(self, num_tokens: int, asking: Sequence[tuple[int, int]], device: torch.device) -> None:
        self._num_tokens = num_tokens
        self._asking = torch.tensor(asking, device=device)[:, :, None]
        shape = (len(asking), num_tokens)
        self._later, self._own, self._relative, self._squares, self._last, self._asked = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(6)
        )
        self._furthest_from_1 = torch.zeros((), dtype=torch.float64, device=device)
        self.num_queries = 0

    def add(self, weights_BHQK: torch.Tensor) -> None:
        """Add the weights of the next Q queries; keys are the last K tokens up to the last of these queries.

        Where the cache of a layer with a window has dropped the first tokens, K is less than the tokens seen.
        """
        num_queries, num_keys = weights_BHQK.shape[-2:]
        first, end = self.num_queries, self.num_queries + num_queries
        self.num_queries = end
        mean_BQK, squares_BQK = (
            torch.zeros_like(weights_BHQK[:, 0], dtype=torch.float32),
            torch.zeros_like(weights_BHQK[:, 0], dtype=torch.float32),
        )
        # One head at a time: a square of all of them would be as large as they are.
        for head_BQK in weights_BHQK.float().unbind(1):
            mean_BQK += head_BQK
            squares_BQK.addcmul_(head_BQK, head_BQK)
        mean_BQK, squares_BQK = (each.double() / weights_BHQK.shape[1] for each in (mean_BQK, squares_BQK))
        sums_BQ = mean_BQK.sum(-1)
        # A comparison that NaN fails too.
        deviation = (sums_BQ - 1).abs().max()
        self._furthest_from_1 = torch.where(deviation <= self._furthest_from_1, self._furthest_from_1, deviation)

        device = weights_BHQK.device
        query_Q1 = torch.arange(first, end, device=device)[:, None]
        key_1K = torch.arange(end - num_keys, end, device=device)[None]
        keys = slice(end - num_keys, end)
        later_QK = (query_Q1 > key_1K).double()
        self._later[:, keys] += (mean_BQK * later_QK).sum(1)
        self._relative[:, keys] += (mean_BQK * later_QK * (query_Q1 + 1)).sum(1)
        self._squares[:, keys] += (squares_BQK * later_QK).sum(1)
        self._own[:, keys] += (mean_BQK * (query_Q1 == key_1K)).sum(1)
        first_B1, beyond_B1 = self._asking[:, 0], self._asking[:, 1]
        asks_BQ = ((query_Q1[:, 0] >= first_B1) & (query_Q1[:, 0] < beyond_B1)).double()
        asks_BQ /= (beyond_B1 - first_B1).clamp(min=1)
        self._asked[:, keys] += (mean_BQK * asks_BQ[:, :, None]).sum(1)
        if end == self._num_tokens:
            self._last[:, keys] = mean_BQK[:, -1]

    @property
    def furthest_from_1(self) -> float:
        """Largest deviation from 1 of the sum of a query's weights; NaN if some are not finite."""
        return float(self._furthest_from_1)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The sums (B, T) in the order of the fields of `Attention`."""
        found = (self._later, self._own, self._relative, self._squares, self._last, self._asked)
        return tuple(each.cpu().numpy() for each in found)


def read_attention(
    model: PreTrainedModel, readings: Sequence[Reading], *, name: str, batch_tokens: int
) -> list[Attention]:
    """Attention in each row, in order.

    Args:
        model: The model, on its device.
        readings: Rows that fit its context; those of equal length may share a pass.
        name: Name of the model in errors.
        batch_tokens: Most tokens per forward pass of more than one row.

    Raises:
        CheckpointError: The model's attention modules return no weights, or weights that do not sum to 1.
    """
    results: dict[int, Attention] = {}
    order = sorted(range(len(readings)), key=lambda index: -len(readings[index].ids))
    with _weights_shown(model, name):
        for num_tokens, some in groupby(order, lambda index: len(readings[index].ids)):
            alike = list(some)
            entries = _num_heads(model) * num_tokens**2
            size = max(1, min(batch_tokens // num_tokens, _NUM_WEIGHTS // entries))
            for start in range(0, len(alike), size):
                batch = alike[start : start + size]
                found = _read_batch(model, [readings[index] for index in batch], name)
                results |= dict(zip(batch, found, strict=True))
    return [results[index] for index in range(len(readings))]


@torch.inference_mode()
def _read_batch(model: PreTrainedModel, readings: Sequence[Reading], name: str) -> list[Attention]:
    tokens_BT = torch.from_numpy(np.stack([np.asarray(each.ids, np.int64) for each in readings])).to(model.device)
    num_rows, num_tokens = tokens_BT.shape
    modules = _attention_modules(model)
    asking = [each.asking for each in readings]
    layers = [WeightSums(num_tokens, asking, tokens_BT.device) for _ in modules]
    hooks = [
        module.register_forward_hook(_add_to(sums, num_rows)) for module, sums in zip(modules, layers, strict=True)
    ]
    chunk = max(1, min(num_tokens, _NUM_WEIGHTS // (_num_heads(model) * num_rows * num_tokens)))
    try:
        cache: Any = None
        for start in range(0, num_tokens, chunk):
            # Without its head: no logits are needed.
            output = model.base_model(
                input_ids=tokens_BT[:, start : start + chunk], cache=cache, use_cache=chunk < num_tokens
            )
            cache = getattr(output, "cache", None)
    finally:
        for hook in hooks:
            hook.remove()
    _require_weights(layers, model, num_tokens, name)
    by_layer = [sums.arrays() for sums in layers]
    return [
        Attention(*(np.stack([arrays[part][row] for arrays in by_layer]) for part in range(len(by_layer[0]))))
        for row in range(num_rows)
    ]


def _num_heads(model: PreTrainedModel) -> int:
    """Heads of a layer; 1 for a state-space model, which is refused later, since it returns no weights."""
    return getattr(model.config, "num_attention_heads", 1)


def _add_to(sums: WeightSums, num_rows: int) -> Any:
    def hook(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if isinstance(weights, torch.Tensor) and weights.ndim == 4 and len(weights) == num_rows:
            sums.add(weights)

    return hook


def _attention_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The innermost modules named attention, which return weights as their second output."""
    named = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    outer = {id(module) for module in named for inner in module.modules() if inner is not module and inner in named}
    return [module for module in named if id(module) not in outer]


def _require_weights(layers: Sequence[WeightSums], model: PreTrainedModel, num_tokens: int, name: str) -> None:
    num_layers = int(model.config.get_text_config().num_hidden_layers)
    seen = sum(sums.num_queries == num_tokens for sums in layers)
    if seen != num_layers or len(layers) != num_layers:
        raise _unreadable(model, name, f"returns the attention weights of {seen} of its {num_layers} layers")
    furthest = max(sums.furthest_from_1 if np.isfinite(sums.furthest_from_1) else np.inf for sums in layers)
    if not np.isfinite(furthest):
        raise CheckpointError(
            f"model {name} computes attention that is not finite: its weights are damaged or its training diverged"
        )
    if furthest > _TOLERANCE:
        raise _unreadable(model, name, f"has attention weights whose sum is {furthest:.3g} away from 1")


def _unreadable(model: PreTrainedModel, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"model {name} ({type(model).__name__}) {what}: every layer must have softmax attention "
        "over tokens, which transformers computes as eager; leave attention_decay and attention_segments out of tasks"
    )


@contextmanager
def _weights_shown(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Eager attention and float32 parameters within the block; both are restored afterwards, to the last bit."""
    before = str(model.config._attn_implementation)
    low = [each for each in model.parameters() if each.dtype in (torch.bfloat16, torch.float16)]
    kept = [each.data for each in low]
    model.set_attn_implementation("eager")
    if model.config._attn_implementation != "eager":
        raise _unreadable(model, name, "does not support eager attention")
    try:
        for each in low:
            each.data = each.data.float()
        yield
    finally:
        for each, data in zip(low, kept, strict=True):
            each.data = data
        model.set_attn_implementation(before)

"""Causal attention for packed rows, as functions that transformers calls by name.

Pre-training rows are packed without padding and attention is not reset at document borders: the mask is the plain
causal one. Rows of fine-tuning are block-causal: attention stays within each of a row's segments, and padding attends
to nothing that counts. Layers with a sliding window attend to that many tokens before, the current one included, within
the same segment. On CUDA no mask of any size is ever built.

What a layer asks for beyond that (sinks, caps, biases or masks of its own) is refused, never passed over.

On CUDA torch chooses the kernel: cuDNN's on Hopper and Blackwell, where it takes about half the time of flash-attention
2 by published figures, and the latter's on older devices. The flash-attn package is therefore only an option. cuDNN
builds a graph for every new shape, and keeps it: where shapes differ from batch to batch, flash-attention 2 serves.

Transformers' own ``sdpa`` path builds a dense (B, 1, T, T) mask in training and repeats keys and values, which rules
out the flash kernels. Functions registered under other names get no mask at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from meap.errors import ConfigError
from meap.extras import how_to_install, is_installed, require_packages

__all__ = [
    "Segments",
    "causal_flash_attention",
    "causal_sdpa",
    "choose_attention",
    "describe_attention",
    "expect_any_shape",
]

_SDPA_NAME = "meap_sdpa"
_FLASH_NAME = "meap_fa2"  # transformers would look for its own kernel behind a name with "flash" in it
_NOT_COMPUTED = {
    "s_aux": "sinks",
    "sinks": "sinks",
    "softcap": "scores capped by a tanh (attn_logit_softcapping)",
    "position_bias": "a bias by position",
    "attention_bias": "a bias by position",
    "block_indices": "blocks chosen token by token",
    "indices": "keys chosen token by token",
}
"""Arguments that transformers' layers hand to their attention function, and what they stand for."""
_CUDNN_FASTEST = (9, 10)
"""Major compute capabilities, of Hopper and Blackwell, for which torch prefers cuDNN."""


@dataclass(frozen=True)
class Segments:
    """The segments of a batch of rows, kept on the host so that no layer syncs with the device."""

    lengths: Sequence[Sequence[int]]
    """Tokens of each row's segments, in order; what they leave of a row is padding."""
    borders: torch.Tensor
    """int32 (number of segments + 1,): where segments begin in the flattened batch, padding being one more of a row."""
    longest: int
    """Tokens of the longest segment, padding included."""

    @classmethod
    def of(cls, lengths: Sequence[Sequence[int]], *, num_tokens: int, device: torch.device) -> Segments:
        """The segments of rows of `num_tokens` positions.

        Raises:
            ValueError: A row's segments are longer than the row.
        """
        padding = [num_tokens - sum(row) for row in lengths]
        if min(padding) < 0:
            raise ValueError(f"segments of {num_tokens - min(padding)} tokens do not fit a row of {num_tokens}")
        pieces = [[*row, rest] if rest else row for row, rest in zip(lengths, padding, strict=True)]
        everything = [*chain.from_iterable(pieces)]
        borders = torch.tensor([0, *accumulate(everything)], dtype=torch.int32)
        return cls(lengths, borders.to(device, non_blocking=True), max(everything))


def causal_sdpa(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal grouped-query attention by torch's SDPA; returns (B, T, H, D) and no weights.

    With `segments`, or a window shorter than the row, all of them in one call of torch's variable-length kernel on CUDA
    in half precision. Elsewhere a call each: work is the sum of their squares, and padding gets zeros.
    """
    _require_plain_attention(module, attention_mask, more)
    query_BHTD, key_BHTD, value_BHTD = _as_autocast(query_BHTD, key_BHTD, value_BHTD)
    window = _shorter_window(sliding_window, query_BHTD, segments)
    has_borders = segments is not None or window is not None
    if has_borders and not dropout and _takes_varlen(query_BHTD) and query_BHTD.shape[-1] == value_BHTD.shape[-1]:
        return _varlen(query_BHTD, key_BHTD, value_BHTD, scaling, segments, window), None

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        num_tokens = query.shape[2]
        band = None
        if window is not None and window < num_tokens:
            band = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=query.device).tril().triu(1 - window)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=band,
            dropout_p=dropout,
            is_causal=band is None,
            scale=scaling,
            enable_gqa=True,
        )

    if segments is None:
        output_BHTD = attend(query_BHTD, key_BHTD, value_BHTD)
    else:
        rows = []
        for row, lengths in enumerate(segments.lengths):
            states = [each[row : row + 1] for each in (query_BHTD, key_BHTD, value_BHTD)]
            pieces = [
                attend(*(each[:, :, start:end] for each in states))
                for start, end in pairwise(accumulate(lengths, initial=0))
            ]
            rows.append(F.pad(torch.cat(pieces, dim=2), (0, 0, 0, query_BHTD.shape[2] - sum(lengths))))
        output_BHTD = torch.cat(rows)
    return output_BHTD.transpose(1, 2).contiguous(), None


def _as_autocast(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Query, key and value as autocast hands them to a matmul: RoPE has made fp32 of the first two, by its cosines."""
    device = states[0].device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return states
    return tuple(each.to(torch.get_autocast_dtype(device)) for each in states)


def _takes_varlen(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def _varlen(
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    scaling: float | None,
    segments: Segments | None,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # makes torch's compiler a folder for temporary files

    if segments is None:
        num_rows, _, num_tokens, _ = query_BHTD.shape
        segments = Segments.of([[num_tokens]] * num_rows, num_tokens=num_tokens, device=query_BHTD.device)
    query, key, value = (each.transpose(1, 2) for each in (query_BHTD, key_BHTD, value_BHTD))
    takes_groups: dict[str, Any] = {"enable_gqa": True}
    if "enable_gqa" not in signature(varlen_attn).parameters:  # torch 2.11
        groups = query.shape[2] // key.shape[2]
        key, value, takes_groups = key.repeat_interleave(groups, 2), value.repeat_interleave(groups, 2), {}
    output = varlen_attn(
        query.flatten(0, 1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        segments.borders,
        segments.borders,  # the same object: cuDNN's kernel asks for that
        segments.longest,
        segments.longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **takes_groups,
    )
    assert isinstance(output, torch.Tensor)
    return output.view_as(query)


def causal_flash_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BHTD: torch.Tensor,
    value_BHTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal grouped-query attention by flash-attention 2; returns (B, T, H, D) and no weights.

    With `segments`, all of them in one call of its variable-length kernel.
    """
    require_packages("model.attention=flash_attention_2", "flash_attn", extra="gpu")
    from flash_attn import flash_attn_func, flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    _require_plain_attention(module, attention_mask, more)
    query_BHTD, key_BHTD, value_BHTD = _as_autocast(query_BHTD, key_BHTD, value_BHTD)
    window = _shorter_window(sliding_window, query_BHTD, segments)
    choices: dict[str, Any] = {
        "dropout_p": dropout,
        "softmax_scale": scaling,
        "causal": True,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if window is not None:
        choices["window_size"] = (window - 1, 0)
    states = [each.transpose(1, 2) for each in (query_BHTD, key_BHTD, value_BHTD)]
    if segments is None:
        return flash_attn_func(*states, **choices), None
    output = flash_attn_varlen_func(
        *(each.flatten(0, 1) for each in states),
        cu_seqlens_q=segments.borders,
        cu_seqlens_k=segments.borders,
        max_seqlen_q=segments.longest,
        max_seqlen_k=segments.longest,
        **choices,
    )
    return output.view_as(states[0]), None


def expect_any_shape() -> None:
    """Leave cuDNN's attention out, in this process: nearly every batch or token will have a shape of its own."""
    torch.backends.cuda.enable_cudnn_sdp(False)


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
    installed, missing = is_installed("flash_attn"), f"not installed: {how_to_install('gpu')}"
    runs_here = installed and on_gpu and bf16
    if wanted == "flash_attention_2" and not runs_here:
        raise ConfigError(
            "model.attention=flash_attention_2 needs the flash-attn package "
            f"({'installed' if installed else missing}), a CUDA device "
            f"({'found' if on_gpu else 'not found'}) and train.precision=amp_bf16: choose model.attention=auto"
        )
    return _FLASH_NAME if wanted == "flash_attention_2" else _SDPA_NAME


def describe_attention(name: str, *, on_gpu: bool, bf16: bool, has_segments: bool) -> str:
    """Which kernel computes attention here, for a run's header.

    Args:
        name: What `choose_attention` has returned.
        on_gpu: Whether the model runs on CUDA.
        bf16: Whether it computes in bf16.
        has_segments: Whether rows have segments, as in fine-tuning.
    """
    if name == _FLASH_NAME:
        return "flash-attention 2, as model.attention asks"
    if not on_gpu:
        return "torch's SDPA"
    if not bf16:
        return "torch's SDPA, in fp32 without cuDNN and flash-attention"
    function = "torch's varlen_attn" if has_segments else "torch's SDPA"
    major, minor = torch.cuda.get_device_capability()
    with_cudnn = major in _CUDNN_FASTEST and not has_segments and torch.backends.cuda.cudnn_sdp_enabled()
    return f"{function}, {'cuDNN' if with_cudnn else 'flash-attention 2'}'s kernel on sm_{major}{minor}"


def _shorter_window(window: int | None, query_BHTD: torch.Tensor, segments: Segments | None) -> int | None:
    """The window, if any segment is longer."""
    longest = query_BHTD.shape[2] if segments is None else segments.longest
    return window if window is not None and window < longest else None


def _require_plain_attention(
    module: torch.nn.Module, attention_mask: torch.Tensor | None, more: Mapping[str, Any]
) -> None:
    """Raise `ValueError` if a layer asks for more than causal attention within a window."""
    if attention_mask is not None:
        raise ValueError("packed rows take no attention mask: padded batches need attn_implementation='sdpa'")
    for name, meaning in _NOT_COMPUTED.items():
        if more.get(name) is not None:
            raise ValueError(f"its attention has {meaning}, which the kernels for packed rows do not compute")
    if not (getattr(module, "is_causal", True) if more.get("is_causal") is None else more["is_causal"]):
        raise ValueError("its attention is not causal")

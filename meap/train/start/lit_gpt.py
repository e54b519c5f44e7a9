"""Starting from a ``.pth`` of the official code (lit-gpt as TinyLlama has it), read as data.

Such a file is what Lightning's Fabric saved: ``{"model": weights, "optimizer": ..., "hparams": ...}``, or the weights
alone. It does not say how many heads the model has, so that sizes come from section `model`, and must fit. Its RoPE
rotates halves, as transformers' does: weights are renamed, and the fused projection taken apart, but none is permuted.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from meap.config import ModelConfig
from meap.errors import CheckpointError, DataError, MismatchError, first_line
from meap.places.addresses import is_url
from meap.tokenizer import Tokenizer
from meap.train.model import decoder_config
from meap.train.start.base import Base, empty_model

__all__ = ["is_lit_gpt", "llama_weights", "open_lit_gpt"]

_SUFFIX: Final = ".pth"
_BLOCK_SIZE: Final = 4096
"""Longest row of the official models, which their checkpoints do not state."""
_LARGEST_PADDING: Final = 512
"""Multiple to which lit-gpt pads a vocabulary at most."""
_EMBEDDING: Final = "transformer.wte.weight"
_TOP: Final = {_EMBEDDING: "model.embed_tokens", "transformer.ln_f.weight": "model.norm", "lm_head.weight": "lm_head"}
_IN_LAYER: Final = {
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "attn.proj": "self_attn.o_proj",
    # xformers' SwiGLU, which the official code uses; then lit-gpt's own.
    **{f"mlp.{prefix}w1": "mlp.gate_proj" for prefix in ("swiglu.", "")},
    **{f"mlp.{prefix}w2": "mlp.up_proj" for prefix in ("swiglu.", "")},
    **{f"mlp.{prefix}w3": "mlp.down_proj" for prefix in ("swiglu.", "")},
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
_LAYER: Final = re.compile(r"transformer\.h\.(\d+)\.(.+)\.weight")
_NOT_ALLOWED: Final = re.compile(r"GLOBAL (\S+)")
_NUM_SHOWN = 3


def is_lit_gpt(base: str) -> bool:
    """Whether `base` is a file of the official code."""
    return base.endswith(_SUFFIX)


def open_lit_gpt(config: ModelConfig, tokenizer: Tokenizer) -> Base:
    """The model in file `config.base`, of the sizes of section `model`.

    Args:
        config: Section `model` of the configuration, with a base.
        tokenizer: The tokenizer of the data; the file has none of its own, so that its size is all that is compared.

    Raises:
        DataError: The file cannot be read.
        CheckpointError: It is damaged, holds anything but data, or no such model.
        MismatchError: Its vocabulary is of another size.
    """
    assert config.base is not None
    base = config.base
    weights = _read_weights(base)
    if _EMBEDDING not in weights:
        raise CheckpointError(
            f"model.base={base} has no {_EMBEDDING}, so it is no model of lit-gpt (it has {_shown(sorted(weights))}): "
            "give a .pth that the official code saved"
        )
    rows = weights[_EMBEDDING].shape[0]
    if not tokenizer.plain_vocab_size <= rows < tokenizer.vocab_size + _LARGEST_PADDING:
        raise MismatchError(
            f"model.base={base} has a vocabulary of {rows:,} rows, but the tokenizer of the data has "
            f"{tokenizer.vocab_size:,} ids with {tokenizer.mask_token}: prepare the data with that model's tokenizer"
        )
    architecture = decoder_config(
        config, vocab_size=rows, seq_len=_BLOCK_SIZE, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )
    architecture.vocab_size = rows  # padded already, perhaps to another multiple
    is_mask_new = rows <= tokenizer.mask_id
    return Base(
        architecture,
        is_mask_new=is_mask_new,
        rows_without_mask=rows if is_mask_new else None,
        load=lambda changed: _load(base, changed),
    )


def llama_weights(weights: Mapping[str, torch.Tensor], *, num_heads: int, num_groups: int) -> dict[str, torch.Tensor]:
    """The weights under transformers' names; a name that lit-gpt's Llama does not have is kept as it is.

    ``attn.attn`` holds the projections of each query group in turn: those of its queries, then its key and its value.

    Args:
        weights: By lit-gpt's names.
        num_heads: Query heads.
        num_groups: Query groups, which are the heads of keys and values.
    """
    return dict(_renamed(weights, num_heads=num_heads, num_groups=num_groups))


def _renamed(
    weights: Mapping[str, torch.Tensor], *, num_heads: int, num_groups: int
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, weight in weights.items():
        found = _LAYER.fullmatch(name)
        if name in _TOP:
            yield f"{_TOP[name]}.weight", weight
        elif found and found[2] in _IN_LAYER:
            yield f"model.layers.{found[1]}.{_IN_LAYER[found[2]]}.weight", weight
        elif found and found[2] == "attn.attn" and weight.shape[0] % (num_heads + 2 * num_groups) == 0:
            head_size, hidden = weight.shape[0] // (num_heads + 2 * num_groups), weight.shape[1]
            per_group = num_heads // num_groups
            grouped = weight.view(num_groups, per_group + 2, head_size, hidden)
            parts = grouped.split((per_group, 1, 1), dim=1)
            for letter, part in zip("qkv", parts, strict=True):
                yield f"model.layers.{found[1]}.self_attn.{letter}_proj.weight", part.reshape(-1, hidden)
        else:
            yield name, weight


def _load(base: str, architecture: PretrainedConfig) -> PreTrainedModel:
    model = empty_model(architecture)
    weights = llama_weights(
        _read_weights(base),
        num_heads=architecture.num_attention_heads,
        num_groups=architecture.num_key_value_heads,
    )
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    given = {name: tuple(weight.shape) for name, weight in weights.items()}
    differences = {
        "missing": [name for name in expected if name not in given],
        "unknown": [name for name in given if name not in expected],
        "other shapes": [
            f"{name} {given[name]}, not {expected[name]}"
            for name in expected
            if name in given and given[name] != expected[name]
        ],
    }
    if any(differences.values()):
        told = "; ".join(f"{kind}: {_shown(names)}" for kind, names in differences.items() if names)
        raise CheckpointError(
            f"model.base={base} does not fit section model ({told}): set model.hidden_size, intermediate_size, "
            "num_attention_heads, num_key_value_heads and num_hidden_layers to what it was trained with, as in yamls/"
        )
    model.load_state_dict(weights)
    return model


def _read_weights(base: str) -> dict[str, torch.Tensor]:
    """The model's weights, read from disk only as they are used: the optimiser's state beside them is twice as much."""
    if is_url(base):
        raise DataError(f"model.base={base}: a .pth is read from a local file only; download it and give its path")
    if not Path(base).is_file():
        raise DataError(f"model.base={base} is no local file: check the path, which must be that of the .pth itself")
    try:
        state = torch.load(base, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = _NOT_ALLOWED.search(str(error))
        what = f"asks for {found[1]}" if found else "is not only tensors and plain values"
        raise CheckpointError(
            f"model.base={base} {what}: loading it could run a program, so it is refused. Where it was written, save "
            "its weights alone: torch.save({'model': model.state_dict()}, ...)"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"model.base={base} is damaged, or no file of torch.save ({type(error).__name__}: {first_line(error)}): "
            "copy it again"
        ) from error
    weights = state.get("model", state) if isinstance(state, dict) else {}
    tensors = {name: value for name, value in cast("dict[Any, Any]", weights).items() if torch.is_tensor(value)}
    return cast("dict[str, torch.Tensor]", tensors)


def _shown(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more

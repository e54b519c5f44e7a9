"""Whether packed rows of an architecture are exact: tried on a small copy of it, before any data is read.

No list of names decides. A copy of a few narrow layers with random weights computes a row of two segments and padding
as training does, and each segment alone with transformers' own attention. Whatever makes the losses differ is found
that way: state that crosses borders, masks, biases and heads that training does not know, positions that it does not
give. Two things are told by attributes, since a loss cannot show them: experts, whose balancing loss training lacks,
and models of more than text.
"""

from __future__ import annotations

import re
import warnings
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from meap.checkpoints import newest_record
from meap.config import RecipeConfig
from meap.errors import ConfigError, first_line
from meap.train.attention import choose_attention
from meap.train.model import NextTokenModel
from meap.train.start.architecture import fit_architecture, kinds_of_rope, read_architecture, require_positions
from meap.train.start.base import empty_model
from meap.train.start.lit_gpt import is_lit_gpt
from meap.train.start.own_run import is_own_run

__all__ = ["TOLERANCE", "measured_difference", "require_exact", "require_exact_model", "small_copy"]

TOLERANCE = 1e-3
"""Largest difference of a token's loss in nats. Rounding in fp32 makes 1e-5."""

_SEGMENTS, _ROW = (13, 8), 24
_SHORT, _LONG = 10, 64
_VOCAB, _HEADS, _WIDTH = 64, 4, 64
_LENGTHS = {"sliding_window", "window_size", "attention_chunk_size", "original_max_position_embeddings"}
"""Keys of what a row may exceed."""
_INNER_SIZES = {"intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"}
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_MOST_WEIGHTS = 50_000_000
"""Of a small copy, so that a run starts in seconds."""


def require_exact_model(config: RecipeConfig) -> None:
    """Refuse a run whose architecture is none that packed rows are exact for.

    A run that resumes is not tried again, nor what this project has trained itself.

    Raises:
        ConfigError: Which architecture it is, why not, and what to do.
        DataError: Its config.json cannot be read.
    """
    base, fresh = config.model.base, config.model.config
    if fresh is None and (base is None or is_lit_gpt(base) or is_own_run(base)):
        return
    if newest_record(config.checkpoint.folder) is not None:
        return
    key, name = ("model.base", base) if fresh is None else ("model.config", fresh)
    source, architecture = f"{key}={name}", read_architecture(key, str(name))
    if fresh is not None:
        require_positions(source, architecture, config.data.seq_len)
    require_exact(source, architecture, context=config.data.seq_len)


def require_exact(source: str, architecture: PretrainedConfig, *, context: int) -> None:
    """Raise `ConfigError` unless rows of `context` positions can be packed exactly.

    Args:
        source: The model and its key, for the error.
        architecture: As its config.json has it; stays as it is.
        context: Positions of a row.
    """
    why, causes = _never(architecture), ""
    if why is None:
        causes = "".join(f"; it has {cause}" for cause in _suspects(architecture, context))
        try:
            with warnings.catch_warnings(action="ignore"):
                difference = measured_difference(architecture, context=context)
        except Exception as error:  # noqa: BLE001 - whatever layers that nobody has seen may raise
            why = f"packed rows cannot be computed ({first_line(error) or type(error).__name__})"
        else:
            if not difference <= TOLERANCE:  # also true for NaN
                why = (
                    f"losses of segments packed into a row differ from those of the segments alone by {difference:.2g} "
                    f"nats, {TOLERANCE:g} is allowed"
                )
    if why is not None:
        raise ConfigError(f"{source} is a {architecture.model_type!r} model: {why}{causes}. {_REMEDY}")


_REMEDY = (
    "Choose a decoder with causal attention and a plain head (tried: Llama, Mistral, Qwen2, Qwen3, OLMo2, Gemma, "
    "Gemma 3, SmolLM3, Phi3, Granite), or switch off what is named in a copy of its config.json"
)


@torch.no_grad()
def measured_difference(architecture: PretrainedConfig, *, context: int) -> float:
    """Largest difference of a token's loss between packed rows and transformers' own attention on what was packed."""
    small = small_copy(architecture, context=context)
    if sum(weight.numel() for weight in empty_model(small, device="meta").parameters()) > _MOST_WEIGHTS:
        raise ValueError("sizes of its layers have names that are not known, so that no small copy can be made")
    model = NextTokenModel(empty_model(small).eval())
    model.config._attn_implementation = choose_attention("sdpa", on_gpu=False, bf16=False)
    assert model.layers  # compilation and sharding take them one by one
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # scores and logits about 2, norms and biases of any size: all of it shows
        std, mean = (2 / parameter.shape[-1] ** 0.5, 0.0) if parameter.ndim > 1 else (0.2, 0.5)
        parameter.normal_(mean, std, generator=generator)
    tokens_BT = torch.randint(_VOCAB, (1, _ROW + 1), generator=generator)
    inputs_BT, labels_BT = tokens_BT[:, :-1], tokens_BT[:, 1:].contiguous()
    borders = [0, *accumulate(_SEGMENTS), _ROW]
    positions_T = torch.cat([torch.arange(end - start) for start, end in pairwise(borders)])
    row: Any = {"input_ids": inputs_BT, "labels": labels_BT}
    packed = row | {"position_ids": positions_T[None], "segment_lengths": [_SEGMENTS]}
    computed = [(model(row)["losses_BT"][0], [0, _ROW]), (model(packed)["losses_BT"][0], borders[:-1])]
    if getattr(model.model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError("its head adds a bias, which the loss would leave out")
    model.model.set_attn_implementation("eager")
    differences = []
    for losses_T, ends in computed:
        for start, end in pairwise(ends):
            logits_TV = model.model(inputs_BT[:, start:end], use_cache=False).logits[0].float()
            alone_T = F.cross_entropy(logits_TV, labels_BT[0, start:end], reduction="none")
            differences.append((alone_T - losses_T[start:end]).abs().max())
    return float(torch.stack(differences).max())


def small_copy(architecture: PretrainedConfig, *, context: int) -> PretrainedConfig:
    """The architecture with few narrow layers, at least one of each kind, for rows of some tokens.

    Lengths that rows of `context` positions exceed become ones that its row and the longer of its segments exceed.
    Sizes of heads stay: RoPE's factors are made for them.
    """
    small, layers = fit_architecture(architecture, rows=_VOCAB, context=context), architecture.num_hidden_layers
    by_layer = {name: value for name, value in vars(small).items() if isinstance(value, list) and len(value) == layers}
    firsts = [value.index(kind) + 1 for value in by_layer.values() for kind in value]
    small.num_hidden_layers = min(layers, max(2, *firsts, 2))
    for name, value in by_layer.items():
        setattr(small, name, value[: small.num_hidden_layers])
    if heads := getattr(architecture, "num_attention_heads", None):
        groups = getattr(architecture, "num_key_value_heads", None)
        head_size = vars(architecture).get("head_dim") or architecture.hidden_size // heads
        small.hidden_size = _HEADS * head_size if heads * head_size == architecture.hidden_size else _WIDTH
        small.num_attention_heads = _HEADS
        if groups is not None:
            small.num_key_value_heads = _HEADS if groups == heads else min(groups, _HEADS // 2)
    for name in _INNER_SIZES & vars(small).keys():
        if vars(small)[name] is not None:
            setattr(small, name, _WIDTH)
    if getattr(small, "max_position_embeddings", None):
        small.max_position_embeddings = _LONG
    for values in (vars(small), small.__dict__.get("rope_parameters") or {}):
        for name in _LENGTHS & values.keys():
            if values[name] is not None:
                values[name] = _SHORT if values[name] < context else _LONG
    return small


def _never(architecture: PretrainedConfig) -> str | None:
    """Why no row of this architecture can be trained on, whatever its losses; None if nothing is known."""
    if architecture.is_encoder_decoder:
        return "an encoder and a decoder, of which training here has the decoder alone"
    if (text := architecture.get_text_config(decoder=True)) is not architecture:
        return (
            f"a model of more than text. Train its text model ({text.model_type!r}) alone: give a folder whose "
            "config.json is its text_config"
        )
    if type(architecture) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "transformers has no causal language model of this architecture"
    if any((getattr(architecture, name, None) or 0) > 1 for name in _NUM_EXPERTS):
        return "its layers choose among experts, and training here has no loss that balances them"
    return None


def _suspects(architecture: PretrainedConfig, context: int) -> list[str]:
    """What is likely to be the cause."""
    values = vars(architecture)
    kinds = set(getattr(architecture, "layer_types", None) or getattr(architecture, "layers_block_type", None) or ())
    found = [f"{kind} layers" for kind in sorted(kinds - {"full_attention", "sliding_attention"})]
    if not found and any(re.search(r"^(mamba|ssm|linear|conv|state|rwkv)_", name) for name in values):
        found.append("layers with a state that crosses the borders of segments")
    if values.get("alibi") or architecture.model_type in ("bloom", "mpt"):
        found.append("attention biased by position (ALiBi)")
    if (chunk := values.get("attention_chunk_size")) and chunk < context:
        found.append(f"attention in chunks of {chunk} tokens")
    if moving := kinds_of_rope(architecture) & {"dynamic", "longrope"}:
        found.append(f"RoPE whose frequencies follow the longest segment ({', '.join(sorted(moving))})")
    return found

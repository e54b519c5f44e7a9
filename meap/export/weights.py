"""Weights -> safetensors files of bounded size, in fp32 or rounded to bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import PreTrainedModel

from meap.errors import MeapError
from meap.places.problems import full_disk_errors
from meap.places.whole import write_whole

__all__ = ["DTYPES", "round_weights", "write_tensors", "write_weights"]

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}

_INDEX_NAME = "model.safetensors.index.json"


@torch.no_grad()
def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round every weight to the nearest value of `dtype`; the model keeps its own type."""
    for weight in model.state_dict().values():
        weight.copy_(weight.to(dtype))


def write_weights(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype, max_shard_size: str) -> int:
    """Write ``model.safetensors``, or several files and their index; returns how many.

    A file is converted and written before the next, so that memory holds the model and one file.

    Args:
        model: Its weights are written, a tied head's once.
        folder: Where to.
        dtype: What is stored.
        max_shard_size: Largest size of a file, such as 5GB; a tensor larger than that has a file of its own.
    """
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:  # a file holds a tensor once, and loading ties them again
        firsts = {weight.data_ptr(): name for name, weight in reversed(weights.items())}
        weights = {name: weight for name, weight in weights.items() if firsts[weight.data_ptr()] == name}
    # Sizes are those of what is stored, and nothing is converted to learn them.
    stored = {name: torch.empty_like(weight, dtype=dtype, device="meta") for name, weight in weights.items()}
    split = split_torch_state_dict_into_shards(stored, max_shard_size=max_shard_size)
    for name, tensors in split.filename_to_tensors.items():
        content = {tensor: weights[tensor].detach().to("cpu", dtype).contiguous() for tensor in tensors}
        write_tensors(content, folder / name)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_whole(folder / _INDEX_NAME, json.dumps(index, indent=2, sort_keys=True) + "\n")
    return len(split.filename_to_tensors)


def write_tensors(content: dict[str, torch.Tensor], path: Path) -> None:
    """Write one safetensors file.

    Raises:
        MeapError: The disk is full.
    """
    with full_disk_errors(path.parent, num_bytes=sum(each.nbytes for each in content.values()), kind=MeapError):
        # transformers rejects a file without the framework that wrote it.
        save_file(content, path, metadata={"format": "pt"})
    # safetensors lets only the owner read; the folder's mode follows the user's umask.
    path.chmod(path.parent.stat().st_mode & 0o666)

"""torch.compile where it pays: each decoder layer as one graph, and the loss.

Layers are compiled one by one, not the model: all of them share one graph, which compiles in seconds, and DDP and FSDP
keep their hooks between layers. Only a layer's `forward` is replaced, within the layer: hooks and activation
checkpointing stay around it and the names of parameters, checkpoints' among them, stay as they were.

Rows of fine-tuning are not compiled: each batch has segments of other lengths, and every new set of lengths would be
compiled anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from meap.errors import ConfigError
from meap.train.model import NextTokenModel

__all__ = ["choose_compilation", "compile_model"]

_COMPILERS = ("g++", "c++", "clang++", "gcc", "cc", "clang")


def choose_compilation(wanted: str, *, on_gpu: bool, has_segments: bool) -> bool:
    """Whether to compile.

    Args:
        wanted: ``true``, ``false``, or ``auto``: on CUDA, where a C++ compiler is found and rows have no segments.
        on_gpu: Whether the model runs on CUDA.
        has_segments: Whether rows are those of fine-tuning.

    Raises:
        ConfigError: Compilation is asked for where it cannot work.
    """
    has_compiler = any(map(shutil.which, (os.environ.get("CXX", ""), os.environ.get("CC", ""), *_COMPILERS)))
    if wanted != "true":
        return wanted == "auto" and on_gpu and has_compiler and not has_segments
    if has_segments:
        raise ConfigError(
            "train.compile=true, but fine-tuning rows have segments of other lengths in every batch, and each would be "
            "compiled anew: choose train.compile=auto"
        )
    if not has_compiler:
        raise ConfigError(
            f"train.compile=true needs a C++ compiler, and none of {', '.join(_COMPILERS)} is found: install one (apt "
            "install g++), name it in the environment variable CXX, or choose train.compile=auto"
        )
    return True


def compile_model(model: NextTokenModel, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the layers and the loss of a model in place, when they first run.

    Args:
        model: The model, before DDP or FSDP wraps it.
        backend: Torch's name of a compiler, or a compiler.
    """
    # DDP's own splitting of graphs into buckets would break those of layers apart.
    torch._dynamo.config.optimize_ddp = False
    compile_whole = partial(torch.compile, fullgraph=True, dynamic=False, backend=backend)
    for layer in model.model.model.layers:
        layer.forward = compile_whole(layer.forward)
    model.speed_up_loss = cache(compile_whole)

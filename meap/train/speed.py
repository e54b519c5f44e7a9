"""How a model is computed faster, to the same result: torch.compile where it pays, Liger's Triton kernels elsewhere.

Compiled are each decoder layer, as one graph, and the loss. Not the model as a whole: all layers share one graph, which
compiles in seconds, and DDP and FSDP keep their hooks between layers. Only a layer's `forward` is replaced, within the
layer: hooks and activation checkpointing stay around it, and the names of parameters, also in checkpoints, stay.

Rows of fine-tuning are not compiled: each batch has segments of other lengths, and every new set of lengths would be
compiled anew. Liger serves there, for RMSNorm, RoPE and SwiGLU, which torch.compile fuses with their neighbours where
layers are compiled. Liger's losses are not used, see `meap.train.loss`.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from meap.config import RecipeConfig
from meap.config.model import ARCHITECTURES
from meap.errors import ConfigError
from meap.extras import how_to_install, is_installed, require_packages
from meap.train.attention import expect_any_shape
from meap.train.model import NextTokenModel

__all__ = ["choose_compilation", "choose_kernels", "compile_model", "speed_up", "use_liger_kernels"]

_COMPILERS = ("g++", "c++", "clang++", "gcc", "cc", "clang")


def speed_up(config: RecipeConfig, model: NextTokenModel, *, on_gpu: bool, has_segments: bool) -> None:
    """Compile a model, or give it kernels, as the configuration and the device have it; weights stay as they are.

    Args:
        config: The whole configuration.
        model: The model, before DDP or FSDP wraps it; changed in place.
        on_gpu: Whether it runs on CUDA.
        has_segments: Whether rows are those of fine-tuning.

    Raises:
        ConfigError: What is asked for cannot work here.
    """
    compiled = choose_compilation(config.train.compile, on_gpu=on_gpu, has_segments=has_segments)
    kernels = choose_kernels(
        config.model.kernels, on_gpu=on_gpu, compiled=compiled, architecture=model.config.model_type
    )
    model.loss_chunks = config.train.loss_chunks
    if has_segments:
        expect_any_shape()
    if kernels == "liger":
        use_liger_kernels(model)
    if compiled:
        compile_model(model)


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
    for layer in model.layers:
        layer.forward = compile_whole(layer.forward)
    model.speed_up_loss = cache(compile_whole)


def choose_kernels(wanted: str, *, on_gpu: bool, compiled: bool, architecture: str = "llama") -> str:
    """``torch`` or ``liger``.

    Args:
        wanted: One of the two, or ``auto``: Liger where it is installed, on CUDA, unless layers are compiled.
        on_gpu: Whether the model runs on CUDA.
        compiled: Whether layers are compiled.
        architecture: The decoder, by its name in transformers. Others than `ARCHITECTURES` are not tried with Liger.

    Raises:
        ConfigError: Liger is asked for where it cannot run, or beside compiled layers.
    """
    installed, missing = is_installed("liger_kernel"), f"not installed: {how_to_install('gpu')}"
    if wanted == "liger" and not (installed and on_gpu):
        raise ConfigError(
            f"model.kernels=liger needs the liger-kernel package "
            f"({'installed' if installed else missing}) and a CUDA device "
            f"({'found' if on_gpu else 'not found'}): choose model.kernels=auto"
        )
    if wanted == "liger" and compiled:
        raise ConfigError(
            "model.kernels=liger and compiled layers exclude each other (torch.compile fuses the same operations): "
            "choose train.compile=false or model.kernels=auto"
        )
    if wanted == "liger" and architecture not in ARCHITECTURES:
        raise ConfigError(
            f"model.kernels=liger is not tried with a {architecture!r} model, only with {', '.join(ARCHITECTURES)}: "
            "choose model.kernels=auto"
        )
    can_run = installed and on_gpu and not compiled and architecture in ARCHITECTURES
    return "liger" if wanted != "torch" and can_run else "torch"


def use_liger_kernels(model: NextTokenModel) -> None:
    """Replace RMSNorm, RoPE and SwiGLU of a Llama, Mistral or Qwen2/3 decoder in place; its weights stay."""
    # Imported here: without a GPU the package cannot be imported.
    require_packages("model.kernels=liger", "liger_kernel", extra="gpu")
    liger = importlib.import_module("liger_kernel.transformers")
    apply = getattr(liger, f"apply_liger_kernel_to_{model.config.model_type}")
    apply(
        rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False, model=model.model
    )

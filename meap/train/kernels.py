"""Liger's Triton kernels for RMSNorm, RoPE and SwiGLU, where torch.compile does not fuse the same already.

A compiled layer has each of them fused with its neighbours, which a kernel written by hand cannot be. So Liger serves
where layers are not compiled: in fine-tuning. Liger's losses are not used, see `meap.train.loss`.
"""

from __future__ import annotations

import importlib

from meap.errors import ConfigError
from meap.extras import how_to_install, is_installed, require_packages
from meap.train.model import NextTokenModel

__all__ = ["choose_kernels", "use_liger_kernels"]


def choose_kernels(wanted: str, *, on_gpu: bool, compiled: bool) -> str:
    """``torch`` or ``liger``.

    Args:
        wanted: One of the two, or ``auto``: Liger where it is installed, on CUDA, unless layers are compiled.
        on_gpu: Whether the model runs on CUDA.
        compiled: Whether layers are compiled.

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
    return "liger" if wanted != "torch" and installed and on_gpu and not compiled else "torch"


def use_liger_kernels(model: NextTokenModel) -> None:
    """Replace RMSNorm, RoPE and SwiGLU of a Llama, Mistral or Qwen2/3 decoder in place; its weights stay."""
    # Imported here: without a GPU the package cannot be imported.
    require_packages("model.kernels=liger", "liger_kernel", extra="gpu")
    liger = importlib.import_module("liger_kernel.transformers")
    apply = getattr(liger, f"apply_liger_kernel_to_{model.config.model_type}")
    apply(
        rope=True, rms_norm=True, swiglu=True, cross_entropy=False, fused_linear_cross_entropy=False, model=model.model
    )

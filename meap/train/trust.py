"""Checkpoints are data, never programs: load weights and plain values only.

Composer 0.32 calls ``torch.load(weights_only=False)``, which unpickles, and so would run, whatever the file says. torch
can be told to refuse that everywhere; what Composer itself stores besides tensors is then allowed by name.
"""

from __future__ import annotations

import datetime
import os
from typing import Any

import numpy as np
import torch

__all__ = ["forbid_unpickling", "load_checkpoint"]


def forbid_unpickling() -> None:
    """Make every ``torch.load`` of this process refuse anything but tensors and the plain types listed here."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals(_allowed_types())


def load_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without running anything in it."""
    with torch.serialization.safe_globals(_allowed_types()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _allowed_types() -> list[Any]:
    numpy_types: list[Any] = [np.ndarray, np.dtype, np._core.multiarray._reconstruct, np._core.multiarray.scalar]  # noqa: SLF001  # pyright: ignore
    numpy_types += [type(np.dtype(name)) for name in ("uint32", "uint64", "int64", "float64", "bool")]
    return [datetime.timedelta, torch.torch_version.TorchVersion, *numpy_types]

"""Checkpoints are data, never programs: load weights and plain values only.

Composer 0.32 calls ``torch.load(weights_only=False)``, which unpickles, and so would run, whatever the file says. torch
can be told to refuse that everywhere; what Composer itself stores besides tensors is then allowed by name.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.torch_version import TorchVersion

from meap.errors import CheckpointError

__all__ = ["forbid_unpickling", "load_checkpoint", "named_checkpoint_errors"]


def forbid_unpickling() -> None:
    """Make every ``torch.load`` of this process refuse anything but tensors and the plain types listed here."""
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals(_allowed_types())


@contextmanager
def named_checkpoint_errors(folder: str) -> Iterator[None]:
    """Turn torch's refusal to unpickle into a `CheckpointError` that names the checkpoint folder."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the newest checkpoint in {folder} holds more than tensors and plain values, or is damaged; nothing in it "
            "was run: delete it and run the same command again to continue from the one before"
        ) from error


def load_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without running anything in it."""
    # On leaving, torch forgets what is named here, also where `forbid_unpickling` had named it before.
    allowed_already = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([each for each in _allowed_types() if each not in allowed_already]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _allowed_types() -> list[Any]:
    from numpy._core import multiarray

    numpy_types: list[Any] = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]  # pyright: ignore[reportAttributeAccessIssue]
    numpy_types += [type(np.dtype(name)) for name in ("uint32", "uint64", "int64", "float64", "bool")]
    return [timedelta, TorchVersion, *numpy_types]

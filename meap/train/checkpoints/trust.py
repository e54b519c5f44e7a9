"""Composer may load data only: no checkpoint of a run is unpickled into anything that could run.

Composer 0.32 calls ``torch.load(weights_only=False)``, which unpickles, and so would run, whatever the file says. torch
can be told to refuse that everywhere; what Composer itself stores besides tensors is then allowed by name.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from meap.checkpoints.trust import allowed_types, require_data
from meap.errors import CheckpointError

__all__ = ["forbid_unpickling", "named_checkpoint_errors"]


def forbid_unpickling() -> None:
    """Make every ``torch.load`` of this process refuse anything but tensors and the plain types listed here.

    The ``.metadata`` of a sharded checkpoint is read by plain ``pickle``, whatever torch is told: Composer is told to
    show each file to `require_data` before.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ["CHECKPOINT_VALIDATION_FUNCTION"] = f"{require_data.__module__}.{require_data.__name__}"
    torch.serialization.add_safe_globals(allowed_types())


@contextmanager
def named_checkpoint_errors(folder: str) -> Iterator[None]:
    """Turn torch's refusal to unpickle into a `CheckpointError` that names the checkpoint folder."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the newest checkpoint in {folder} holds more than tensors and plain values; nothing in it was run: "
            "delete it and run the same command again to resume from the one before"
        ) from error

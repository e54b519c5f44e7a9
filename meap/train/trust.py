"""Checkpoints are data, never programs: load weights and plain values only.

Composer 0.32 calls ``torch.load(weights_only=False)``, which unpickles, and so would run, whatever the file says. torch
can be told to refuse that everywhere; what Composer itself stores besides tensors is then allowed by name.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.torch_version import TorchVersion

from meap.errors import CheckpointError

__all__ = ["forbid_unpickling", "load_checkpoint", "named_checkpoint_errors", "require_data"]

_METADATA_NAME = ".metadata"
_WEIGHTS = "state.model."
_DCP_TYPES = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}
"""What torch.distributed.checkpoint puts into a ``.metadata`` besides plain values and dtypes."""


def forbid_unpickling() -> None:
    """Make every ``torch.load`` of this process refuse anything but tensors and the plain types listed here.

    The ``.metadata`` of a sharded checkpoint is read by plain ``pickle``, whatever torch is told: Composer is told to
    show each file to `require_data` before.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ["CHECKPOINT_VALIDATION_FUNCTION"] = f"{__name__}.{require_data.__name__}"
    torch.serialization.add_safe_globals(_allowed_types())


def require_data(path: str | Path, specs: Any = None) -> bool:
    """Whether a file of a checkpoint may be read: that of a ``.metadata`` is known only by reading it as data.

    Args:
        path: File that is about to be read.
        specs: What Composer wants of it; not needed.

    Raises:
        pickle.UnpicklingError: It asks for more than `torch.distributed.checkpoint` writes.
    """
    del specs
    if Path(path).name == _METADATA_NAME:
        _read_metadata(Path(path))
    return True


@contextmanager
def named_checkpoint_errors(folder: str) -> Iterator[None]:
    """Turn torch's refusal to unpickle into a `CheckpointError` that names the checkpoint folder."""
    try:
        yield
    except (pickle.UnpicklingError, CheckpointException) as error:
        causes = list(error.failures.values()) if isinstance(error, CheckpointException) else []
        if causes and not any(isinstance(each[0], pickle.UnpicklingError) for each in causes):
            raise
        raise CheckpointError(
            f"the newest checkpoint in {folder} holds more than tensors and plain values; nothing in it was run: "
            "delete it and run the same command again to continue from the one before"
        ) from error


def load_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without running anything in it.

    Args:
        path: A file; or the folder of a sharded checkpoint, of which only the model's weights are read.
    """
    # On leaving, torch forgets what is named here, also where `forbid_unpickling` had named it before.
    allowed_already = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([each for each in _allowed_types() if each not in allowed_already]):
        if not Path(path).is_dir():
            return torch.load(path, map_location="cpu", weights_only=True)
        metadata = _read_metadata(Path(path, _METADATA_NAME))
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if name.startswith(_WEIGHTS) and isinstance(entry, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is enough
            load_parts(weights, storage_reader=_DataReader(path), no_dist=True)
    return {"state": {"model": {name.removeprefix(_WEIGHTS): weight for name, weight in weights.items()}}}


class _DataReader(FileSystemReader):
    """Reads a sharded checkpoint whose ``.metadata`` is data."""

    def read_metadata(self) -> Metadata:
        return _read_metadata(Path(self.path, _METADATA_NAME))


def _read_metadata(path: Path) -> Metadata:
    with path.open("rb") as handle:
        metadata = _DataUnpickler(handle).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError(f"{path} holds no metadata of a checkpoint")
    return metadata


class _DataUnpickler(pickle.Unpickler):
    """Knows the few classes that describe a sharded checkpoint, and nothing that does anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DCP_TYPES:
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name} was not an allowed global")


def _allowed_types() -> list[Any]:
    from numpy._core import multiarray

    numpy_types: list[Any] = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]  # pyright: ignore[reportAttributeAccessIssue]
    numpy_types += [type(np.dtype(name)) for name in ("uint32", "uint64", "int64", "float64", "bool")]
    return [timedelta, TorchVersion, *numpy_types]

"""Checkpoints are data, never programs: only tensors and plain values are read, whatever a file says."""

from __future__ import annotations

import pickle
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.torch_version import TorchVersion

from meap.checkpoints.parts import errors_of_parts

__all__ = ["allowed_types", "load_checkpoint", "require_data"]

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
"""Types that torch.distributed.checkpoint writes to a ``.metadata`` besides plain values and dtypes."""
_MOVED = {"pathlib._local": "pathlib"}
"""Where Python 3.13 says that its types are; every version finds them at the other place."""


def require_data(path: str | Path, specs: Any = None) -> bool:
    """Raise unless a file of a checkpoint holds data only; a ``.metadata`` is parsed to find out.

    Args:
        path: File that is about to be read.
        specs: Passed by Composer; not used.

    Raises:
        pickle.UnpicklingError: It refers to types that `torch.distributed.checkpoint` does not write.
    """
    del specs
    if Path(path).name == _METADATA_NAME:
        _read_metadata(Path(path))
    return True


def load_checkpoint(path: str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU without running anything in it.

    Args:
        path: A file; or the folder of a sharded checkpoint, of which only the model's weights are read.
    """
    # On exit torch removes these types from its list, also those that `forbid_unpickling` had added.
    allowed_already = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([each for each in allowed_types() if each not in allowed_already]):
        if not Path(path).is_dir():
            return torch.load(path, map_location="cpu", weights_only=True)
        metadata = _read_metadata(Path(path, _METADATA_NAME))
        weights = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if name.startswith(_WEIGHTS) and isinstance(entry, TensorStorageMetadata)
        }
        with errors_of_parts(), warnings.catch_warnings():
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
        raise pickle.UnpicklingError(f"{path} is not the metadata of a checkpoint")
    return metadata


class _DataUnpickler(pickle.Unpickler):
    """Resolves only the classes that describe a sharded checkpoint."""

    def find_class(self, module: str, name: str) -> Any:
        module = _MOVED.get(module, module)
        if (module, name) in _DCP_TYPES:
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name} was not an allowed global")


def allowed_types() -> list[Any]:
    """Types that a checkpoint may hold besides tensors and those that torch itself allows."""
    from numpy._core import multiarray

    numpy_types: list[Any] = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]  # pyright: ignore[reportAttributeAccessIssue]
    numpy_types += [type(np.dtype(name)) for name in ("uint32", "uint64", "int64", "float64", "bool")]
    return [timedelta, TorchVersion, *numpy_types]

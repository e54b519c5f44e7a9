"""From Composer's state to files on a local disk; training waits for a copy in memory only.

`copy_state` runs on every rank between two steps; the function it returns writes the copy, in another thread. Files
hold what ``composer.utils.checkpoint`` would write, so that its loader reads them; its own functions write while
training waits, to the final name, and hash nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import torch
import xxhash
from composer.core import State
from composer.devices import DeviceGPU
from composer.utils import dist, reproducibility
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves, tree_map

from meap.checkpoints import CheckpointFile, CheckpointStore, describe_file
from meap.checkpoints.parts import errors_of_parts
from meap.config import RecipeConfig
from meap.errors import CheckpointError
from meap.places.problems import full_disk_errors

__all__ = ["STAGING_NAME", "copy_state", "local_folder"]

STAGING_NAME = ".saving"
"""Folder beside the checkpoints in which one is written; what a killed run leaves there, the next start removes."""


def local_folder(config: RecipeConfig, run_dir: Path) -> Path:
    """Where checkpoints are on this machine: `checkpoint.folder` itself, or the copies of what is behind a URL."""
    store = CheckpointStore(config.checkpoint.folder)
    return run_dir / "checkpoints" if store.is_remote else Path(store.location)


def copy_state(
    state: State, *, kind: Literal["full", "sharded"], name: str, folder: Path, group: Any
) -> Callable[[], list[CheckpointFile]]:
    """Copy the state into memory, and return what writes this rank's files of it.

    Args:
        state: Composer's state; every rank calls at the same step.
        kind: One file, written by rank 0, or a part by every rank.
        name: File or folder to write, below `folder`.
        folder: Where to write.
        group: The ranks, over CPUs; only for parts.
    """
    content: dict[str, Any] = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
    path, rank, needed = folder / name, dist.get_global_rank(), _size(content)
    if kind == "sharded":
        if rank > 0:
            content.pop("rng")  # rank 0 has gathered those of all ranks
        if rank == 0 or dist.get_local_rank() == 0:
            path.mkdir(parents=True, exist_ok=True)
        # Copies here, writes in a thread of its own.
        writing = async_save(
            content,
            storage_writer=FileSystemWriter(path),
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            process_group=group,
        )
        return lambda: _written_parts(writing, path, name, rank, needed)
    if rank > 0:
        return list
    # Sharded weights of GPUs were gathered on the host a moment ago: a second copy might not fit.
    copied = _copied(content, is_gathered=state.fsdp_enabled and isinstance(state.device, DeviceGPU))
    return lambda: [_write_file(copied, path, name, needed)]


def _size(content: dict[str, Any]) -> int:
    """Bytes of this rank's tensors; the rest is negligible."""
    tensors = [each.to_local() if isinstance(each, DTensor) else each for each in tree_leaves(content)]
    return sum(each.nbytes for each in tensors if torch.is_tensor(each))


def _copied(content: dict[str, Any], *, is_gathered: bool) -> dict[str, Any]:
    """The content in memory of the host that training does not go on with.

    Args:
        content: State and random numbers, as they are saved.
        is_gathered: Whether weights and moments are in such memory already.
    """

    def copy(leaf: Any) -> Any:
        return leaf.detach().to("cpu", copy=True) if torch.is_tensor(leaf) else leaf

    def keep(leaf: Any) -> Any:
        return leaf if torch.is_tensor(leaf) and leaf.device.type == "cpu" and leaf.dim() else copy(leaf)

    gathered = {"model", "optimizers"} if is_gathered else set[str]()
    state = {name: tree_map(keep if name in gathered else copy, each) for name, each in content["state"].items()}
    return cast("dict[str, Any]", tree_map(copy, {**content, "state": None})) | {"state": state}


def _written_parts(writing: Any, path: Path, name: str, rank: int, needed: int) -> list[CheckpointFile]:
    with full_disk_errors(path, num_bytes=needed, kind=CheckpointError), errors_of_parts():
        writing.result()
    own = [*path.glob(f"__{rank}_*"), *([path / ".metadata"] if rank == 0 else [])]
    return [describe_file(part, f"{name}/{part.name}") for part in sorted(own)]


def _write_file(content: dict[str, Any], path: Path, name: str, needed: int) -> CheckpointFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_errors(path.parent, num_bytes=needed, kind=CheckpointError), path.open("wb") as handle:
        hashing = _HashingFile(handle)
        torch.save(content, cast("Any", hashing))
        handle.flush()
        os.fsync(handle.fileno())
    return CheckpointFile(name, hashing.size, hashing.digest.hexdigest())


class _HashingFile:
    """A file for `torch.save`, which writes in one pass from the first byte to the last."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self.digest = xxhash.xxh3_128()
        self.size = 0

    def write(self, block: Any) -> int:
        self.digest.update(block)
        self.size += memoryview(block).nbytes
        return self._handle.write(block)

    def flush(self) -> None:
        self._handle.flush()

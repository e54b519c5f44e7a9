"""Free space in shared memory, which holds an epoch's order and the batches in flight."""

from __future__ import annotations

import shutil
from pathlib import Path

from meap.errors import ConfigError

__all__ = ["describe_full_memory", "require_shared_memory"]

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def require_shared_memory(num_bytes: int, purpose: str) -> None:
    """Raise `ConfigError` unless `num_bytes` are free: a process that runs out of them is killed without a message.

    Args:
        num_bytes: How much will be written.
        purpose: What for, as the message says it.
    """
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < num_bytes:
        raise ConfigError(describe_full_memory(num_bytes, purpose))


def describe_full_memory(num_bytes: int, purpose: str) -> str:
    """That `num_bytes` of shared memory are not free, and what to do about it; see `require_shared_memory`."""
    free = shutil.disk_usage(_SHARED_MEMORY).free
    return (
        f"{_SHARED_MEMORY} has {free:,} bytes free, and {purpose} takes {num_bytes:,}: end what fills it, or make it "
        "larger (docker run --shm-size=16g; mount -o remount,size=16g /dev/shm)"
    )

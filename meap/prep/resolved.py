"""Configurations in which every value is set, and what the three preparations check alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from meap.config.prep import JobConfig, LitpkdsPrepConfig, PrepConfig, SftPrepConfig
from meap.errors import ConfigError
from meap.mds.index import is_compression
from meap.places.addresses import require_plain_url
from meap.prep.inputs import InputFiles
from meap.prep.sizes import bytes_of_size

__all__ = [
    "ResolvedJob",
    "ResolvedLitpkds",
    "ResolvedPrep",
    "ResolvedSft",
    "check_addresses",
    "check_shard_settings",
    "default_tasks",
    "patterns_of",
    "require_tasks",
]

_TASK_BYTES = 256_000_000
_SHARD_OVERHEAD = 4096
"""Bytes of a shard that are not rows (header, offsets of a single row), rounded up."""


@dataclass(frozen=True)
class ResolvedJob(JobConfig):
    """A configuration whose values depend on nothing but themselves."""

    source: str | tuple[str, ...] = "sample"
    remote: str = ""
    seq_len: int = 4096
    heldout_ratio: float = 0.0
    tasks: int = 1

    @classmethod
    def of(cls, config: JobConfig, **values: Any) -> Self:
        """The configuration with `values` in place of its own."""
        return cls(**{item.name: getattr(config, item.name) for item in fields(config)} | values)


@dataclass(frozen=True)
class ResolvedPrep(ResolvedJob, PrepConfig):
    """Of documents."""


@dataclass(frozen=True)
class ResolvedSft(ResolvedJob, SftPrepConfig):
    """Of conversations."""

    max_length: int = 4096
    min_answer_tokens: int = 50


@dataclass(frozen=True)
class ResolvedLitpkds(ResolvedJob, LitpkdsPrepConfig):
    """Of the official code's chunks."""


def patterns_of(source: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """What `source` or `validation_source` lists."""
    return (source,) if isinstance(source, str) else source or ()


def check_addresses(config: JobConfig, *, example: str) -> None:
    """Raise `ConfigError` where an address is missing or holds a secret.

    Args:
        config: `source` and `remote` are checked.
        example: A folder to write to, for the error message.
    """
    for pattern in patterns_of(config.source):
        require_plain_url("source", pattern)
    if config.remote is None:
        shown = ",".join(patterns_of(config.source))
        raise ConfigError(f"remote is not set: for source={shown} say where to write, as remote={example}")
    require_plain_url("remote", config.remote)


def check_shard_settings(config: JobConfig, *, row_bytes: int, seq_len: int) -> None:
    """Check how shards are written.

    Args:
        config: `compression` and `shard_size` are checked.
        row_bytes: Bytes of the largest row.
        seq_len: Its input tokens, for the error message.

    Raises:
        ConfigError: A value is unknown, or no row would fit.
    """
    if not is_compression(config.compression):
        raise ConfigError(f"compression={config.compression!r} is not known: use zstd, zstd:1 to zstd:22, or null")
    num_bytes = bytes_of_size(config.shard_size)
    smallest = row_bytes + _SHARD_OVERHEAD
    if not smallest <= num_bytes < 1 << 32:
        raise ConfigError(
            f"shard_size={config.shard_size} is out of range: with seq_len={seq_len} it must be at least {smallest} "
            "bytes, and less than 4gb; 64mb suits most"
        )


def default_tasks(inputs: InputFiles) -> int:
    """A task per 256 MB of input, at most one per file; and one for validation files."""
    size = sum(inputs.sizes[inputs.num_validation :])
    extra = 1 if inputs.num_validation else 0
    return extra + max(1, min(len(inputs.names) - inputs.num_validation, math.ceil(size / _TASK_BYTES)))


def require_tasks(tasks: int, inputs: InputFiles) -> int:
    """`tasks`, unless there are fewer files.

    Raises:
        ConfigError: There are fewer.
    """
    extra = 1 if inputs.num_validation else 0
    most = len(inputs.names) - inputs.num_validation + extra
    if tasks > most:
        raise ConfigError(
            f"tasks={tasks} is more than the {most - extra} input files{' and one for validation_source' * extra}: a "
            f"task reads whole files, so tasks={most} is the most"
        )
    return tasks

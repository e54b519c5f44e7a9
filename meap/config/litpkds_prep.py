"""The configuration of an import: packed chunks of the official code in, shards of rows out."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of, require_ratio
from meap.config.executors import EXECUTORS, RayConfig, SlurmConfig
from meap.config.sections import TokenizerConfig
from meap.errors import ConfigError

__all__ = ["LitpkdsPrepConfig"]


@dataclass(frozen=True)
class LitpkdsPrepConfig:
    """Everything that decides what is written; but for what runs it: executor, workers, slurm and ray."""

    source: str | None = None
    """Chunks that lit-gpt's PackedDatasetBuilder wrote: a path, glob, folder or URL (hf://, s3://) of .bin files."""
    remote: str | None = None
    """Folder or URL (s3://, ...) to write."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    seq_len: int = 4096
    """Input tokens per row; chunks are cut into blocks of seq_len + 1 tokens, as the official code reads them."""
    heldout_ratio: float = 0.01
    """Share of blocks kept for validation, chosen by a hash of their tokens; in [0, 1)."""
    tasks: int | None = None
    """Independent parts the work is cut into; part of the output's identity. Unset: one per 256 MB of input."""
    executor: str = "local"
    """What runs the tasks: `local` (processes here), `slurm` (an array job), `ray`. Never changes the output."""
    workers: int = 0
    """Tasks that run at the same time; 0 uses every core here, or what the cluster gives. Never changes the output."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    shard_size: str = "64mb"
    """Uncompressed size at which a shard is closed."""
    compression: str | None = "zstd:3"
    """Compression of shards (zstd, zstd:LEVEL), or null for none."""
    seed: int = 0
    """Seed of the held-out split; 0 to 2**32 - 1."""
    progress_interval: float = 5.0
    """Seconds between progress lines, and between questions to Slurm."""

    def __post_init__(self) -> None:
        require_at_least("seq_len", self.seq_len, 2)
        require_ratio("heldout_ratio", self.heldout_ratio, remedy="0.01 keeps one block in a hundred.")
        require_one_of("executor", self.executor, EXECUTORS)
        require_at_least("workers", self.workers, 0)
        if self.tasks is not None:
            require_at_least("tasks", self.tasks, 1)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")
        if self.progress_interval <= 0:
            raise ConfigError(f"progress_interval={self.progress_interval} must be more than 0 seconds")

"""The configuration of fine-tuning data: conversations in, packed shards of whole conversations out."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of, require_ratio
from meap.config.executors import EXECUTORS, RayConfig, SlurmConfig
from meap.config.sections import TokenizerConfig
from meap.errors import ConfigError

__all__ = ["SftPrepConfig"]


@dataclass(frozen=True)
class SftPrepConfig:
    """Everything that decides what is written; but for what runs it: executor, workers, slurm and ray."""

    source: str = "sample"
    """`sample` (made here), or files: path, glob, folder, URL (hf://, s3://) of .json, .jsonl(.gz, .zst), .parquet."""
    remote: str | None = None
    """Folder or URL (s3://, ...) to write. Unset: data/sample_sft/mds, for the built-in sample only."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    format: str = "auto"
    """Fields of a record: `alpaca` (instruction, input, output), `sharegpt` (conversations), `messages`; or `auto`."""
    template: str = "auto"
    """`tokenizer`: its own chat template; `default`: Alpaca's prompt; `auto`: the tokenizer's where it has one."""
    max_length: int | None = None
    """Tokens of a conversation, at least 2; what lies beyond is cut off and counted. Unset: 4096, or 128 for sample."""
    copies: bool = True
    """Whether rows leave room for a masked copy of conversations with long answers; false for an NTP control."""
    min_answer_tokens: int | None = None
    """Conversations with MORE scored tokens than this, over all turns, get a copy. Unset: 50, or 12 for sample."""
    seq_len: int | None = None
    """Positions of a row. Unset: 2 * max_length, so that the longest conversation fits beside its copy."""
    pack: bool = True
    """Whether a row holds as many conversations as fit; false gives each a row of its own, mostly padding."""
    heldout_ratio: float = 0.01
    """Share of conversations kept for validation, chosen by a hash of their text; in [0, 1)."""
    max_bad_records: int = 100
    """Unusable records per task that are counted and reported before they become fatal; 0 allows none."""
    tasks: int | None = None
    """Independent parts the work is cut into; conversations of different tasks never share a row. Unset: 1."""
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
    """Seed of the held-out split (and of the sample); 0 to 2**32 - 1."""
    progress_interval: float = 5.0
    """Seconds between progress lines, and between questions to Slurm."""

    def __post_init__(self) -> None:
        require_one_of("format", self.format, ("auto", "alpaca", "sharegpt", "messages"))
        require_one_of("template", self.template, ("auto", "tokenizer", "default"))
        if self.max_length is not None:
            require_at_least("max_length", self.max_length, 2)
        if self.min_answer_tokens is not None:
            require_at_least("min_answer_tokens", self.min_answer_tokens, 0)
        require_ratio("heldout_ratio", self.heldout_ratio, remedy="0.01 keeps one conversation in a hundred.")
        require_at_least("max_bad_records", self.max_bad_records, 0)
        require_one_of("executor", self.executor, EXECUTORS)
        require_at_least("workers", self.workers, 0)
        if self.tasks is not None:
            require_at_least("tasks", self.tasks, 1)
        if self.seq_len is not None and self.max_length is not None and self.seq_len < self.longest:
            raise ConfigError(
                f"seq_len={self.seq_len} is too small: with max_length={self.max_length} and copies={self.copies} a "
                f"conversation can take {self.longest} positions; raise seq_len or lower max_length"
            )
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")
        if self.progress_interval <= 0:
            raise ConfigError(f"progress_interval={self.progress_interval} must be more than 0 seconds")

    @property
    def longest(self) -> int:
        """Positions that one conversation can take; of a resolved configuration."""
        assert self.max_length is not None
        return self.max_length * (2 if self.copies else 1)

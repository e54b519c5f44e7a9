"""The configuration of data preparation: raw text in, packed shards out."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of, require_ratio
from meap.config.removal import DedupConfig, FiltersConfig
from meap.config.sections import TokenizerConfig
from meap.errors import ConfigError

__all__ = ["PrepConfig"]


@dataclass(frozen=True)
class PrepConfig:
    """Everything that decides what is written; `engine` and `workers` are the keys that do not change the output."""

    source: str = "sample"
    """A corpus by name (meap/prep/corpora.py), or files: a path, glob or URL (hf://, s3://, gs://) of JSON lines."""
    remote: str | None = None
    """Folder or URL (s3://, ...) to write. Unset: data/sample/mds, for the built-in sample only."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    seq_len: int | None = None
    """Input tokens per row (rows hold one more). Unset: what the corpus names, 4096 for files."""
    text_key: str | None = None
    """Field of a JSON line that holds the document. Unset: what the corpus names, text for files."""
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    """Which documents are left out for what they are; none unless asked for."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Which documents are left out since there is an earlier one like them; none unless asked for."""
    engine: str = "auto"
    """`auto`: the fastest way that gives the ids of `tokenizers` on every probe; `tokenizers`: that alone. Same ids."""
    heldout_ratio: float = 0.01
    """Share of documents kept for validation, chosen by a hash of their text; in [0, 1)."""
    max_bad_lines: int = 100
    """Unreadable lines per task that are counted and reported before they become fatal; 0 allows none."""
    tasks: int | None = None
    """Independent parts the work is cut into; part of the output's identity. Unset: one per 256 MB of input."""
    workers: int = 0
    """Tasks that run at the same time on this machine; 0 uses every core. Never changes the output."""
    shard_size: str = "64mb"
    """Uncompressed size at which a shard is closed."""
    compression: str | None = "zstd:3"
    """Compression of shards (zstd, zstd:LEVEL), or null for none."""
    seed: int = 0
    """Seed of the held-out split (and of the sample corpus); 0 to 2**32 - 1."""
    progress_interval: float = 5.0
    """Seconds between progress lines."""

    def __post_init__(self) -> None:
        require_ratio("heldout_ratio", self.heldout_ratio, remedy="0.01 keeps one document in a hundred.")
        require_one_of("engine", self.engine, ("auto", "tokenizers"))
        require_at_least("max_bad_lines", self.max_bad_lines, 0)
        require_at_least("workers", self.workers, 0)
        if self.seq_len is not None:
            require_at_least("seq_len", self.seq_len, 2)
        if self.tasks is not None:
            require_at_least("tasks", self.tasks, 1)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")
        if self.progress_interval <= 0:
            raise ConfigError(f"progress_interval={self.progress_interval} must be more than 0 seconds")

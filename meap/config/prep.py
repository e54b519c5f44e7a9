"""The configuration of data preparation: raw text in, packed shards out."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of, require_ratio
from meap.config.executors import EXECUTORS, RayConfig, SlurmConfig
from meap.config.removal import DedupConfig, FiltersConfig
from meap.config.sections import TokenizerConfig
from meap.errors import ConfigError

__all__ = ["LongConfig", "PrepConfig", "PrepStreamConfig"]

TEXT_UNITS = ("file", "line", "paragraph")


@dataclass(frozen=True)
class LongConfig:
    """Section `long`: raises the share of long documents, within each stream, by leaving out short ones."""

    share: float = 0.0
    """Least share of the tokens that is in long documents, at every moment; in [0, 1). 0 leaves out nothing."""
    min_tokens: int = 4096
    """Tokens, BOS and EOS included, from which a document is long."""

    def __post_init__(self) -> None:
        require_ratio("long.share", self.share, remedy="0.7 is Fu et al.'s for context extension, 0 is off.")
        require_at_least("long.min_tokens", self.min_tokens, 3)


@dataclass(frozen=True)
class PrepStreamConfig:
    """An entry of `streams`: how much of a stream is wanted."""

    proportion: float = 0.0
    """Its share of `max_tokens`, relative to the other streams; 0 leaves it out."""

    def __post_init__(self) -> None:
        require_at_least("streams.<name>.proportion", self.proportion, 0)


@dataclass(frozen=True)
class PrepConfig:
    """Everything that decides what is written, and what runs it: engine, executor, workers, slurm and ray."""

    source: str = "sample"
    """A corpus by name (meap/prep/corpora.py), or files: path, folder, glob or URL (hf://, s3://, gs://).

    JSON lines (.jsonl, .json), parquet, or plain text (.txt); .gz, .zst, .xz or .bz2 may follow all but .parquet.
    """
    validation_source: str | None = None
    """The same for files whose documents are the validation split; those of `source` are all for training then."""
    remote: str | None = None
    """Folder or URL (s3://, ...) to write. Unset: data/sample/mds, for the built-in sample only."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    seq_len: int | None = None
    """Input tokens per row (rows hold one more). Unset: what the corpus names, 4096 for files."""
    text_key: str | None = None
    """Field of a JSON line, or column, that holds the document. Unset: what the corpus names, text for files."""
    text_unit: str = "file"
    """What a document is in plain text: `file`, `line`, or `paragraph` (lines up to a blank one)."""
    stream_key: str | None = None
    """Field (a.b where nested) by whose values the corpus is divided into data sets, <remote>/<value>/train; or one."""
    streams: dict[str, PrepStreamConfig] = field(default_factory=dict[str, PrepStreamConfig])
    """How `max_tokens` is divided among the streams, by name. Unset: as the documents come."""
    max_tokens: int | None = None
    """Tokens of the train split, at most; what remains is not read. Each task takes its part, in whole documents."""
    long: LongConfig = field(default_factory=LongConfig)
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    """Which documents are left out for what they are; none unless asked for."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Which documents are left out since there is an earlier one like them; none unless asked for."""
    engine: str = "auto"
    """`auto`: the fastest way that gives the ids of `tokenizers` on every probe; `tokenizers`: that alone. Same ids."""
    heldout_ratio: float | None = None
    """Share of documents kept for validation, by a hash of their text; in [0, 1). Unset: 0.01, beside own files 0."""
    max_bad_lines: int = 100
    """Unreadable lines per task that are counted and reported before they become fatal; 0 allows none."""
    tasks: int | None = None
    """Independent parts the work is cut into; part of the output's identity. Unset: one per 256 MB of input.

    With `validation_source` the first of them reads its files.
    """
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
    """Seed of the held-out split (and of the sample corpus); 0 to 2**32 - 1."""
    progress_interval: float = 5.0
    """Seconds between progress lines, and between questions to Slurm."""

    def __post_init__(self) -> None:
        if self.heldout_ratio is not None:
            require_ratio("heldout_ratio", self.heldout_ratio, remedy="0.01 keeps one document in a hundred.")
        if self.heldout_ratio and self.validation_source is not None:
            raise ConfigError(
                f"heldout_ratio={self.heldout_ratio} and validation_source={self.validation_source} exclude each other"
                ": the validation split is either a share of the documents or files of its own; leave one of them unset"
            )
        require_one_of("text_unit", self.text_unit, TEXT_UNITS)
        if self.max_tokens is not None:
            require_at_least("max_tokens", self.max_tokens, 1)
        self._check_streams()
        require_one_of("engine", self.engine, ("auto", "tokenizers"))
        require_at_least("max_bad_lines", self.max_bad_lines, 0)
        require_one_of("executor", self.executor, EXECUTORS)
        require_at_least("workers", self.workers, 0)
        if self.seq_len is not None:
            require_at_least("seq_len", self.seq_len, 2)
        if self.tasks is not None:
            require_at_least("tasks", self.tasks, 1)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")
        if self.progress_interval <= 0:
            raise ConfigError(f"progress_interval={self.progress_interval} must be more than 0 seconds")

    def _check_streams(self) -> None:
        if not self.streams:
            return
        for key in ("stream_key", "max_tokens"):
            if getattr(self, key) is None:
                raise ConfigError(
                    f"streams divides max_tokens by stream_key, but {key} is not set: set both, or neither"
                )
        if not any(stream.proportion for stream in self.streams.values()):
            raise ConfigError(f"streams ({', '.join(self.streams)}) have proportion 0, all of them: raise one")

"""The configuration of data preparation: one `JobConfig` under those of documents, conversations and imports."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of, require_ratio
from meap.config.data import TokenizerConfig
from meap.config.executors import ExecutorConfig
from meap.config.removal import DedupConfig, FiltersConfig
from meap.errors import ConfigError

__all__ = [
    "JobConfig",
    "LitpkdsPrepConfig",
    "LongConfig",
    "PrepConfig",
    "PrepStreamConfig",
    "SftPrepConfig",
    "TextTokenizerConfig",
]

TEXT_UNITS = ("file", "line", "paragraph")
SEPARATORS = ("auto", "bos_eos", "eos")
TURNS = ("all", "last", "each")
SPECIAL_TOKENS_IN_TEXT = ("text", "token", "refuse")


@dataclass(frozen=True)
class TextTokenizerConfig(TokenizerConfig):
    """Section `tokenizer` of the preparation of documents."""

    separator: str = "auto"
    """What stands around each document: `bos_eos` (BOS before it, EOS after it), or `eos` alone. `auto`: both, but EOS
    alone where the tokenizer has no BOS, or one token for both."""
    special_tokens_in_text: str = "text"
    """What becomes of special tokens that a document spells, such as `<s>` or `<|endoftext|>`: `text` encodes them as
    the characters that they are, `token` as the token itself, `refuse` stops. The mask token never becomes a token."""

    def __post_init__(self) -> None:
        require_one_of("tokenizer.separator", self.separator, SEPARATORS)
        require_one_of("tokenizer.special_tokens_in_text", self.special_tokens_in_text, SPECIAL_TOKENS_IN_TEXT)


@dataclass(frozen=True)
class JobConfig(ExecutorConfig):
    """Keys of every preparation: what is read, how it is split into tasks, and how shards are written."""

    source: str | tuple[str, ...] | None = None
    """Files to read: a path, folder, glob or URL (hf://, s3://, gs://), or a list of these, read in its order."""
    remote: str | None = None
    """Folder or URL (s3://, ...) to write."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    seq_len: int | None = None
    """Input tokens per row, at least 2."""
    heldout_ratio: float | None = 0.01
    """Share of the input kept for validation, chosen by a hash of its content; in [0, 1)."""
    seed: int = 0
    """Seed of the held-out split (and of a built-in sample); 0 to 2**32 - 1."""
    tasks: int | None = None
    """Independent parts of the work, each of whole files; part of the output's identity. Unset: one per 256 MB."""
    shard_size: str = "64mb"
    """Uncompressed size of a shard; below 4gb."""
    compression: str | None = "zstd:3"
    """Compression of shards: zstd, zstd:1 to zstd:22, or null for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == ():
            raise ConfigError("source=[] is an empty list: name at least one path, folder, glob or URL")
        if self.seq_len is not None:
            require_at_least("seq_len", self.seq_len, 2)
        if self.heldout_ratio is not None:
            require_ratio("heldout_ratio", self.heldout_ratio, remedy="0.01 holds out one in a hundred.")
        if self.tasks is not None:
            require_at_least("tasks", self.tasks, 1)
        if not 0 <= self.seed < 1 << 32:
            raise ConfigError(f"seed={self.seed} is out of range: it must be in [0, {(1 << 32) - 1}]")


@dataclass(frozen=True)
class LongConfig:
    """Section `long`: raises the share of long documents within each stream by leaving out short ones."""

    share: float = 0.0
    """Lowest share of the tokens that are in long documents, at any point of a stream; in [0, 1). 0 drops nothing."""
    min_tokens: int = 4096
    """Fewest tokens of a long document, BOS and EOS included."""

    def __post_init__(self) -> None:
        require_ratio("long.share", self.share, remedy="0.7 is Fu et al.'s for context extension, 0 is off.")
        require_at_least("long.min_tokens", self.min_tokens, 3)


@dataclass(frozen=True)
class PrepStreamConfig:
    """An entry of `streams`: how many tokens of a stream are taken."""

    proportion: float = 0.0
    """Its share of `max_tokens`, relative to the other streams; 0 skips it."""

    def __post_init__(self) -> None:
        require_at_least("streams.<name>.proportion", self.proportion, 0)


@dataclass(frozen=True)
class PrepConfig(JobConfig):
    """Keys of dataprep/c4_to_mds.py: documents in, packed rows out."""

    source: str | tuple[str, ...] = "sample"
    """A corpus by name (meap/prep/corpora.py), or files: a path, folder, glob or URL (hf://, s3://, gs://), or a list.

    JSON lines or arrays (.jsonl, .json, .ndjson), parquet, .csv, or plain text (.txt); .gz, .zst, .xz or .bz2 may
    follow all but .parquet. hf://datasets/NAME alone stands for the train split of that data set.
    """
    validation_source: str | tuple[str, ...] | None = None
    """Files of the same kinds whose documents are the validation split; all documents of `source` then train."""
    remote: str | None = None
    """Folder or URL (s3://, ...) to write. Unset: data/sample/mds, for the built-in sample only."""
    tokenizer: TextTokenizerConfig = field(default_factory=TextTokenizerConfig)
    seq_len: int | None = None
    """Input tokens per row (rows store one more), at least 2. Unset: 4096, or 256 for the sample."""
    text_key: str = "text"
    """Field (a.b if nested) of a JSON line, or column, that holds the document."""
    text_unit: str = "file"
    """What a document is in plain text: `file`, `line`, or `paragraph` (lines up to a blank one)."""
    id_key: str | None = None
    """Field (a.b if nested) with the id of a document, shown in messages and examples of removed documents."""
    stream_key: str | None = None
    """Field (a.b if nested) whose values divide the corpus into data sets, <remote>/<value>/train. Unset: one."""
    streams: dict[str, PrepStreamConfig] = field(default_factory=dict[str, PrepStreamConfig])
    """How `max_tokens` is divided among the streams, by name. Unset: as the documents come."""
    max_tokens: int | None = None
    """Most tokens of the train split; the rest is not read. Each task takes its share, in whole documents."""
    long: LongConfig = field(default_factory=LongConfig)
    filters: FiltersConfig = field(default_factory=FiltersConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    engine: str = "auto"
    """`auto`: the fastest engine whose ids match `tokenizers` on a probe; `tokenizers`: the reference.

    Both give the same ids.
    """
    heldout_ratio: float | None = None
    """Share of documents kept for validation, by a hash of their text; in [0, 1). Unset: 0.01, or 0 if the corpus or
    `validation_source` has a validation set."""
    max_bad_lines: int = 100
    """Unreadable lines per task that are counted and reported before they become fatal; 0 allows none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heldout_ratio and self.validation_source is not None:
            raise ConfigError(
                f"heldout_ratio={self.heldout_ratio} and validation_source={self.validation_source} exclude each other"
                ": the validation split is either a share of the documents or files of its own; unset one of them"
            )
        require_one_of("text_unit", self.text_unit, TEXT_UNITS)
        if self.max_tokens is not None:
            require_at_least("max_tokens", self.max_tokens, 1)
        self._check_streams()
        require_one_of("engine", self.engine, ("auto", "tokenizers"))
        require_at_least("max_bad_lines", self.max_bad_lines, 0)

    def _check_streams(self) -> None:
        if not self.streams:
            return
        for key in ("stream_key", "max_tokens"):
            if getattr(self, key) is None:
                raise ConfigError(
                    f"streams divides max_tokens by stream_key, but {key} is not set: set both, or neither"
                )
        if not any(stream.proportion for stream in self.streams.values()):
            raise ConfigError(f"streams ({', '.join(self.streams)}) all have proportion 0: raise one")


@dataclass(frozen=True)
class SftPrepConfig(JobConfig):
    """Keys of dataprep/sft_to_mds.py: conversations in, packed rows of whole conversations out."""

    source: str | tuple[str, ...] = "sample"
    """`sample` (made here), or files: a path, folder, glob or URL (hf://, s3://, gs://), or a list of these.

    JSON arrays or lines (.json, .jsonl, .ndjson), parquet or .csv; .gz, .zst, .xz or .bz2 may follow all but .parquet.
    """
    remote: str | None = None
    """Folder or URL (s3://, ...) to write. Unset: data/sample_sft/mds, for the built-in sample only."""
    format: str = "auto"
    """Fields of a record: `messages`, `sharegpt` (conversations), `alpaca` (instruction, input, output, history),
    `prompt_completion`; or `auto`."""
    template: str = "auto"
    """`tokenizer`: its own chat template; `default`: Alpaca's prompt; `auto`: the tokenizer's if it has one."""
    turns: str = "all"
    """Answers that are scored: `all` of a conversation; the `last` one; or `each` as the last of a conversation of its
    own, its history before it as the template then writes it (templates that drop the thoughts of earlier answers)."""
    max_length: int | None = None
    """Most tokens of a conversation, at least 2; the rest is cut off and counted. Unset: 4096, or 128 for the sample,
    and never more than fits, beside its copy, a row of `seq_len` and the context of the model that `tokenizer.name`
    names (its config.json)."""
    copies: bool = True
    """Whether rows leave room for a masked copy of conversations with long answers; false for an NTP control."""
    min_answer_tokens: int | None = None
    """Answers with MORE tokens than this, their end of turn not counted, are masked in a copy. Unset: 50, or 12 for the
    sample."""
    seq_len: int | None = None
    """Positions of a row. Unset: 2 * max_length, so that the longest conversation fits beside its copy; max_length
    with copies=false."""
    pack: bool = True
    """Whether a row holds as many conversations as fit; false gives each its own row, mostly padding."""
    heldout_ratio: float = 0.01
    """Share of conversations kept for validation, chosen by a hash of their text; in [0, 1)."""
    max_bad_records: int = 100
    """Unusable records per task that are counted and reported before they become fatal; 0 allows none."""
    tasks: int | None = None
    """Independent parts of the work; conversations of different tasks never share a row. Unset: 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("format", self.format, ("auto", "alpaca", "sharegpt", "messages", "prompt_completion"))
        require_one_of("template", self.template, ("auto", "tokenizer", "default"))
        require_one_of("turns", self.turns, TURNS)
        if self.max_length is not None:
            require_at_least("max_length", self.max_length, 2)
        if self.min_answer_tokens is not None:
            require_at_least("min_answer_tokens", self.min_answer_tokens, 0)
        require_at_least("max_bad_records", self.max_bad_records, 0)
        if self.seq_len is None:
            return
        require_at_least("seq_len", self.seq_len, 2 * self.views)
        if self.max_length is not None and self.seq_len < self.max_length * self.views:
            raise ConfigError(
                f"seq_len={self.seq_len} is too small: with max_length={self.max_length} and copies={self.copies} a "
                f"conversation can take {self.max_length * self.views} positions; raise seq_len or lower max_length"
            )

    @property
    def views(self) -> int:
        """Most views of a conversation in its row: itself, and its masked copy."""
        return 2 if self.copies else 1


@dataclass(frozen=True)
class LitpkdsPrepConfig(JobConfig):
    """Keys of dataprep/litpkds_to_mds.py: packed chunks of the official code in, rows out."""

    source: str | tuple[str, ...] | None = None
    """Chunks that lit-gpt's PackedDatasetBuilder wrote: a path, folder, glob or URL (hf://, s3://) of .bin files, or a
    list."""
    seq_len: int = 4096
    """Input tokens per row; chunks are cut into blocks of seq_len + 1 tokens, as the official code reads them."""
    heldout_ratio: float = 0.01
    """Share of blocks kept for validation, chosen by a hash of their tokens; in [0, 1)."""

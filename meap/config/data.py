"""What is read: sections `tokenizer` and `data`. Units and bounds stand under each field."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of
from meap.errors import ConfigError

__all__ = ["DataConfig", "StreamConfig", "TokenizerConfig"]

_STREAM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SIZE = re.compile(r"\d+b?|\d+(\.\d+)?[kmgt]b", re.IGNORECASE)


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and which of its tokens delimit documents and mark masks."""

    name: str | None = None
    """Local folder with a tokenizer.json, or a name on the Hugging Face hub. Unset: in training the one stored with the
    data, in evaluation the model's, in preparation the built-in sample's; other data need one."""
    bos_token: str | None = None
    """Token before each document. Unset: the tokenizer's own."""
    eos_token: str | None = None
    """Token after each document. Unset: the tokenizer's own."""
    mask_token: str = "[MASK]"  # noqa: S105 (not a secret)
    """Token that replaces masked inputs; added to the vocabulary where it is missing."""


@dataclass(frozen=True)
class StreamConfig:
    """One of several prepared data sets that training mixes."""

    remote: str = ""
    """Folder or URL that data preparation wrote; must be set."""
    proportion: float | None = None
    """Share of the training rows, relative to the other streams: 2 beside 1 is two thirds. For all streams or none."""


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from and in which order; forwarded to streaming's dataset under streaming's own names.

    What is not here is fixed, because the order of samples would otherwise depend on the machines: epoch_size (a
    multiple of the batch and of num_canonical_nodes), batch_size (the loader's), shuffle_seed (run.seed),
    sampling_granularity, partition_algo and replication.
    """

    remote: str = "data/sample/mds"
    """Folder or URL (s3://, gs://, ...) that data preparation wrote. Not read where there are streams."""
    streams: dict[str, StreamConfig] = field(default_factory=dict[str, StreamConfig])
    """Several data sets by name, mixed. With proportions, an epoch has as many rows as all streams together; a stream
    drawn for more rows than it has repeats rows, each time with other masks. Without, every row comes once per epoch.
    Held-out loss counts each row that it measures once; see train.eval_batches."""
    cache_dir: str | None = None
    """Local folder for downloaded shards, with one folder per stream; runs cannot share it. Unset: one per node
    below <run.dir>/cache."""
    seq_len: int = 4096
    """Input tokens per row; must equal seq_len of data preparation."""
    num_canonical_nodes: int = 24
    """Fixes the sample order for any number of nodes; a common multiple of all node counts the run may use. The rows of
    an epoch are a multiple of it and of the batch. Data with fewer rows than that use 1."""
    shuffle: bool = True
    """Whether training rows are shuffled, differently in each epoch."""
    shuffle_algo: str = "py1e"
    """`py1e`, or `py1br` (rows meet within blocks), `py1s`, `py2s` (whole shards in random order)."""
    shuffle_block_size: int = 65536
    """Rows within which py1e and py1br shuffle; at least 1. A cold start downloads about half a block for each
    canonical node: 6 GB for rows of 4,096 tokens and 24 canonical nodes."""
    sampling_method: str = "balanced"
    """Rows of a stream in an epoch that cannot hold all: `balanced`: different ones each epoch; `fixed`: the same."""
    batching_method: str = "random"
    """`random` draws a batch from the mixture; `stratified` gives every global batch the same number of rows of each
    stream: proportions, which it needs, are rounded to whole rows of the batch."""
    num_workers: int = 2
    """Loader processes per rank; 0 loads in the training process."""
    predownload: int | None = None
    """Rows to download ahead per worker, at least 1. Unset: eight device batches."""
    cache_limit: str | None = None
    """Largest size of the local cache of a split, such as 100gb. Must hold every shard that workers may read at once,
    plus four. Unset: no limit."""
    keep_zip: bool = False
    """Whether the cache keeps the compressed file of a shard, too; both count towards cache_limit."""
    validate_hash: bool = True
    """Whether each downloaded shard is checked against the hash that data preparation stored."""
    download_retry: int = 3
    """Retries of a failed download of a shard."""
    download_timeout: float = 60.0
    """Seconds without a byte after which a download counts as failed."""
    download_patience: float = 300.0
    """Seconds for which a store that cannot be reached is asked again, however often, before a run ends. 0: as often as
    `download_retry` says. Where `train.dist_timeout` is less, the other ranks end before."""

    def __post_init__(self) -> None:
        require_at_least("data.seq_len", self.seq_len, 2)
        require_at_least("data.num_canonical_nodes", self.num_canonical_nodes, 1)
        require_one_of("data.shuffle_algo", self.shuffle_algo, ("py1e", "py1br", "py1s", "py2s"))
        require_at_least("data.shuffle_block_size", self.shuffle_block_size, 1)
        require_one_of("data.sampling_method", self.sampling_method, ("balanced", "fixed"))
        require_at_least("data.num_workers", self.num_workers, 0)
        if self.predownload is not None:
            require_at_least("data.predownload", self.predownload, 1)
        if self.cache_limit is not None and not _SIZE.fullmatch(self.cache_limit):
            raise ConfigError(f"data.cache_limit={self.cache_limit!r} is not a size: write for example 100gb")
        require_at_least("data.download_retry", self.download_retry, 0)
        if self.download_timeout <= 0:
            raise ConfigError(f"data.download_timeout={self.download_timeout} must be more than 0 seconds")
        require_at_least("data.download_patience", self.download_patience, 0)
        self._require_streams()
        self._require_batching()

    def _require_streams(self) -> None:
        for name, stream in self.streams.items():
            if not _STREAM_NAME.fullmatch(name):
                raise ConfigError(
                    f"data.streams: {name[:80]!r} is not a valid name for a stream and its cache folder: "
                    "use up to 64 letters, digits, - and _"
                )
            if not stream.remote:
                raise ConfigError(f"data.streams.{name}.remote is not set: give the folder or URL of its shards")
            if stream.proportion is not None and not 0 < stream.proportion < math.inf:
                raise ConfigError(
                    f"data.streams.{name}.proportion={stream.proportion} is out of range: it must be more than 0 "
                    "(remove a stream that should give no rows)"
                )
        places = {stream.remote.rstrip("/"): name for name, stream in self.streams.items()}
        for name, stream in self.streams.items():
            if (other := places[stream.remote.rstrip("/")]) != name:
                raise ConfigError(
                    f"data.streams.{name} and data.streams.{other} are both {stream.remote}: leave one of them out "
                    "and raise the other's proportion, so that repeated rows are known as such"
                )
        without = [name for name, stream in self.streams.items() if stream.proportion is None]
        if 0 < len(without) < len(self.streams):
            raise ConfigError(
                f"data.streams.{without[0]}.proportion is not set, but other streams have one: "
                "set it for all streams, or for none to read every row once per epoch"
            )

    def _require_batching(self) -> None:
        if self.batching_method in {"per_stream", "device_per_stream"}:
            raise ConfigError(
                f"data.batching_method={self.batching_method} is refused: the samples of a step would depend on the "
                "number of devices, and a run could not be resumed on others; choose random or stratified"
            )
        require_one_of("data.batching_method", self.batching_method, ("random", "stratified"))
        if self.batching_method == "stratified" and not any(each.proportion for each in self.streams.values()):
            raise ConfigError(
                "data.batching_method=stratified needs data.streams with proportions: set them, or choose random"
            )

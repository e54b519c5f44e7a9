"""Corpora by name: one row each. A new corpus is one row here and a yaml.

A source that is no name in the table is taken as files: a path, a glob, a folder or a URL.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meap.config.litpkds_prep import LitpkdsPrepConfig
from meap.config.prep import PrepConfig
from meap.config.sft_prep import SftPrepConfig
from meap.errors import ConfigError
from meap.mds.index import is_compression
from meap.places.addresses import require_plain_url
from meap.prep.formats import format_of
from meap.prep.inputs import InputFiles, find_inputs, with_validation
from meap.prep.sizes import bytes_of_size

__all__ = [
    "CORPORA",
    "SAMPLE_DIR",
    "Corpus",
    "check_import",
    "check_settings",
    "check_shards",
    "make_sample",
    "resolve",
]

SAMPLE_DIR = Path("data/sample")

_TASK_BYTES = 256_000_000
_HELDOUT_RATIO = 0.01
_SHARD_OVERHEAD = 4096
"""Bytes of a shard that are not rows: header, offsets of a single row; generous."""


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lies and how its rows are cut unless the configuration says otherwise."""

    files: str
    """Path, glob, folder or URL."""
    about: str
    validation: str | None = None
    """The same of its own validation set; None where a share of the documents is held out."""
    text_key: str = "text"
    seq_len: int = 4096
    remote: str | None = None
    """Where its shards go by default; None makes `remote` a must."""
    make: Callable[[PrepConfig], Path] | None = None
    """Makes the files where they are not downloaded, and returns the folder of a tokenizer for them."""


def make_sample(config: PrepConfig) -> Path:
    """Make the built-in corpus and its tokenizer where they are not there yet; the tokenizer's folder."""
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus

    files = write_sample_corpus(SAMPLE_DIR / "corpus", seed=config.seed)
    return train_sample_tokenizer(files, SAMPLE_DIR / "tokenizer")


_C4 = "hf://datasets/allenai/c4"
_SLIMPAJAMA = "hf://datasets/cerebras/SlimPajama-627B"
_FINEWEB = "hf://datasets/HuggingFaceFW"

CORPORA = {
    "sample": Corpus(
        f"{SAMPLE_DIR}/corpus/*.json.gz",
        "built in, 6 MB of synthetic English: for trying the whole flow without a network",
        seq_len=256,
        remote=f"{SAMPLE_DIR}/mds",
        make=make_sample,
    ),
    "c4": Corpus(f"{_C4}/en/c4-train.*.json.gz", "English C4, 365 M documents in 1,024 files (305 GB): the paper's"),
    "c4_validation": Corpus(f"{_C4}/en/c4-validation.*.json.gz", "C4's own validation set, 365 thousand documents"),
    "c4_realnewslike": Corpus(f"{_C4}/realnewslike/c4-train.*.json.gz", "C4's news subset, 14 M documents (15 GB)"),
    "slimpajama": Corpus(
        f"{_SLIMPAJAMA}/train/chunk*/*.jsonl.zst",
        "SlimPajama, 627 B tokens of seven sources (895 GB in 59,166 files)",
        validation=f"{_SLIMPAJAMA}/validation/chunk*/*.jsonl.zst",
    ),
    "fineweb_10bt": Corpus(f"{_FINEWEB}/fineweb/sample/10BT/*.parquet", "FineWeb's sample of about 10 B tokens"),
    "fineweb_edu_10bt": Corpus(
        f"{_FINEWEB}/fineweb-edu/sample/10BT/*.parquet", "FineWeb-Edu's sample of about 10 B tokens"
    ),
}


def check_settings(config: PrepConfig) -> None:
    """What can be told before the input is looked at.

    Raises:
        ConfigError: A key is missing, holds a secret, or does not fit another.
    """
    require_plain_url("source", config.source)
    require_plain_url("validation_source", config.validation_source or "")
    require_plain_url("remote", config.remote or "")
    corpus = CORPORA.get(config.source) or Corpus(config.source, "files")
    if config.remote is None and corpus.remote is None:
        raise ConfigError(f"remote is not set: for source={config.source} say where to write, as remote=data/c4/mds")
    if config.tokenizer.name is None and corpus.make is None:
        raise ConfigError(
            f"tokenizer.name is not set: for source={config.source} give a local folder with a tokenizer.json, or a "
            "hub name such as tokenizer.name=meta-llama/Llama-2-7b-hf"
        )
    seq_len = config.seq_len or corpus.seq_len
    check_shards(config, row_bytes=4 * (seq_len + 1), seq_len=seq_len)


def resolve(config: PrepConfig) -> tuple[PrepConfig, InputFiles]:
    """Fill in every default, and list the input files; the sample corpus is made on the way.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no file.
    """
    check_settings(config)
    corpus = CORPORA.get(config.source) or Corpus(config.source, "files")
    tokenizer = config.tokenizer
    if corpus.make is not None:
        made = corpus.make(config)
        tokenizer = dataclasses.replace(tokenizer, name=tokenizer.name or str(made))
    validation_source = config.validation_source or (corpus.validation if config.heldout_ratio is None else None)
    inputs = _find(corpus.files, "source")
    if validation_source is not None:
        inputs = with_validation(inputs, _find(validation_source, "validation_source"))
    heldout_ratio = config.heldout_ratio
    if heldout_ratio is None:
        heldout_ratio = _HELDOUT_RATIO if validation_source is None else 0.0
    return (
        dataclasses.replace(
            config,
            remote=config.remote or corpus.remote,
            tokenizer=tokenizer,
            seq_len=config.seq_len or corpus.seq_len,
            text_key=config.text_key or corpus.text_key,
            validation_source=validation_source,
            heldout_ratio=heldout_ratio,
            tasks=_num_tasks(config.tasks, inputs),
        ),
        inputs,
    )


def _find(source: str, key: str) -> InputFiles:
    corpus = CORPORA.get(source)
    names = "; ".join(f"{name}: {each.about}" for name, each in CORPORA.items())
    inputs = find_inputs(
        corpus.files if corpus else source,
        key=key,
        kind=f"JSON lines, parquet or text, or one of the known corpora ({names})",
    )
    for url in inputs.urls:
        format_of(url)
    return inputs


def _num_tasks(asked: int | None, inputs: InputFiles) -> int:
    """Tasks of the job; a validation set of its own has one for itself."""
    count, extra = len(inputs.names) - inputs.num_validation, 1 if inputs.num_validation else 0
    size = sum(inputs.sizes[inputs.num_validation :])
    tasks = asked or extra + max(1, min(count, math.ceil(size / _TASK_BYTES)))
    if tasks > count + extra:
        raise ConfigError(
            f"tasks={tasks} is more than the {count} input files{' and one for validation_source' * extra}: a task "
            f"reads whole files, so tasks={count + extra} is the most"
        )
    return tasks


def check_import(config: LitpkdsPrepConfig) -> None:
    """What can be told of an import before its chunks are looked at.

    Raises:
        ConfigError: A key is missing, holds a secret, or does not fit another.
    """
    if config.source is None:
        raise ConfigError("source is not set: say where the chunks are, as source='lit_c4/*.bin'")
    if config.remote is None:
        raise ConfigError("remote is not set: say where to write, as remote=data/c4/mds")
    if config.tokenizer.name is None:
        raise ConfigError(
            "tokenizer.name is not set: chunks do not say which tokenizer made them; give its folder or hub name, such "
            "as tokenizer.name=meta-llama/Llama-2-7b-hf"
        )
    require_plain_url("source", config.source)
    require_plain_url("remote", config.remote)
    check_shards(config, row_bytes=4 * (config.seq_len + 1), seq_len=config.seq_len)


def check_shards(config: PrepConfig | SftPrepConfig | LitpkdsPrepConfig, *, row_bytes: int, seq_len: int) -> None:
    """Check the form of shards.

    Args:
        config: `compression` and `shard_size` are looked at.
        row_bytes: Bytes of the largest row.
        seq_len: Its input tokens, for the error message.

    Raises:
        ConfigError: A value is not known, or no row would fit.
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

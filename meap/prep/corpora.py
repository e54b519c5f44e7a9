"""Corpora by name: one row each. A new corpus is one row here and a yaml.

A source that is no name in the table is taken as files: a path, a glob, a folder or a URL.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any, cast

from fsspec.implementations.local import LocalFileSystem

from meap.config.litpkds_prep import LitpkdsPrepConfig
from meap.config.prep import PrepConfig
from meap.config.sft_prep import SftPrepConfig
from meap.errors import ConfigError, DataError
from meap.prep.folder import open_filesystem, storage_errors
from meap.prep.sizes import bytes_of_size
from meap.storage import is_url, require_plain_url

__all__ = [
    "CORPORA",
    "SAMPLE_DIR",
    "Corpus",
    "InputFiles",
    "check_shards",
    "find_inputs",
    "make_sample",
    "resolve",
]

SAMPLE_DIR = Path("data/sample")

_TASK_BYTES = 256_000_000
_FOLDER_SUFFIXES = (".json.gz", ".jsonl.gz", ".jsonl", ".json", ".jsonl.zst")
_COMPRESSION = re.compile(r"zstd(:([1-9]|1\d|2[0-2]))?")
_SHARD_OVERHEAD = 4096
"""Bytes of a shard that are not rows: header, offsets of a single row; generous."""


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lies and how its rows are cut unless the configuration says otherwise."""

    files: str
    """Path, glob, folder or URL of JSON lines."""
    about: str
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
}


@dataclass(frozen=True)
class InputFiles:
    """The raw files of a job, in the order in which they are read."""

    root: str
    """Folder or URL they lie in, as the user wrote it."""
    names: tuple[str, ...]
    """Paths below `root`, sorted."""
    sizes: tuple[int, ...]
    """Stored (compressed) bytes of each."""

    @property
    def location(self) -> str:
        """`root` for opening files: absolute, since datatrove keeps folders by name whatever the working folder is."""
        return self.root if is_url(self.root) else str(Path(self.root).absolute())

    @property
    def urls(self) -> tuple[str, ...]:
        """Each file as shown to users and stored in manifests."""
        return tuple(self.url_of(name) for name in self.names)

    def url_of(self, name: str) -> str:
        """One file as shown to users and stored in manifests."""
        return f"{self.root.rstrip('/')}/{name}" if self.root not in {"", "."} else name

    def of_task(self, task: int, tasks: int) -> range:
        """Numbers of the files that task `task` of `tasks` reads: a contiguous range, so that order is kept."""
        count = len(self.names)
        return range(task * count // tasks, (task + 1) * count // tasks)


def resolve(config: PrepConfig) -> tuple[PrepConfig, InputFiles]:
    """Fill in every default, and list the input files; the sample corpus is made on the way.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no file.
    """
    require_plain_url("source", config.source)
    require_plain_url("remote", config.remote or "")
    corpus = CORPORA.get(config.source) or Corpus(config.source, "files")
    remote = config.remote or corpus.remote
    if remote is None:
        raise ConfigError(f"remote is not set: for source={config.source} say where to write, as remote=data/c4/mds")
    tokenizer = config.tokenizer
    if tokenizer.name is None and corpus.make is None:
        raise ConfigError(
            f"tokenizer.name is not set: for source={config.source} give a local folder with a tokenizer.json, or a "
            "hub name such as tokenizer.name=meta-llama/Llama-2-7b-hf"
        )
    seq_len = config.seq_len or corpus.seq_len
    check_shards(config, row_bytes=4 * (seq_len + 1), seq_len=seq_len)

    if corpus.make is not None:
        made = corpus.make(config)
        tokenizer = dataclasses.replace(tokenizer, name=tokenizer.name or str(made))
    inputs = find_inputs(corpus.files)
    tasks = config.tasks or max(1, min(len(inputs.names), math.ceil(sum(inputs.sizes) / _TASK_BYTES)))
    if tasks > len(inputs.names):
        raise ConfigError(
            f"tasks={tasks} is more than the {len(inputs.names)} input files: a task reads whole files, so "
            f"tasks={len(inputs.names)} is the most"
        )
    text_key = config.text_key or corpus.text_key
    return (
        dataclasses.replace(
            config, remote=remote, tokenizer=tokenizer, seq_len=seq_len, text_key=text_key, tasks=tasks
        ),
        inputs,
    )


def find_inputs(source: str, *, suffixes: tuple[str, ...] = _FOLDER_SUFFIXES, kind: str | None = None) -> InputFiles:
    """List the files that a path, glob, folder or URL stands for, sorted, with their sizes.

    Args:
        source: As the user wrote it.
        suffixes: What names of files in a folder end in.
        kind: What the files hold, for the error message; JSON lines or a known corpus where unset.

    Raises:
        DataError: There are none, or the place cannot be listed.
    """
    filesystem, path = open_filesystem(source)
    is_local = isinstance(filesystem, LocalFileSystem)
    shown = source if is_url(source) else str(Path(source).expanduser())
    with storage_errors(f"source={source}"):
        if has_magic(path) and not (is_local and filesystem.exists(path)):
            root, pattern = _split_glob(shown)
            found = _list(filesystem, f"{filesystem._strip_protocol(root)}/{pattern}")
        elif filesystem.isdir(path):
            root = shown.rstrip("/") or shown
            files = _list(filesystem, f"{path.rstrip('/')}/*")
            found = {name: size for name, size in files.items() if name.endswith(suffixes)}
        elif filesystem.exists(path):
            root, _, _ = shown.rpartition("/")
            found = {path: int(filesystem.info(path).get("size") or 0)}
        else:
            root, found = "", {}
    if not found:
        names = "; ".join(f"{name}: {corpus.about}" for name, corpus in CORPORA.items())
        raise DataError(
            f"source={source} matches no file: give a path, glob, folder (of {', '.join(suffixes)}) or URL of "
            + (kind or f"JSON lines, or one of the known corpora ({names})")
        )
    base = cast("str", filesystem._strip_protocol(root or ".")).rstrip("/") + "/"
    names_and_sizes = sorted((name.removeprefix(base), size) for name, size in found.items())
    return InputFiles(
        root or ".", tuple(name for name, _ in names_and_sizes), tuple(size for _, size in names_and_sizes)
    )


def _list(filesystem: Any, pattern: str) -> dict[str, int]:
    # Without this the Hugging Face hub is asked for the last commit of every single file.
    options = {"expand_info": False} if "hf" in filesystem.protocol else {}
    listed = cast("dict[str, Any]", filesystem.glob(pattern, detail=True, **options))
    return {path: int(info.get("size") or 0) for path, info in listed.items() if info["type"] != "directory"}


def _split_glob(pattern: str) -> tuple[str, str]:
    """The part of a glob before its first wildcard, up to a slash, and the rest."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if has_magic(part))
    root = "/".join(parts[:first])
    return root or ("/" if pattern.startswith("/") else "."), "/".join(parts[first:])


def check_shards(config: PrepConfig | SftPrepConfig | LitpkdsPrepConfig, *, row_bytes: int, seq_len: int) -> None:
    """Check the form of shards.

    Args:
        config: `compression` and `shard_size` are looked at.
        row_bytes: Bytes of the largest row.
        seq_len: Its input tokens, for the error message.

    Raises:
        ConfigError: A value is not known, or no row would fit.
    """
    if config.compression is not None and not _COMPRESSION.fullmatch(config.compression):
        raise ConfigError(f"compression={config.compression!r} is not known: use zstd, zstd:1 to zstd:22, or null")
    num_bytes = bytes_of_size(config.shard_size)
    smallest = row_bytes + _SHARD_OVERHEAD
    if not smallest <= num_bytes < 1 << 32:
        raise ConfigError(
            f"shard_size={config.shard_size} is out of range: with seq_len={seq_len} it must be at least {smallest} "
            "bytes, and less than 4gb; 64mb suits most"
        )

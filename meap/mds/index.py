"""index.json: the shards of a split with their sizes, hashes and columns; names of shards."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from meap.json_text import parse_json
from meap.mds.findings import PREPARE_AGAIN, Finding, ShardError

__all__ = [
    "HASH_ALGORITHM",
    "INDEX_NAME",
    "INDEX_VERSION",
    "SHARD_FORMAT",
    "SHARD_VERSION",
    "Column",
    "ShardEntry",
    "StoredFile",
    "index_json",
    "is_compression",
    "is_safe_name",
    "is_shard_name",
    "parse_entry",
    "parse_index",
    "shard_name",
    "stored_file",
    "task_of_shard",
    "zipped_name",
]

INDEX_NAME: Final = "index.json"
"""Written last of all files of a split: if it exists, the split is complete."""
INDEX_VERSION: Final = 2
SHARD_FORMAT: Final = "mds"
SHARD_VERSION: Final = 2
HASH_ALGORITHM: Final = "xxh3_64"
"""The hash that preparation stores and readers check."""

_MOST_BYTES = 1 << 32
_DTYPES = ("uint8", "uint16", "uint32")
_ENCODING = re.compile(rf"ndarray:({'|'.join(_DTYPES)})(?::([1-9]\d{{0,8}}))?")
_COMPRESSION = re.compile(r"zstd(:([1-9]|1\d|2[0-2]))?")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHARD_PREFIX = "shard."


@dataclass(frozen=True)
class StoredFile:
    """A file as an index describes it."""

    basename: str
    bytes: int
    hashes: dict[str, str]


@dataclass(frozen=True)
class Column:
    """A column of integer arrays."""

    name: str
    dtype: str
    length: int | None
    """Values per row; None if rows differ."""

    @classmethod
    def parse(cls, name: str, encoding: str) -> Column | None:
        """The column of an encoding; None where it is not one of integer arrays."""
        found = _ENCODING.fullmatch(encoding)
        return cls(name, found[1], int(found[2]) if found[2] else None) if found else None

    @classmethod
    def of(cls, name: str, encoding: str) -> Column:
        """The column of an encoding that is known."""
        column = cls.parse(name, encoding)
        assert column is not None, encoding
        return column

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Of the values in a shard: little-endian on every machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def encoding(self) -> str:
        """The encoding as MDS writes it."""
        return f"ndarray:{self.dtype}" + ("" if self.length is None else f":{self.length}")


@dataclass(frozen=True)
class ShardEntry:
    """A shard as ``index.json`` describes it."""

    samples: int
    columns: tuple[Column, ...]
    raw: StoredFile
    zipped: StoredFile | None

    @property
    def stored(self) -> StoredFile:
        """The file on disk: the compressed one if there is one."""
        return self.zipped or self.raw


def parse_entry(entry: Any, origin: str) -> ShardEntry:
    """Check an entry of ``index.json``.

    Args:
        entry: As parsed from JSON.
        origin: Path or URL of the index, and the number of the entry.

    Raises:
        ShardError: It is malformed, or uses something that is not allowed.
    """
    try:
        values = cast("dict[str, Any]", entry)
        _allow(origin, "format", values["format"], values["format"] == SHARD_FORMAT, SHARD_FORMAT)
        _allow(origin, "version", values["version"], values["version"] == SHARD_VERSION, str(SHARD_VERSION))
        compression = values["compression"]
        _allow(origin, "compression", compression, is_compression(compression), "null or zstd")
        raw, zipped = _stored_file(values["raw_data"], origin), values["zip_data"]
        if (zipped is None) != (compression is None):
            _allow(origin, "zip_data", zipped, False, "a file where there is a compression, null where there is none")
        names, encodings = cast("list[str]", values["column_names"]), cast("list[str]", values["column_encodings"])
        return ShardEntry(
            samples=_count(values["samples"]),
            columns=tuple(_column(*each, origin) for each in zip(names, encodings, strict=True)),
            raw=raw,
            zipped=None if zipped is None else _stored_file(zipped, origin),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            Finding(origin, "entry of a shard", "an MDS shard", f"{type(error).__name__}: {error}", PREPARE_AGAIN)
        ) from error


def shard_name(task: int, number: int) -> str:
    """Name of an uncompressed shard, from the task of preparation and the shard's number within it."""
    return f"{_SHARD_PREFIX}{task:05d}.{number:05d}.{SHARD_FORMAT}"


def zipped_name(basename: str) -> str:
    """Name of a compressed shard."""
    return f"{basename}.zstd"


def task_of_shard(basename: str) -> str:
    """The task of preparation that wrote a shard; empty for other names."""
    _, task, number, *_ = [*basename.split("."), "", ""]
    return task if number.isdigit() else ""


def is_shard_name(name: str) -> bool:
    """Whether a file name is that of a shard."""
    return name.startswith(_SHARD_PREFIX)


def is_safe_name(name: Any) -> bool:
    """Whether `name` is a plain file name, without a path."""
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None and ".." not in name


def is_compression(value: str | None) -> bool:
    """Whether this is a known compression: None, ``zstd``, ``zstd:1`` to ``zstd:22``."""
    return value is None or _COMPRESSION.fullmatch(value) is not None


def index_json(entries: Sequence[dict[str, Any]]) -> bytes:
    """The bytes of an index."""
    return json.dumps({"version": INDEX_VERSION, "shards": list(entries)}, sort_keys=True).encode()


def parse_index(content: bytes) -> tuple[Any, list[Any]]:
    """Version and unchecked entries of an index.

    Raises:
        ValueError: It is not JSON.
        KeyError: It has no version or no shards.
        TypeError: It is not an object.
    """
    values = cast("dict[str, Any]", parse_json(content))
    return values["version"], list(cast("list[Any]", values["shards"]))


def stored_file(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry's description of the file on disk: the compressed one if there is one."""
    return entry["zip_data"] or entry["raw_data"]


def _stored_file(values: Any, origin: str) -> StoredFile:
    described = StoredFile(values["basename"], _count(values["bytes"]), dict(values["hashes"]))
    _allow(origin, "bytes", described.bytes, described.bytes < _MOST_BYTES, "less than 4 GiB, as offsets allow")
    name = described.basename
    _allow(origin, "basename", name, is_safe_name(name), "a plain file name, without / or ..")
    return described


def _column(name: str, encoding: str, origin: str) -> Column:
    is_known = Column.parse(name, encoding) is not None
    _allow(origin, f"encoding of column {name!r}", encoding, is_known, "integer arrays (ndarray:uint16:4097)")
    return Column.of(name, encoding)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value


def _allow(origin: str, what: str, value: Any, is_allowed: bool, expected: str) -> None:
    if not is_allowed:
        remedy = "do not load it; prepare the data again from a source that you trust"
        raise ShardError(Finding(origin, what, expected, repr(value), remedy))

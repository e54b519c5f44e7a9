"""Rows -> the bytes of MDS shards (version 2), as `streaming` reads them.

`streaming.MDSWriter` writes the same bytes (tests compare them) but is not used: it imports torch, which costs every
worker seconds and hundreds of MB; it encodes row by row; its zstd frames have no checksum; and it publishes an
incomplete data set if an exception ends its `with` block.

    uint32 n | uint32 offset of each sample and of the end (n + 1) | the JSON below | samples
    a sample: uint32 size of each column without a fixed one | the columns, sorted by name
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.extras import require_packages
from meap.mds.index import HASH_ALGORITHM, SHARD_FORMAT, SHARD_VERSION, Column, stored_file, zipped_name
from meap.mds.reading import HASHES

require_packages("meap.mds", "zstandard", extra="prep")

import zstandard  # noqa: E402

__all__ = ["MdsWriter", "Shard", "ShardFile"]

_ZSTD_LEVEL = 3
"""Level of `zstd` without one, as in streaming."""


@dataclass(frozen=True)
class ShardFile:
    """A shard as stored."""

    content: bytes
    entry: dict[str, Any]
    """Its entry in ``index.json``."""
    num_rows: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return stored_file(self.entry)["basename"]


@dataclass(frozen=True)
class Shard:
    """A shard before hashing and compression, which take the most time and may run in another thread."""

    raw: bytes
    num_rows: int
    description: dict[str, Any]
    compression: str | None

    def to_file(self, basename: str) -> ShardFile:
        """Compress and hash.

        Args:
            basename: Of the uncompressed shard, see `shard_name`.
        """
        raw_data, zip_data, content = _described(self.raw, basename), None, self.raw
        if self.compression is not None:
            _, _, level = self.compression.partition(":")
            content = zstandard.ZstdCompressor(level=int(level or _ZSTD_LEVEL), write_checksum=True).compress(self.raw)
            zip_data = _described(content, zipped_name(basename))
        entry = {"samples": self.num_rows, "raw_data": raw_data, "zip_data": zip_data} | self.description
        return ShardFile(content, entry, self.num_rows)


class MdsWriter:
    """Collects rows and yields each shard once it is full.

    Args:
        columns: MDS encodings by name: `ndarray` of an integer type, with a length or without.
        compression: `zstd`, `zstd:LEVEL` or None.
        shard_bytes: Uncompressed size at which a shard is full.
    """

    def __init__(self, columns: dict[str, str], *, compression: str | None, shard_bytes: int) -> None:
        in_order = [Column.of(name, columns[name]) for name in sorted(columns)]
        self._columns = [(column.name, np.dtype(column.dtype), column.length) for column in in_order]
        self._limit = shard_bytes
        self._description = {
            "version": SHARD_VERSION,
            "format": SHARD_FORMAT,
            "compression": compression,
            "hashes": [HASH_ALGORITHM],
            "size_limit": self._limit,
            "column_names": sorted(columns),
            "column_encodings": [columns[name] for name in sorted(columns)],
            "column_sizes": [dtype.itemsize * length if length else None for _, dtype, length in self._columns],
        }
        self._compression = compression
        self._samples: list[bytes] = []
        self._sizes: list[int] = []
        self._size = self._base_size

    def add_rows(self, rows: NDArray[np.integer[Any]]) -> Iterator[Shard]:
        """Append rows of a data set with a single column of fixed length; yields the shards they fill.

        Args:
            rows: (rows, length)
        """
        ((_, dtype, length),) = self._columns
        assert rows.dtype == dtype
        assert rows.shape[1] == length
        row_size = dtype.itemsize * rows.shape[1]
        while len(rows):
            room = (self._limit - self._size) // (row_size + 4)
            taken, rows = rows[:room], rows[room:]
            self._append(taken.tobytes(), [row_size] * len(taken))
            if len(rows):
                yield self._take()

    def add(self, sample: dict[str, NDArray[np.integer[Any]]]) -> Iterator[Shard]:
        """Append one row, by column; yields the previous shard if the row does not fit."""
        encoded = self._encode(sample)
        if self._samples and self._limit < self._size + len(encoded) + 4:
            yield self._take()
        self._append(encoded, [len(encoded)])

    def finish(self) -> Iterator[Shard]:
        """Yield the last shard, if it has rows."""
        if self._sizes:
            yield self._take()

    @cached_property
    def _header(self) -> bytes:
        return json.dumps(self._description, sort_keys=True).encode()

    @property
    def _base_size(self) -> int:
        return 8 + len(self._header)

    def _append(self, encoded: bytes, sizes: list[int]) -> None:
        self._samples.append(encoded)
        self._sizes += sizes
        self._size += len(encoded) + 4 * len(sizes)

    def _take(self) -> Shard:
        offsets = np.cumsum([0, *self._sizes], dtype=np.uint32)
        offsets += np.uint32(4 + offsets.nbytes + len(self._header))
        raw = b"".join([np.uint32(len(self._sizes)).tobytes(), offsets.tobytes(), self._header, *self._samples])
        shard = Shard(raw, len(self._sizes), self._description, self._compression)
        self._samples, self._sizes, self._size = [], [], self._base_size
        return shard

    def _encode(self, sample: dict[str, NDArray[np.integer[Any]]]) -> bytes:
        sizes, parts = [], []
        for name, dtype, length in self._columns:
            array = sample[name]
            assert array.dtype == dtype
            assert array.ndim == 1
            assert len(array) == length if length else len(array)
            part = array.tobytes()
            if not length:
                part = _shape(len(array)) + part
                sizes.append(len(part))
            parts.append(part)
        return b"".join([np.array(sizes, np.uint32).tobytes(), *parts])


def _shape(length: int) -> bytes:
    """MDS's header of a one-dimensional array: number of axes and code of the length's type; the length."""
    code = next(code for code in range(4) if length < 1 << (8 << code))
    return bytes([1 << 2 | code]) + length.to_bytes(1 << code, "little")


def _described(content: bytes, basename: str) -> dict[str, Any]:
    return {
        "basename": basename,
        "bytes": len(content),
        "hashes": {HASH_ALGORITHM: HASHES[HASH_ALGORITHM](content).hexdigest()},
    }

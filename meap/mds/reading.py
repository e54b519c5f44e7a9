"""Parses shards: MDS version 2 as `streaming.MDSWriter` writes it, every field checked.

    shard   samples:u32  offsets:u32[samples + 1]  config:json  sample*        offsets are from the start of the file
    sample  size:u32 for each column of varying size, then the columns, sorted by name
    column  ndarray:<dtype>:<length>    the values
            ndarray:<dtype>             number of axes * 4 + log2(bytes of a length):u8, the length, the values

Other formats and encodings (pickle among them) are refused, not decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.extras import require_packages
from meap.mds.findings import FETCH_AGAIN, PREPARE_AGAIN, Finding, ShardError
from meap.mds.index import Column, ShardEntry

require_packages("meap.mds", "xxhash", "zstandard", extra="prep")

import xxhash  # noqa: E402
import zstandard  # noqa: E402

__all__ = ["HASHES", "decode_conversations", "decode_rows", "decompress", "unpack"]

HASHES = {"xxh3_64": xxhash.xxh3_64, "sha256": hashlib.sha256}
"""Hashes that can be checked, by their name in an index."""

_U32 = np.dtype("<u4")
_PART = 64 << 20
_LENGTH_DTYPES = ("<u1", "<u2", "<u4", "<u8")


def decompress(content: bytes, entry: ShardEntry, file: str) -> bytes:
    """The uncompressed shard; never more bytes than the index says.

    Raises:
        ShardError: The size differs from the index, or the file is damaged.
    """
    if entry.zipped is None:
        return content
    expected = entry.raw.bytes
    try:
        raw = unpack(content, expected)
    except zstandard.ZstdError as error:
        raise ShardError(Finding(file, "compression", "zstd", f"damage ({error})", FETCH_AGAIN)) from error
    if len(raw) != expected:
        found = f"{len(raw):,}" if len(raw) < expected else "more"
        raise ShardError(Finding(file, "bytes after decompression", f"{expected:,}", found, FETCH_AGAIN))
    return raw


def unpack(content: bytes, num_bytes: int) -> bytes:
    """Decompress zstd; of more than `num_bytes`, only the first `num_bytes + 1`: few bytes may hide gigabytes.

    Raises:
        zstandard.ZstdError: It is damaged, or its window alone takes more than 128 MB.
    """
    parts: list[bytes] = []
    with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as reader:
        wanted = num_bytes + 1  # in parts, since the index may claim more than there is
        while wanted and (part := reader.read(min(wanted, _PART))):
            parts.append(part)
            wanted -= len(part)
    return b"".join(parts)


def decode_rows(raw: bytes, entry: ShardEntry, file: str) -> NDArray[Any]:
    """Rows of a shard with a single column of fixed length, as a view (rows, length).

    Raises:
        ShardError: The bytes are not such rows.
    """
    (column,) = entry.columns
    assert column.length is not None
    offsets = _offsets(raw, entry, file)
    row_bytes = column.length * column.stored_dtype.itemsize
    wrong = np.flatnonzero(np.diff(offsets) != row_bytes)
    if len(wrong):
        found = f"{int(np.diff(offsets)[wrong[0]]):,} in row {int(wrong[0]):,} and {len(wrong) - 1:,} more"
        raise ShardError(Finding(file, "bytes of each row", f"{row_bytes:,}", found, PREPARE_AGAIN))
    values = np.frombuffer(raw, column.stored_dtype, entry.samples * column.length, int(offsets[0]))
    return values.reshape(-1, column.length)


def decode_conversations(raw: bytes, entry: ShardEntry, file: str) -> Iterator[dict[str, NDArray[Any]]]:
    """Rows of a shard whose columns vary in length, by column.

    Raises:
        ShardError: The bytes are not such rows.
    """
    offsets = _offsets(raw, entry, file).tolist()
    assert all(column.length is None for column in entry.columns)
    for number, (start, end) in enumerate(pairwise(offsets)):
        yield _decode_sample(raw[start:end], entry.columns, file, number)


def _decode_sample(content: bytes, columns: Sequence[Column], file: str, number: int) -> dict[str, NDArray[Any]]:
    try:
        sizes = np.frombuffer(content, _U32, len(columns)).tolist()
        *starts, end = accumulate(sizes, initial=_U32.itemsize * len(columns))
        if end != len(content):
            raise ShardError(
                Finding(
                    file,
                    f"bytes of row {number:,}",
                    f"{end:,}, as its columns have",
                    f"{len(content):,}",
                    PREPARE_AGAIN,
                )
            )
        return {
            column.name: _decode_array(content[start : start + size], column.stored_dtype)
            for column, start, size in zip(columns, starts, sizes, strict=True)
        }
    except (ValueError, IndexError) as error:
        expected = f"{len(columns)} columns of arrays"
        raise ShardError(Finding(file, f"row {number:,}", expected, str(error), PREPARE_AGAIN)) from error


def _decode_array(content: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    num_axes, length_code = divmod(content[0], 4)
    if num_axes != 1:
        raise ValueError(f"an array of {num_axes} axes")
    length_dtype = np.dtype(_LENGTH_DTYPES[length_code])
    length = int(np.frombuffer(content, length_dtype, 1, 1)[0])
    values = np.frombuffer(content, dtype, offset=1 + length_dtype.itemsize)
    if len(values) != length:
        raise ValueError(f"an array of {len(values)} values that says {length}")
    return values


def _offsets(raw: bytes, entry: ShardEntry, file: str) -> NDArray[np.int64]:
    header = _U32.itemsize * (entry.samples + 2)
    if len(raw) < header:
        raise ShardError(
            Finding(
                file, "bytes", f"{header:,} of offsets alone, for {entry.samples:,} rows", str(len(raw)), FETCH_AGAIN
            )
        )
    samples = int(np.frombuffer(raw, _U32, 1)[0])
    if samples != entry.samples:
        raise ShardError(Finding(file, "rows", f"{entry.samples:,}", f"{samples:,}", PREPARE_AGAIN))
    offsets = np.frombuffer(raw, _U32, samples + 1, _U32.itemsize).astype(np.int64)
    if offsets[0] < header or offsets[-1] != len(raw) or (np.diff(offsets) < 0).any():
        found = f"{offsets[0]:,} to {offsets[-1]:,}"
        raise ShardError(
            Finding(file, "offsets of rows", f"ascending from {header:,} or more to {len(raw):,}", found, PREPARE_AGAIN)
        )
    return offsets

"""The official code's chunks: files of lit-gpt's ``PackedDatasetBuilder``, found and read, nothing in them trusted.

    "LITPKDS"  version:u64 = 1  dtype code:u8  chunk size:u64  tokens[chunk size]         little-endian

Source: scitix/MEAP, MEAP-Pretain/lit_gpt/packed_dataset.py.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from meap.config.prep import LitpkdsPrepConfig
from meap.errors import BadInputError, ConfigError
from meap.prep.inputs import InputFiles, find_inputs
from meap.prep.resolved import ResolvedLitpkds, check_addresses, check_shard_settings, default_tasks, require_tasks

__all__ = ["Chunk", "check_config", "open_chunk", "resolve_chunks"]

_HEADER = struct.Struct("<7sQBQ")
_MAGIC, _VERSION = b"LITPKDS", 1
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float32", 7: "float64", 8: "uint16"}


@dataclass(frozen=True)
class Chunk:
    """An open chunk."""

    file: IO[bytes]
    url: str
    dtype: np.dtype[Any]
    tokens: int

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Some tokens.

        Raises:
            BadInputError: The file ends before.
        """
        offset = self.offset_of(start)
        self.file.seek(offset)
        content = self.file.read(count * self.dtype.itemsize)
        if len(content) != count * self.dtype.itemsize:
            raise BadInputError(
                f"{self.url} ended at byte {offset + len(content):,} while it was read: is it still being written? "
                "Fetch it again"
            )
        return np.frombuffer(content, self.dtype)

    def offset_of(self, number: int) -> int:
        """Byte in the file at which a token begins."""
        return _HEADER.size + number * self.dtype.itemsize


def check_config(config: LitpkdsPrepConfig) -> None:
    """Check the configuration before any chunk is read.

    Raises:
        ConfigError: A key is missing, holds a secret, or does not fit another.
    """
    if config.source is None:
        raise ConfigError("source is not set: say where the chunks are, as source='lit_c4/*.bin'")
    check_addresses(config, example="data/c4/mds")
    if config.tokenizer.name is None:
        raise ConfigError(
            "tokenizer.name is not set: chunks do not say which tokenizer made them; give its folder or hub name, such "
            "as tokenizer.name=meta-llama/Llama-2-7b-hf"
        )
    check_shard_settings(config, row_bytes=4 * (config.seq_len + 1), seq_len=config.seq_len)


def resolve_chunks(config: LitpkdsPrepConfig) -> tuple[ResolvedLitpkds, InputFiles]:
    """Set every default, and list the chunks.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no chunk.
    """
    check_config(config)
    assert config.source is not None
    inputs = find_inputs(config.source, suffixes=(".bin",), kind="packed chunks (.bin) of the official code")
    tasks = require_tasks(config.tasks or default_tasks(inputs), inputs)
    return ResolvedLitpkds.of(config, tasks=tasks), inputs


def open_chunk(file: IO[bytes], url: str) -> Chunk:
    """Check the header of an open file.

    Raises:
        BadInputError: It is not that of a chunk, or not that of this file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(_HEADER.size)
    remedy = "take it out of source=, or fetch it again"
    if not header.startswith(_MAGIC):
        raise BadInputError(
            f"{url} is not a packed chunk: it begins with {header[:7]!r} at byte 0, not {_MAGIC!r}: {remedy}"
        )
    if len(header) < _HEADER.size:
        raise BadInputError(f"{url} is truncated: {size} bytes, less than a header's {_HEADER.size}: {remedy}")
    _, version, code, tokens = _HEADER.unpack(header)
    if version != _VERSION:
        raise BadInputError(f"{url} has version {version} at byte 7; only version {_VERSION} is known: {remedy}")
    dtype = np.dtype(_DTYPES.get(code, "float32")).newbyteorder("<")
    if code not in _DTYPES or dtype.kind not in "iu":
        known = ", ".join(f"{number} {name}" for number, name in _DTYPES.items() if "int" in name)
        raise BadInputError(
            f"{url} has dtype code {code} at byte 15, {_DTYPES.get(code, 'which is not known')}; tokens are integers "
            f"({known}): {remedy}"
        )
    expected = _HEADER.size + tokens * dtype.itemsize
    if size != expected:
        problem = "is truncated" if size < expected else "is longer than its header says"
        raise BadInputError(
            f"{url} {problem}: a chunk size of {tokens:,} {dtype.name} tokens at byte 16 makes {expected:,} bytes, but "
            f"it has {size:,}: fetch it again"
        )
    return Chunk(file, url, dtype, tokens)

"""Rows of an MDS shard that lies here, by number: what streaming's reader returns, at a third of its cost."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.format.mds.reader import MDSReader

from meap.mds.index import Column

__all__ = ["RowReader"]

_OFFSET_BYTES = 4
_OFFSETS = struct.Struct("<II")
"""Where a row begins and ends, after the number of rows: see `meap.mds.reading`."""


class RowReader:
    """Reads rows of one shard.

    Args:
        shard: streaming's reader of it, which knows its file and its columns.
    """

    def __init__(self, shard: MDSReader) -> None:
        self._shard = shard
        self._file = str(Path(shard.dirname, shard.split or "", shard.raw_data.basename))
        columns = [*map(Column.parse, shard.column_names, shard.column_encodings)]
        self._fixed = columns[0] if len(columns) == 1 and columns[0] and columns[0].length else None

    def read(self, number: int) -> Mapping[str, NDArray[Any]]:
        """The columns of a row.

        Args:
            number: Of the row in the shard, from 0.

        Raises:
            FileNotFoundError: The shard is not here, or not any more.
            ValueError: The file is cut short, or the row has another length than its column says.
        """
        # Opened for each row: a shard that is evicted from the cache must not take room on the disk any longer.
        handle = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            offsets = os.pread(handle, _OFFSETS.size, _OFFSET_BYTES * (1 + number))
            start, end = _OFFSETS.unpack(offsets)
            content = os.pread(handle, end - start, start)
        except struct.error as error:
            raise ValueError(f"{self._file} ends before the offsets of row {number}") from error
        finally:
            os.close(handle)
        if self._fixed is None:
            return self._shard.decode_sample(content)
        values = np.frombuffer(content, self._fixed.stored_dtype)
        if len(values) != self._fixed.length:
            raise ValueError(f"row {number} of {self._file} holds {len(values)} values, not {self._fixed.length}")
        return {self._fixed.name: values}

"""Documents -> fixed-length rows, back to back, without padding.

Each document becomes ``BOS + tokens + EOS``, or ``tokens + EOS``; documents are joined and cut into rows of
``seq_len + 1`` tokens. Inputs are ``row[:-1]``, labels ``row[1:]``; attention is not reset at document borders. Tokens
that do not fill a row stay in `RowPacker.tail`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowPacker"]

TokenArray = NDArray[np.integer[Any]]


class RowPacker:
    """Packs token arrays into rows.

    Args:
        row_len: Tokens per row (``seq_len + 1``), at least 1.
        borders: BOS, put before each document, and EOS, put after it; or EOS alone.
        dtype: Integer type of the rows.
    """

    def __init__(self, row_len: int, *, borders: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        assert row_len >= 1
        self._row_len = row_len
        self._before, self._after = np.array(borders[:-1], dtype), np.array(borders[-1:], dtype)
        self._dtype = dtype
        self.tail: TokenArray = np.empty(0, dtype)
        """Tokens that do not fill a row yet; fewer than `row_len`."""
        self.tail_documents = 0
        """Documents that end in the tail, whether they begin there or not."""

    def pack(self, documents: Sequence[TokenArray]) -> TokenArray:
        """Append `documents` and return the rows they complete, as an array (rows, row_len)."""
        pieces = [self.tail]
        for tokens in documents:
            pieces += (self._before, tokens.astype(self._dtype, copy=False), self._after)
        joined = np.concatenate(pieces)
        num_rows = len(joined) // self._row_len
        filled = num_rows * self._row_len
        self.tail_documents = 0 if filled else self.tail_documents
        end = len(joined)
        for tokens in reversed(documents):
            if end <= filled:
                break
            self.tail_documents += 1
            end -= len(self._before) + len(tokens) + len(self._after)
        self.tail = joined[filled:].copy()
        return joined[:filled].reshape(num_rows, self._row_len)

"""Documents -> fixed-length rows, back to back, without padding.

Each document becomes ``BOS + tokens + EOS``, or ``tokens + EOS`` where the tokenizer has no BOS, or one token for both:
then one separator stands between two documents. Documents are joined and cut into rows of ``seq_len + 1`` tokens.
Inputs are ``row[:-1]``, labels ``row[1:]``; attention is not reset at document borders. Tokens that do not fill a row
stay in `RowPacker.tail`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowPacker", "borders_of"]

TokenArray = NDArray[np.integer[Any]]


def borders_of(bos_id: int | None, eos_id: int, separator: str) -> tuple[int | None, int]:
    """The tokens that packing puts before and after each document; None for no token.

    Args:
        bos_id: The tokenizer's BOS, if it has one.
        eos_id: Its EOS.
        separator: `tokenizer.separator` of the preparation.
    """
    has_bos = separator == "both" or (separator == "auto" and bos_id != eos_id)
    return (bos_id if has_bos else None), eos_id


class RowPacker:
    """Packs token arrays into rows.

    Args:
        row_len: Tokens per row (``seq_len + 1``), at least 1.
        bos_id: Token put before each document; None for none.
        eos_id: Token put after each document.
        dtype: Integer type of the rows.
    """

    def __init__(self, row_len: int, *, bos_id: int | None, eos_id: int, dtype: np.dtype[Any]) -> None:
        assert row_len >= 1
        self._row_len = row_len
        self._bos = np.array([] if bos_id is None else [bos_id], dtype)
        self._eos = np.array([eos_id], dtype)
        self._dtype = dtype
        self.tail: TokenArray = np.empty(0, dtype)
        """Tokens that do not fill a row yet; fewer than `row_len`."""

    def pack(self, documents: Sequence[TokenArray]) -> TokenArray:
        """Append `documents` and return the rows they complete, as an array (rows, row_len)."""
        pieces = [self.tail]
        for tokens in documents:
            pieces += (self._bos, tokens.astype(self._dtype, copy=False), self._eos)
        joined = np.concatenate(pieces)
        num_rows = len(joined) // self._row_len
        filled = num_rows * self._row_len
        self.tail = joined[filled:].copy()
        return joined[:filled].reshape(num_rows, self._row_len)

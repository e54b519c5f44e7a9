"""What data preparation writes and training reads: the contract between `meap.prep` and `meap.data`.

Shape suffixes used throughout: ``B`` batch, ``T`` tokens of a row's input, ``V`` vocabulary, ``D`` hidden size,
``H`` heads. A *row* is stored with ``T + 1`` tokens, so that inputs are ``row[:-1]`` and labels ``row[1:]``.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

import numpy as np

__all__ = [
    "IGNORE_INDEX",
    "MANIFEST_NAME",
    "TOKENIZER_DIR",
    "TOKENS_COLUMN",
    "TRAIN_SPLIT",
    "VALIDATION_SPLIT",
    "Batch",
    "mds_columns",
    "token_dtype",
]

IGNORE_INDEX: Final = -100
"""Label of a position that is not scored (the value torch's cross-entropy ignores by default)."""

TOKENS_COLUMN: Final = "tokens"
"""The one MDS column: an integer array of ``seq_len + 1`` token ids."""

TRAIN_SPLIT: Final = "train"
VALIDATION_SPLIT: Final = "validation"
MANIFEST_NAME: Final = "manifest.json"
"""Beside each split's ``index.json``; written before it, so that an index implies a manifest."""

TOKENIZER_DIR: Final = "tokenizer"
"""Folder beside the splits, and in every exported model, that holds the tokenizer with its mask token."""

_MAX_UINT16_VOCAB = 1 << 16


class Batch(TypedDict):
    """What a data loader yields and a model takes."""

    input_ids: Any
    """int64 tensor (B, T): token ids, some of them replaced by the mask id."""
    labels: Any
    """int64 tensor (B, T): the clean token that follows each position, or `IGNORE_INDEX`."""
    sample_id: Any
    """int64 tensor (B,): the row's number in the data set."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of ``uint16`` and ``uint32`` that holds every token id below `vocab_size`."""
    return np.dtype(np.uint16 if vocab_size <= _MAX_UINT16_VOCAB else np.uint32)


def mds_columns(seq_len: int, vocab_size: int) -> dict[str, str]:
    """MDS column encodings of a row of `seq_len` + 1 tokens, as `streaming.MDSWriter` takes them."""
    return {TOKENS_COLUMN: f"ndarray:{token_dtype(vocab_size).name}:{seq_len + 1}"}

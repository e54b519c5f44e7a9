"""What data preparation writes and training reads: the contract between `meap.prep` and `meap.data`.

Shape suffixes used throughout: ``B`` batch, ``T`` tokens of a row's input, ``V`` vocabulary, ``D`` hidden size,
``H`` heads, ``L`` layers, ``Q`` queries, ``K`` keys, ``C`` candidates. A *row* is stored with ``T + 1`` tokens, so
that inputs are ``row[:-1]`` and labels ``row[1:]``.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

import numpy as np

__all__ = [
    "ANSWER_COLUMN",
    "CHOSEN_COLUMN",
    "COPIED",
    "COPIED_COLUMN",
    "IGNORE_INDEX",
    "LENGTHS_COLUMN",
    "MANIFEST_NAME",
    "SPLITS",
    "TOKENIZER_DIR",
    "TOKENS_COLUMN",
    "TRAIN_SPLIT",
    "VALIDATION_SPLIT",
    "Batch",
    "SftBatch",
    "WeightedSftBatch",
    "conversation_columns",
    "mds_columns",
    "token_dtype",
]

IGNORE_INDEX: Final = -100
"""Label of a position that is not scored (the value torch's cross-entropy ignores by default)."""

TOKENS_COLUMN: Final = "tokens"
"""Pre-training rows have this MDS column only: an integer array of ``seq_len + 1`` token ids.

Rows of fine-tuning data hold the tokens of whole conversations, back to back, and the columns below.
"""

ANSWER_COLUMN: Final = "answer"
"""uint8, one per token: its flags, see `meap.answers`."""
LENGTHS_COLUMN: Final = "lengths"
"""uint32: tokens of each conversation of the row, in order."""
COPIED_COLUMN: Final = "copied"
"""uint8, one per conversation: 1 where the row has room for a masked copy of it."""
COPIED: Final = "conversations_copied"
"""Of a manifest's counts: conversations that get a masked copy."""

CHOSEN_COLUMN: Final = "chosen"
"""Of batches whose inputs do not show which tokens were chosen: bool (B, T), True where one was, whatever stands there
now: the mask token, a random one, or itself."""

TRAIN_SPLIT: Final = "train"
VALIDATION_SPLIT: Final = "validation"
SPLITS: Final = (TRAIN_SPLIT, VALIDATION_SPLIT)
MANIFEST_NAME: Final = "manifest.json"
"""Beside each split's index; written before it, so that an index implies a manifest."""

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


class SftBatch(Batch):
    """What the loader of fine-tuning rows yields: every position of every row, padding included.

    The lists stay on the host and hold one entry per row, so that nobody asks a device for them.
    """

    position_ids: Any
    """int64 tensor (B, T): where a position stands in its segment, for rotary embeddings; 0 in padding."""
    segment_lengths: list[list[int]]
    """Tokens of each row's segments, in order; attention stays within a segment, and what they leave is padding."""
    num_targets: list[int]
    """Scored positions of each row."""
    num_maskable: list[int]
    """Words of each row's copies that may be masked; the ratio is a share of these."""


class WeightedSftBatch(SftBatch):
    """The same where each view weighs the same (`sft.weighting=rows`)."""

    weights: Any
    """float32 tensor (B, T): 1 / scored positions of the view that a scored position is in; 0 elsewhere."""
    num_views: list[int]
    """Views of each row in which anything is scored: what the weights of the row add up to."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of ``uint16`` and ``uint32`` that holds every token id below `vocab_size`."""
    return np.dtype(np.uint16 if vocab_size <= _MAX_UINT16_VOCAB else np.uint32)


def mds_columns(seq_len: int, vocab_size: int) -> dict[str, str]:
    """MDS column encodings of a row of `seq_len` + 1 tokens, as `streaming.MDSWriter` takes them."""
    return {TOKENS_COLUMN: f"ndarray:{token_dtype(vocab_size).name}:{seq_len + 1}"}


def conversation_columns(vocab_size: int) -> dict[str, str]:
    """MDS column encodings of a row of whole conversations; the arrays' lengths differ from row to row."""
    return {
        TOKENS_COLUMN: f"ndarray:{token_dtype(vocab_size).name}",
        ANSWER_COLUMN: "ndarray:uint8",
        LENGTHS_COLUMN: "ndarray:uint32",
        COPIED_COLUMN: "ndarray:uint8",
    }

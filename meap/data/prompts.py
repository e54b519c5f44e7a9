"""Prompts from held-out rows, and how they go on: what a model is asked while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from meap.data.heldout import HeldoutBatches
from meap.data.loader import RowLoader
from meap.schema import IGNORE_INDEX

__all__ = ["Prompt", "read_prompts"]

_OPENING = 32
"""Tokens of a row of documents that are a prompt."""
_MOST_ROWS = 100
"""Rows that are looked through for prompts."""


@dataclass(frozen=True)
class Prompt:
    """Tokens that a model is to continue."""

    row: int
    """Number of the held-out row that they come from."""
    ids: list[int]
    expected: list[int]
    """How the row goes on: the first scored answer, or the following tokens."""


def read_prompts(heldout: RowLoader, *, count: int, longest: int, most_expected: int) -> list[Prompt]:
    """The first prompts of a held-out split, the same on any number of ranks.

    A conversation is a prompt up to its first scored answer, a row of documents up to its first tokens.

    Args:
        heldout: What `meap.data.build_heldout_loader` has built.
        count: Prompts, fewer where there are not so many.
        longest: Tokens of a prompt at most; longer conversations are passed over.
        most_expected: Tokens of what follows at most.
    """
    batches = heldout.dataset
    assert isinstance(batches, HeldoutBatches)
    prompts: list[Prompt] = []
    for row in range(min(batches.rows.num_samples, _MOST_ROWS)):
        if len(prompts) >= count:
            break
        sample = batches.rows[row]
        pairs = _of_conversations(sample) if "segment_lengths" in sample else [_of_documents(sample, longest)]
        prompts += [
            Prompt(row, ids.tolist(), expected[:most_expected].tolist())
            for ids, expected in pairs
            if len(ids) <= longest
        ]
    return prompts[:count]


def _of_conversations(sample: Mapping[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    pieces = (sample[name].split([*sample["segment_lengths"], _padding(sample)]) for name in ("input_ids", "labels"))
    for ids, labels in zip(*pieces, strict=True):
        is_scored = (labels != IGNORE_INDEX).tolist()
        if True in is_scored:
            first = is_scored.index(True)  # it predicts the first token of the answer
            end = is_scored.index(False, first) if False in is_scored[first:] else len(is_scored)
            yield ids[: first + 1], labels[first:end]


def _of_documents(sample: Mapping[str, Any], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = min(_OPENING, longest)
    return sample["input_ids"][:length], sample["labels"][length - 1 :]


def _padding(sample: Mapping[str, Any]) -> int:
    return len(sample["input_ids"]) - sum(sample["segment_lengths"])

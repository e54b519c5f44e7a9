"""Samples from MDS shards, masked as they are read: the same for any number of ranks and workers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meap.data.ahead import MaskAhead
from meap.data.pinned.dataset import CheckedDataset
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.schema import CHOSEN_COLUMN, IGNORE_INDEX, TOKENS_COLUMN

__all__ = ["StreamingMaskedDataset"]

_LABELS = ("shifted", "transformers")
_log = logging.getLogger(__name__)


class StreamingMaskedDataset(CheckedDataset):
    """Rows as ``input_ids``, ``labels`` and ``sample_id``, inputs masked by (seed, epoch, sample id).

    The sample id is the row's number, counted through all streams in their order. A stream that is drawn for more rows
    than it stores repeats rows within an epoch: repetition k of row r has the id r + k * num_samples. So ids stay
    unique, and every repetition has its own mask. The place of a row in the epoch decides which repetition it is.

    A row is stored with T + 1 tokens, which make T targets. `labels` says how they are returned; inputs, masks and
    targets are the same either way:

        shifted        T inputs; the label at a position is the token that follows. For your own loss, as in this
                       project's recipes. A model of transformers shifts its `labels` itself, so it must not get these:
                       it would learn to predict the token after the next, and nothing would fail.
        transformers   T + 1 inputs; the label at a position is the token at that position, and -100 at the first, which
                       nothing predicts. The model shifts them, and leaves the last input, never masked, unscored:
                       ``model(**batch)`` is right, and so are its counts of targets. The model takes T + 1 positions.

    `meap.data.open_dataset` makes one from plain arguments, with examples.

    Args:
        rule: How to mask, or None for clean rows (evaluation, or masking in the training process).
        labels: ``shifted`` or ``transformers``, see above. Unset: ``shifted``, with a warning.
        streaming_arguments: What `meap.data.pinned.dataset.CheckedDataset` and `streaming.StreamingDataset` take;
            ``num_canonical_nodes`` and ``batch_size``, of one device, must be given.

    Yields (through iteration, or by random access with ``dataset[i]``, which masks as in epoch 0):
        A dictionary of ``input_ids`` and ``labels``, each (T,) or (T + 1,) int64, and ``sample_id`` () int64; where the
        rule replaces tokens by random ones or keeps them also ``chosen``, bool as long as the inputs.

    Raises:
        ConfigError: ``labels`` is unknown, or as `CheckedDataset`.
        DataError: A shard could not be read while iterating.
    """

    def __init__(self, *, rule: MaskRule | None, labels: str | None = None, **streaming_arguments: Any) -> None:
        if labels not in {None, *_LABELS}:
            raise ConfigError(
                f"labels={labels!r} is not known: choose 'shifted' for a loss of your own, or 'transformers' for "
                "model(**batch)"
            )
        super().__init__(**streaming_arguments)
        if labels is None:
            _warn_of_shifted_labels()
        self._labels_are_shifted = labels != "transformers"
        self._rule = rule if rule is not None and rule.changes_rows else None
        self._masks = MaskAhead(self._rule) if self._rule is not None else None

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """Row `sample_id`, masked for the epoch being iterated."""
        sample_ids = self.take_ids(sample_id)
        return self._compose(self.stored_at(sample_id, retry), sample_ids)

    def sample_at(self, sample_id: int, *, epoch: int) -> dict[str, Any]:
        """Sample `sample_id` as an iteration of `epoch` yields it; not while iterating."""
        before, self.epoch = self.epoch, epoch
        try:
            return self[sample_id]
        finally:
            self.epoch = before

    def _compose(self, columns: Mapping[str, NDArray[Any]], sample_ids: NDArray[np.int64]) -> dict[str, Any]:
        """The sample with the first of the ids, from the columns of a stored row."""
        row = columns[TOKENS_COLUMN].astype(np.int64)
        inputs, labels = row[:-1], row[1:]
        chosen = None
        if self._masks is not None and self._rule is not None:
            rule = self._rule.at(self.epoch)
            if rule.reversed_ratio:
                both = rule.turn(inputs[None], labels[None], sample_ids[:1], epoch=self.epoch)
                inputs, labels = (each[0] for each in both)
            inputs, chosen = self._masks.apply(inputs, sample_ids, epoch=self.epoch)
            chosen = None if rule.shows_choice else chosen
        if not self._labels_are_shifted:
            inputs, labels = np.append(inputs, labels[-1]), np.insert(labels, 0, IGNORE_INDEX)
            chosen = None if chosen is None else np.append(chosen, False)
        sample = {
            "input_ids": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "sample_id": torch.tensor(int(sample_ids[0])),
        }
        return sample if chosen is None else sample | {CHOSEN_COLUMN: torch.from_numpy(chosen)}


@cache
def _warn_of_shifted_labels() -> None:
    """Warn once: nothing fails if shifted labels are shifted again."""
    _log.warning(
        "labels come shifted: labels[i] is the token after input_ids[i]. Models of transformers shift them themselves: "
        "give labels='transformers' for model(**batch), or labels='shifted' for a loss of your own"
    )

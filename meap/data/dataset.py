"""Samples from MDS shards, masked as they are read: the same for every world size, worker count and resumption."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import StreamingDataset

from meap.errors import ConfigError, DataError
from meap.masking import MaskRule
from meap.schema import TOKENS_COLUMN

__all__ = ["StreamingMaskedDataset"]


class StreamingMaskedDataset(StreamingDataset):
    """Rows as ``input_ids``, ``labels`` and ``sample_id``, inputs masked by (seed, epoch, sample id).

    Args:
        rule: How to mask, or None for clean rows (evaluation, or masking in the training process).
        streaming_arguments: Everything `streaming.StreamingDataset` takes. ``num_canonical_nodes`` and ``batch_size``
            must be given: without the first the sample order depends on the number of nodes.

    Yields (through iteration, or by random access with ``dataset[i]``, which masks as in epoch 0):
        A dictionary of ``input_ids`` (T,) int64, ``labels`` (T,) int64 and ``sample_id`` () int64.

    Raises:
        ConfigError: ``num_canonical_nodes`` or ``batch_size`` is left open.
        DataError: A shard could not be read while iterating.
    """

    def __init__(self, *, rule: MaskRule | None, **streaming_arguments: Any) -> None:
        for required in ("num_canonical_nodes", "batch_size"):
            if not streaming_arguments.get(required):
                raise ConfigError(f"{required} must be set: the sample order would depend on the machines otherwise")
        super().__init__(**streaming_arguments)
        self._rule = rule if rule is not None and rule.ratio > 0.0 else None
        self._epoch = 0
        self._background_error: BaseException | None = None

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """Sample `sample_id`, masked for the epoch being iterated."""
        row = super().get_item(sample_id, retry)[TOKENS_COLUMN].astype(np.int64)
        inputs, labels = row[:-1], row[1:]
        if self._rule is not None:
            inputs = self._rule.apply(inputs[None], np.array([sample_id]), epoch=self._epoch)[0]
        return {
            "input_ids": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "sample_id": torch.tensor(int(sample_id)),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over this worker's share of the epoch."""
        yield from super().__iter__()
        # When a download fails, streaming's iterator just stops, as if the epoch were over.
        if hasattr(self, "_event") and self._event.is_set():
            cause = self._background_error
            raise DataError(
                f"a shard of {[stream.remote or stream.local for stream in self.streams]} could not be read "
                f"({type(cause).__name__}: {cause}): check the storage, then run the same command again"
            ) from cause

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Where this epoch stands after `num_samples` rows, for a checkpoint."""
        state = super().state_dict(num_samples, from_beginning)
        if from_beginning and num_samples == 0:
            # At the end of an epoch the trainer has gone on to the next one, but streaming still names the one that is
            # over: a run resumed from there would replay it, and stay one epoch behind for ever.
            state["epoch"] = max(state["epoch"], self.next_epoch)
        return state

    def on_exception(self, future: Future[Any]) -> None:
        """Keep the cause of a background failure for `__iter__` to raise."""
        self._background_error = future.exception() or self._background_error
        super().on_exception(future)

    def _get_work(self, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
        # Called in every worker when an epoch starts, also after a resumption: the one place that knows its number.
        self._epoch = epoch
        return super()._get_work(epoch, sample_in_epoch)

"""Samples from MDS shards, masked as they are read: the same for every world size, worker count and resumption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming import StreamingDataset
from streaming.base.dataset import _ShardState  # the states have no public name

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
        return self._compose(self.stored_at(sample_id, retry), sample_id)

    def sample_at(self, sample_id: int, *, epoch: int) -> dict[str, Any]:
        """Sample `sample_id` as an iteration of `epoch` yields it; not while iterating."""
        before, self._epoch = self._epoch, epoch
        try:
            return self[sample_id]
        finally:
            self._epoch = before

    def stored_at(self, sample_id: int, retry: int = 7) -> Mapping[str, NDArray[Any]]:
        """The columns of a row as data preparation stored them."""
        try:
            return super().get_item(sample_id, retry)
        except IndexError:
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def _compose(self, columns: Mapping[str, NDArray[Any]], sample_id: int) -> dict[str, Any]:
        """The sample, from the columns of a stored row."""
        row = columns[TOKENS_COLUMN].astype(np.int64)
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
            raise self._unreadable(self._background_error) from self._background_error

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Download a shard; if that fails, leave nothing of it behind and nobody waiting for it."""
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception:
            self._discard_shard(shard_id)
            raise

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

    def _discard_shard(self, shard_id: int) -> None:
        stream = self.streams[self.stream_per_shard[shard_id]]
        if stream.remote is not None:  # else the files are the only ones there are
            # streaming would keep a file that has failed its hash, and trust it at the next start.
            for file in (info for pair in self.shards[shard_id].file_pairs for info in pair if info is not None):
                Path(stream.local, stream.split, file.basename).unlink(missing_ok=True)
        # streaming would leave the shard "in preparation", and other workers waiting for ever. A present shard without
        # files is fetched again by whoever needs it, who then succeeds or fails for himself.
        self._shard_states[shard_id] = _ShardState.LOCAL

    def _unreadable(self, cause: BaseException | None) -> DataError:
        return DataError(
            f"a shard of {', '.join(str(stream.remote or stream.local) for stream in self.streams)} could not be read "
            f"({type(cause).__name__}: {cause}): check the storage, then run the same command again"
        )

    def _get_work(self, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
        # Called in every worker when an epoch starts, also after a resumption: the one place that knows its number.
        self._epoch = epoch
        return super()._get_work(epoch, sample_in_epoch)

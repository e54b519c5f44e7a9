"""Samples from MDS shards, masked as they are read: the same for every world size, worker count and resumption."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from streaming.base.dataset import _Iterator  # it has no public name

from meap.data.reading import CheckedDataset
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.schema import IGNORE_INDEX, TOKENS_COLUMN

__all__ = ["StreamingMaskedDataset"]

_LABELS = ("shifted", "transformers")
_log = logging.getLogger(__name__)


class StreamingMaskedDataset(CheckedDataset):
    """Rows as ``input_ids``, ``labels`` and ``sample_id``, inputs masked by (seed, epoch, sample id).

    The sample id is the row's number, counted through all streams in their order. A stream with a proportion above its
    size gives rows again within an epoch: the number of stored rows is then added for each time before, so that ids
    stay unique, every repetition gets a mask of its own, and `id % num_samples` is the row. Which repetition a row is
    follows from its place in the epoch, not from when it is read.

    A row is stored with T + 1 tokens, which make T targets. `labels` says how they are handed out; inputs, masks and
    targets are the same in both ways:

        shifted        T inputs; the label at a position is the token that follows. For a loss of one's own, as in this
                       project's recipes. A model of transformers shifts its `labels` itself, so it must not get these:
                       it would learn to predict the token after the next, and nothing would fail.
        transformers   T + 1 inputs; the label at a position is the token at that position, and -100 at the first, which
                       nothing predicts. The model shifts them, and leaves the last input, never masked, unscored:
                       ``model(**batch)`` is right, and so are its counts of targets. The model takes T + 1 positions.

    Three ways to use it without this project's recipes. Each reads what data preparation has written to `remote`, and
    trains `model`, a causal language model of transformers, with `optimizer`.

    A loop of one's own::

        import torch.nn.functional as F
        from torch.utils.data import DataLoader
        from meap.data import open_dataset

        dataset = open_dataset(remote=remote, local=local, labels="shifted", batch_size=8, ratio=0.15)
        loader = DataLoader(dataset, batch_size=8, num_workers=2)
        for _ in range(3):  # epochs, each with an order and masks of its own
            for batch in loader:
                logits = model(input_ids=batch["input_ids"]).logits
                loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    The Trainer of transformers::

        from torch.utils.data import DataLoader
        from transformers import Trainer, TrainingArguments
        from meap.data import open_dataset

        class StreamingTrainer(Trainer):
            def get_train_dataloader(self):  # the dataset shares rows out among ranks; accelerate would do it again
                return DataLoader(self.train_dataset, batch_size=self.args.per_device_train_batch_size)

        dataset = open_dataset(remote=remote, local=local, labels="transformers", batch_size=8, ratio=0.15)
        arguments = TrainingArguments(
            output_dir,
            num_train_epochs=3,
            per_device_train_batch_size=8,
            lr_scheduler_type="constant",
            report_to="none",
        )
        StreamingTrainer(model, arguments, train_dataset=dataset, optimizers=(optimizer, None)).train()

    Composer's Trainer::

        from composer import Trainer
        from composer.models import HuggingFaceModel
        from torch.utils.data import DataLoader
        from meap.data import open_dataset

        dataset = open_dataset(remote=remote, local=local, labels="transformers", batch_size=8, ratio=0.15)
        loader = DataLoader(dataset, batch_size=8)
        Trainer(
            model=HuggingFaceModel(model), train_dataloader=loader, optimizers=optimizer, max_duration="3ep"
        ).fit()

    Args:
        rule: How to mask, or None for clean rows (evaluation, or masking in the training process).
        labels: ``shifted`` or ``transformers``, see above. Unset: ``shifted``, and a line that says so.
        streaming_arguments: What `meap.data.reading.CheckedDataset` and `streaming.StreamingDataset` take;
            ``num_canonical_nodes`` and ``batch_size``, of one device, must be given.

    Yields (through iteration, or by random access with ``dataset[i]``, which masks as in epoch 0):
        A dictionary of ``input_ids`` and ``labels``, each (T,) or (T + 1,) int64, and ``sample_id`` () int64.

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
            _say_what_comes_out()
        self._labels_are_shifted = labels != "transformers"
        self._rule = rule if rule is not None and rule.ratio > 0.0 else None
        self._epoch = 0
        self._repetition = 0
        self._repetitions: NDArray[np.int32] | None = None

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """Row `sample_id`, masked for the epoch being iterated."""
        repetition, self._repetition = self._repetition, 0
        return self._compose(self.stored_at(sample_id, retry), sample_id + repetition * self.num_samples)

    def sample_at(self, sample_id: int, *, epoch: int) -> dict[str, Any]:
        """Sample `sample_id` as an iteration of `epoch` yields it; not while iterating."""
        before, self._epoch = self._epoch, epoch
        try:
            return self[sample_id]
        finally:
            self._epoch = before

    def _compose(self, columns: Mapping[str, NDArray[Any]], sample_id: int) -> dict[str, Any]:
        """The sample, from the columns of a stored row."""
        row = columns[TOKENS_COLUMN].astype(np.int64)
        inputs, labels = row[:-1], row[1:]
        if self._rule is not None:
            inputs = self._rule.apply(inputs[None], np.array([sample_id]), epoch=self._epoch)[0]
        if not self._labels_are_shifted:
            inputs, labels = np.append(inputs, row[-1]), np.insert(labels, 0, IGNORE_INDEX)
        return {
            "input_ids": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "sample_id": torch.tensor(int(sample_id)),
        }

    def resample_streams(self, epoch: int, stream_id: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sizes of the units that are shuffled, and the sample id at each place of the epoch before shuffling."""
        unit_sizes, rows = super().resample_streams(epoch, stream_id)
        # A unit is a shard, once whole for each full repetition and then in part: all in a row, shards in order.
        shards = np.searchsorted(self.sample_offset_per_shard, rows[np.cumsum(unit_sizes) - unit_sizes], "right")
        repetitions = np.arange(len(shards)) - np.searchsorted(shards, shards)
        if repetitions.any():
            rows += np.repeat(repetitions * self.num_samples, unit_sizes)
        return unit_sizes, rows

    def _get_work(self, epoch: int, sample_in_epoch: int) -> NDArray[np.int64]:
        # Called in every worker when an epoch starts, also after a resumption: the one place that knows its number.
        self._epoch = epoch
        sample_ids = super()._get_work(epoch, sample_in_epoch)
        # Streaming looks for shards by row: what tells repetitions apart goes beside it.
        repetitions, rows = np.divmod(sample_ids, self.num_samples)
        self._repetitions = repetitions.astype(np.int32) if (repetitions > 0).any() else None
        return np.where(sample_ids < 0, sample_ids, rows)

    def _each_sample_id(self, it: _Iterator) -> Iterator[int]:
        for sample_id in super()._each_sample_id(it):
            self._repetition = 0 if self._repetitions is None else int(self._repetitions[it.yield_index])
            yield sample_id


@cache
def _say_what_comes_out() -> None:
    """Once: nothing fails where shifted labels are shifted again."""
    _log.warning(
        "labels come shifted: labels[i] is the token after input_ids[i]. Models of transformers shift them themselves: "
        "give labels='transformers' for model(**batch), or labels='shifted' for a loss of your own"
    )

"""Composer's training step without its device syncs.

Composer 0.32.1 asks the device for a number several times per step: whether any rank's loader has ended, how many
tokens the ranks score, the loss (twice, once between backward pass and optimiser), and the tokens all ranks have seen.
Each of these syncs idles first the host, then the device. Here a step only enqueues work. Losses stay on the device,
and are reduced and read once per interval.

`LeanTrainer` replaces private methods of that version, and where it loads checkpoints by way of temporary folders.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from composer import Trainer
from composer.core import Callback, Event
from composer.core.precision import get_precision_context
from composer.core.types import TrainerMode
from composer.distributed import ddp_sync_context
from composer.utils import checkpoint, dist
from torch.nn.parallel import DistributedDataParallel

from meap.checkpoints.parts import errors_of_parts
from meap.data.ranks import require_neighbours
from meap.errors import CheckpointError, MeapError, TrainingError, first_line
from meap.places.whole import temporary_folder
from meap.processes import is_of_connection, wait_with_ranks
from meap.train.callbacks import StepLosses
from meap.train.checkpoints.stopping import waiting_for_rows

__all__ = ["LeanTrainer"]


@contextmanager
def _loading_with_care() -> Iterator[None]:
    """Within, a rank that fails to load a checkpoint ends, and the folder that Composer loads it by is gone."""
    loading: Any = checkpoint
    theirs = loading.tempfile, loading.dist, loading.load_checkpoint
    loading.tempfile, loading.dist = SimpleNamespace(TemporaryDirectory=_temporary_directory), _ImpatientRanks()
    loading.load_checkpoint = partial(_load, loading.load_checkpoint)
    try:
        yield
    finally:
        loading.tempfile, loading.dist, loading.load_checkpoint = theirs


def _load(load: Callable[..., Any], path: str, **settings: Any) -> Any:
    """Load a checkpoint, which was verified, and may be gone or unreadable all the same by now."""
    try:
        with errors_of_parts():
            return load(path=path, **settings)
    except (MeapError, pickle.UnpicklingError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Not this file's fault: another rank's, or this machine's.
        if is_of_connection(error) or os.strerror(errno.EMFILE) in str(error):
            raise
        raise CheckpointError(
            f"rank {dist.get_global_rank()} could not load the checkpoint {path} ({type(error).__name__}: "
            f"{first_line(error)}): see to its disk, then run the same command again; it resumes from the checkpoint "
            "before where this one is damaged"
        ) from error


class _ImpatientRanks:
    """Composer's `dist`, but a rank with an error waits for no others, which wait for it elsewhere."""

    def __getattr__(self, name: str) -> Any:
        return getattr(dist, name)

    def barrier(self) -> None:
        if sys.exc_info()[0] is None:
            dist.barrier()


@contextmanager
def _temporary_directory() -> Iterator[str]:
    with temporary_folder("meap-resume-") as folder:
        yield str(folder)


def _settle_buckets(model: DistributedDataParallel) -> None:
    """Let DDP lay out its buckets before the first step, which it does in the order in which gradients come first.

    Between the first two steps, as otherwise, the place of a gradient in its bucket changes, and with it the order in
    which more than two ranks are added: a run that resumes would not be, to the bit, the one that was not interrupted.
    """
    module, trained = model.module, [each for each in model.parameters() if each.requires_grad]
    module.forward = lambda _: torch.stack([0.0 * each.flatten()[0].float() for each in trained]).sum()
    try:
        torch.autograd.backward(model({}))
    finally:
        del module.forward
    module.zero_grad(set_to_none=True)


class LeanTrainer(Trainer):
    """Composer's Trainer for rows of fixed length, with a step that never syncs with the device.

    What it leaves out of Composer's step: automatic micro-batch sizes, gradient scaling (fp16), training metrics,
    optimisers that take closures, and losses of several parts. Events are the same, in the same order. Every rank is
    taken to have as many rows per batch, and as many batches, as every other: `meap.data.build_loader` sees to it.

    Args:
        loss_interval: Batches between readings of the loss.
        callbacks: Composer's.
        **settings: Arguments of Composer's Trainer; ``accumulate_train_batch_on_tokens`` is always on.

    Raises:
        TrainingError: While fitting, memory runs out, or a loss or weight is not finite.
    """

    def __init__(self, *, loss_interval: int, callbacks: Sequence[Callback], **settings: Any) -> None:
        self._step_losses = StepLosses(interval=loss_interval)
        self._host_group: Any = None
        self._batch_began = 0.0
        with _loading_with_care():
            super().__init__(
                callbacks=[self._step_losses, *callbacks], accumulate_train_batch_on_tokens=True, **settings
            )
        if isinstance(self.state.model, DistributedDataParallel):
            _settle_buckets(self.state.model)

    def _iter_dataloader(self, trainer_mode: TrainerMode) -> Generator[Any, None, None]:
        is_training = trainer_mode == TrainerMode.TRAIN
        batches = iter(cast("Any", self.state.dataloader))
        if threading.current_thread() is threading.main_thread():
            # torch would raise the death of a loader worker into whatever runs at that moment, be it the handling of
            # another error; asked for the worker's batch, it raises the same here.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        limit = self.state.dataloader_len
        count = 0
        while limit is None or count < int(limit):
            self._batch_began = time.perf_counter()
            if is_training:
                self.engine.run_event(Event.BEFORE_DATALOADER)
            try:
                with waiting_for_rows():
                    batch = next(batches)
            except StopIteration:
                if is_training:
                    self.engine.run_marker_only_event(Event.AFTER_DATALOADER)
                return
            count += 1
            yield batch

    def _accumulate_time_across_ranks(
        self, num_samples: float, num_tokens: int, batch_time: dt.timedelta
    ) -> tuple[int, int, dt.timedelta]:
        del batch_time  # Composer takes the system clock, which may be changed meanwhile
        world_size, seconds = dist.get_world_size(), time.perf_counter() - self._batch_began
        return int(num_samples) * world_size, num_tokens * world_size, dt.timedelta(seconds=seconds)

    def _train_batch(self, use_grad_scaling: bool) -> None:  # type: ignore[override]  # None: nothing to log yet
        assert not use_grad_scaling
        sample_ids = self.state.batch["sample_id"]
        try:
            loss = self._take_step()
        except torch.OutOfMemoryError as error:
            raise self._too_large(error) from error
        self._step_losses.add(self.state.timestamp, loss, sample_ids)

    def _take_step(self) -> torch.Tensor:
        """Train on ``state.batch``; returns this rank's loss, a scalar on the device."""
        spec, num_rows = self._train_data_spec, self.state.device_train_microbatch_size
        assert spec is not None
        assert num_rows is not None
        batch = self._to_device(self.state.batch)
        microbatches = spec.split_batch(batch, num_rows)

        self.engine.run_event(Event.BEFORE_TRAIN_BATCH)
        for optimizer in self.state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        num_scored = [spec.get_num_tokens_in_batch(each, "loss_generating") for each in microbatches]
        per_rank = self._mean_over_ranks(sum(num_scored), varies="num_targets" in batch)
        loss = torch.zeros((), device=batch["labels"].device)
        for index, microbatch in enumerate(microbatches):
            self.state.batch = microbatch
            is_last = index + 1 == len(microbatches)
            # A rank, and a micro-batch, weighs as much as its scored tokens.
            loss += self._train_part(weight=num_scored[index] / per_rank, is_last=is_last)
        self.state.batch = batch
        self.engine.run_event(Event.AFTER_TRAIN_BATCH)

        for optimizer in self.state.optimizers:
            optimizer.step()
        self.first_train_batch_complete = True
        return loss

    def _too_large(self, error: torch.OutOfMemoryError) -> TrainingError:
        """The error of a step that ran out of memory. Composer's `auto` would halve the micro-batch silently."""
        state, rows = self.state, cast("int", self.state.device_train_microbatch_size)
        remedy = f"set train.microbatch_size={rows // 2}" if rows > 1 else "train on devices with more memory"
        return TrainingError(
            f"rank {dist.get_global_rank()} has too little memory for step {int(state.timestamp.batch) + 1:,} with "
            f"train.microbatch_size={rows} (samples {state.batch['sample_id'].tolist()} of epoch "
            f"{int(state.timestamp.epoch)}; {first_line(error)}): {remedy}"
        )

    def _train_part(self, *, weight: float, is_last: bool) -> torch.Tensor:
        """Forward and backward pass of ``state.batch``, one micro-batch; returns its share of the loss."""
        state = self.state
        precision = get_precision_context(state.precision, state.precision_config)
        with ddp_sync_context(state, is_last, self._ddp_sync_strategy):
            self.engine.run_event(Event.BEFORE_FORWARD)
            with precision:
                state.outputs = state.model(state.batch)
            self.engine.run_event(Event.AFTER_FORWARD)

            self.engine.run_event(Event.BEFORE_LOSS)
            state.loss = self._original_model.loss(state.outputs, state.batch)
            self.engine.run_event(Event.AFTER_LOSS)

            self.engine.run_event(Event.BEFORE_BACKWARD)
            loss = cast("torch.Tensor", state.loss)
            (loss * weight).backward()
            self.engine.run_event(Event.AFTER_BACKWARD)
        return loss.detach() * weight

    def _mean_over_ranks(self, count: int, *, varies: bool) -> float:
        """The mean over ranks of a number that is on each host."""
        world_size = dist.get_world_size()
        if world_size == 1 or not varies:
            return float(count)
        if self._host_group is None and torch.distributed.get_backend() != "gloo":
            # Over CPUs: through NCCL the number would queue behind the device's work.
            self._host_group = wait_with_ranks(
                lambda: torch.distributed.new_group(backend="gloo"), look=require_neighbours
            )
        total = torch.tensor(count)
        torch.distributed.all_reduce(total, group=self._host_group)
        return int(total) / world_size

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move a batch once, not a micro-batch at a time; from pinned memory, or the host would wait for the copy."""
        if self.state.device.name == "gpu":
            batch = {
                key: value.pin_memory() if isinstance(value, torch.Tensor) and value.device.type == "cpu" else value
                for key, value in batch.items()
            }
        return self.state.device.batch_to_device(batch)

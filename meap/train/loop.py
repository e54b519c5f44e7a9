"""Composer's training step without its waits for the device.

Composer 0.32.1 asks the device for a number several times per step: whether any rank's loader has ended, how many
tokens the ranks score, the loss (twice, once between backward pass and optimiser), and the tokens all ranks have seen.
Each time the host stands still until the device has caught up, and then the device until the host has. Here a step
only hands work on. Losses stay on the device, and are reduced and read once per interval.

`LeanTrainer` replaces private methods of that version and refuses another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Generator, Sequence
from typing import Any, cast

import composer
import torch
from composer import Trainer
from composer.core import Callback, Event, State
from composer.core.precision import get_precision_context
from composer.core.types import TrainerMode
from composer.distributed import ddp_sync_context
from composer.loggers import Logger
from composer.utils import dist

from meap.errors import MeapError

__all__ = ["LeanTrainer", "StepLosses"]

_COMPOSER = "0.32.1"


class StepLosses(Callback):
    """The loss of every step, read from the device once per interval, before each checkpoint and at the end.

    Args:
        interval: Batches between readings.

    Logs:
        loss/train/total: Mean loss over all ranks, each under the step it belongs to (the first step is 1).
    """

    def __init__(self, *, interval: int) -> None:
        self._interval = interval
        self._steps: list[int] = []
        self._losses: list[torch.Tensor] = []
        self._logger: Logger | None = None

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Keep this rank's loss of a step, a scalar, where it is."""
        self._steps.append(step)
        self._losses.append(loss)

    def init(self, state: State, logger: Logger) -> None:
        """Remember where losses go."""
        self._logger = logger

    def batch_end(self, state: State, logger: Logger) -> None:
        """Read at the end of an interval, of an epoch and of the run: before loggers write what they have."""
        assert state.max_duration is not None
        time = state.timestamp
        if (
            int(time.batch) % self._interval == 0
            or time >= state.max_duration
            or (state.dataloader_len is not None and time.batch_in_epoch >= state.dataloader_len)
        ):
            self._read()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Read what is left."""
        self._read()

    def state_dict(self) -> dict[str, Any]:
        """Nothing; but a run that resumes here begins after these steps, so their losses must be known by now."""
        self._read()
        return {}

    def _read(self) -> None:
        if not self._losses or self._logger is None:
            return
        losses = torch.stack(self._losses)
        dist.all_reduce(losses)
        for step, loss in zip(self._steps, losses.tolist(), strict=True):
            self._logger.log_metrics({"loss/train/total": loss / dist.get_world_size()}, step=step)
        self._steps, self._losses = [], []


class LeanTrainer(Trainer):
    """Composer's Trainer for rows of fixed length, with a step that never waits for the device.

    What it leaves out of Composer's step: automatic micro-batch sizes, gradient scaling (fp16), training metrics,
    optimisers that take closures, and losses of several parts. Events are the same, in the same order. Every rank is
    taken to have as many rows per batch, and as many batches, as every other: `meap.data.build_loader` sees to it.

    Args:
        loss_interval: Batches between readings of the loss.
        callbacks: Composer's.
        **settings: Arguments of Composer's Trainer; ``accumulate_train_batch_on_tokens`` is always on.

    Raises:
        MeapError: Composer is of another version than the one whose step this replaces.
    """

    def __init__(self, *, loss_interval: int, callbacks: Sequence[Callback], **settings: Any) -> None:
        if composer.__version__ != _COMPOSER:
            raise MeapError(
                f"mosaicml {composer.__version__} is installed, but meap/train/loop.py replaces the training step of "
                f"{_COMPOSER}: pip install mosaicml=={_COMPOSER}"
            )
        self._step_losses = StepLosses(interval=loss_interval)
        self._host_group: Any = None
        super().__init__(callbacks=[self._step_losses, *callbacks], accumulate_train_batch_on_tokens=True, **settings)

    def _iter_dataloader(self, trainer_mode: TrainerMode) -> Generator[Any, None, None]:
        is_training = trainer_mode == TrainerMode.TRAIN
        batches = iter(cast("Any", self.state.dataloader))
        limit = self.state.dataloader_len
        count = 0
        while limit is None or count < int(limit):
            if is_training:
                self.engine.run_event(Event.BEFORE_DATALOADER)
            try:
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
        world_size = dist.get_world_size()
        return int(num_samples) * world_size, num_tokens * world_size, batch_time

    def _train_batch(self, use_grad_scaling: bool) -> None:  # type: ignore[override]  # None: nothing to log yet
        assert not use_grad_scaling
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
        self._step_losses.add(int(self.state.timestamp.batch) + 1, loss)

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
        """The mean of a number that every rank's host knows of itself."""
        world_size = dist.get_world_size()
        if world_size == 1 or not varies:
            return float(count)
        if self._host_group is None and torch.distributed.get_backend() != "gloo":
            # Hosts among themselves: through NCCL the number would have to queue behind the device's work.
            self._host_group = torch.distributed.new_group(backend="gloo")
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

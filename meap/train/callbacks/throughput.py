"""Speed of training, also as a share of the hardware's peak, and the time left."""

from __future__ import annotations

import time
from typing import Any

import torch
from composer.core import Callback, State, TimeUnit
from composer.loggers import Logger

from meap.config import RecipeConfig
from meap.train.flops import training_flops_per_token
from meap.train.machine import Machine
from meap.train.model import NextTokenModel
from meap.train.timetable import Timetable

__all__ = ["Throughput", "last_step"]

_WARM_UP_STEPS = 2
_SECONDS_PER_HOUR = 3600
_BYTES_PER_GB = 1e9


class Throughput(Callback):
    """Log speed once per interval, at its end; must come after callbacks that sync with the device there.

    Evaluation, checkpoints and a process's first two steps, which compile, are left out; waiting for data is not.
    Names are those of Composer's SpeedMonitor, MemoryMonitor and RuntimeEstimator, which time each
    step, when the host is ahead of the device.

    Args:
        interval: Batches between logs.
        tokens_per_batch: Input tokens of a global batch.
        flops_per_token: Of forward and backward pass, by PaLM's convention (attention as if it were not causal).
        peak_flops: Dense bf16 FLOPs per second of all devices together; None where not known.
        world_size: Number of devices.
        timetable: When the run ends, and pauses for evaluations and checkpoints.

    Logs:
        throughput/tokens_per_sec, throughput/device/tokens_per_sec: Of all devices, and of one.
        throughput/device/mfu: Model FLOPs utilisation in [0, 1], where the peak is known.
        memory/peak_allocated_mem: Peak GB of this process's GPU so far.
        time/train, time/val, time/total: Hours, all starts together.
        time/remaining_estimate: Hours that are left at the speed of this interval, with an evaluation and a checkpoint
            as long as the last one each time that one is due; the first ones are not known.
    """

    def __init__(
        self,
        *,
        interval: int,
        tokens_per_batch: int,
        flops_per_token: float,
        peak_flops: float | None,
        world_size: int,
        timetable: Timetable,
    ) -> None:
        self._interval = interval
        self._tokens_per_batch = tokens_per_batch
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._world_size = world_size
        self._timetable = timetable
        self._steps = 0
        self._mark: tuple[float, int] | None = None
        self._paused = 0.0
        self._pause_start: float | None = None
        self._eval_seconds = 0.0
        self._eval_began = self._save_began = 0.0
        self._last_eval = self._last_save = 0.0
        """Seconds that the last one took; 0 before the first."""
        self._is_saving = False

    @classmethod
    def of(cls, config: RecipeConfig, machine: Machine, model: NextTokenModel, timetable: Timetable) -> Throughput:
        """For a run."""
        return cls(
            interval=timetable.log_interval,
            timetable=timetable,
            tokens_per_batch=config.train.global_batch_size * config.data.seq_len,
            flops_per_token=training_flops_per_token(
                model.config, context=config.data.seq_len, causal=False, frozen=bool(config.lora.rank)
            ),
            peak_flops=machine.peak_flops,
            world_size=machine.world_size,
        )

    def state_dict(self) -> dict[str, Any]:
        """Hours of evaluation, which Composer does not store."""
        return {"eval_seconds": self._eval_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the count."""
        self._eval_seconds = state["eval_seconds"]

    def eval_start(self, state: State, logger: Logger) -> None:
        """Stop the clock."""
        self._eval_began = time.perf_counter()
        self._pause()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Count the time of this evaluation."""
        self._last_eval = time.perf_counter() - self._eval_began
        self._eval_seconds += state.eval_timestamp.total_wct.total_seconds()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Stop the clock while a checkpoint is saved."""
        self._is_saving = int(state.timestamp.batch) % self._timetable.checkpoint_interval == 0
        self._save_began = time.perf_counter()
        self._pause()

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Restart the clock."""
        if self._is_saving:
            self._last_save, self._is_saving = time.perf_counter() - self._save_began, False
        if self._pause_start is not None:
            self._paused += time.perf_counter() - self._pause_start
            self._pause_start = None

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log, where the interval or the run ends."""
        step = int(state.timestamp.batch)
        self._steps += 1
        if self._steps == _WARM_UP_STEPS:
            self._restart(step)
        elif self._mark is not None and (step % self._interval == 0 or step == self._timetable.steps):
            since, since_step = self._mark
            seconds_per_step = (time.perf_counter() - since - self._paused) / (step - since_step)
            self._restart(step)
            logger.log_metrics(self._metrics(state, seconds_per_step))

    def _metrics(self, state: State, seconds_per_step: float) -> dict[str, float]:
        speed = self._tokens_per_batch / seconds_per_step
        train_hours = state.timestamp.total_wct.total_seconds() / _SECONDS_PER_HOUR
        eval_hours = self._eval_seconds / _SECONDS_PER_HOUR
        metrics = {
            "throughput/tokens_per_sec": speed,
            "throughput/device/tokens_per_sec": speed / self._world_size,
            "time/train": train_hours,
            "time/val": eval_hours,
            "time/total": train_hours + eval_hours,
            "time/remaining_estimate": self._seconds_left(state, seconds_per_step) / _SECONDS_PER_HOUR,
        }
        if self._peak_flops is not None:
            metrics["throughput/device/mfu"] = speed * self._flops_per_token / self._peak_flops
        if torch.cuda.is_available():
            metrics["memory/peak_allocated_mem"] = torch.cuda.max_memory_allocated() / _BYTES_PER_GB
        return metrics

    def _seconds_left(self, state: State, seconds_per_step: float) -> float:
        """From the end of this step, before its evaluation and checkpoint."""
        step, timetable = int(state.timestamp.batch), self._timetable
        evaluations = timetable.times_left(timetable.eval_interval, done=step - 1)
        checkpoints = timetable.times_left(timetable.checkpoint_interval, done=step - 1)
        steps_left = max(0, timetable.steps - step)
        return steps_left * seconds_per_step + evaluations * self._last_eval + checkpoints * self._last_save

    def _pause(self) -> None:
        if self._pause_start is None:
            self._pause_start = time.perf_counter()

    def _restart(self, step: int) -> None:
        self._mark, self._paused = (time.perf_counter(), step), 0.0


def last_step(state: State) -> int:
    """Steps of the whole run if its duration is in batches, as `build_trainer` sets it; else 0."""
    duration: Any = state.max_duration
    return duration.value if duration is not None and duration.unit == TimeUnit.BATCH else 0

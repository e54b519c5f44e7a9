"""How fast training is, as a share of what the hardware can do, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, cast

import torch
from composer.core import Callback, State, Time, TimeUnit
from composer.loggers import Logger

__all__ = ["Throughput", "total_batches"]

_WARM_UP_STEPS = 2
_SMOOTHED_INTERVALS = 20
_SECONDS_PER_HOUR = 3600
_BYTES_PER_GB = 1e9


class Throughput(Callback):
    """Log speed once per interval: at its end, so put it behind the callbacks that wait for the device there.

    Evaluation, checkpoints and a process's first two steps, which compile, are left out; waiting for data is not.
    Names are those of Composer's SpeedMonitor, MemoryMonitor and RuntimeEstimator, which ask for the time of each step,
    though the host is ahead of the device then.

    Args:
        interval: Batches between logs.
        tokens_per_batch: Input tokens of a global batch.
        flops_per_token: Of forward and backward pass, by PaLM's convention (attention as if it were not causal).
        peak_flops: Dense bf16 FLOPs per second of all devices together; None where not known.
        world_size: Number of devices.

    Logs:
        throughput/tokens_per_sec, throughput/device/tokens_per_sec: Of all devices, and of one.
        throughput/device/mfu: Model FLOPs utilisation in [0, 1], where the peak is known.
        memory/peak_allocated_mem: GB of this process's GPU, the most so far.
        time/train, time/val, time/total: Hours over all starts.
        time/remaining_estimate: Hours of training steps that are left.
    """

    def __init__(
        self, *, interval: int, tokens_per_batch: int, flops_per_token: float, peak_flops: float | None, world_size: int
    ) -> None:
        self._interval = interval
        self._tokens_per_batch = tokens_per_batch
        self._flops_per_token = flops_per_token
        self._peak_flops = peak_flops
        self._world_size = world_size
        self._steps = 0
        self._mark: tuple[float, int] | None = None
        self._paused = 0.0
        self._pause_start: float | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=_SMOOTHED_INTERVALS)
        self._eval_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What the next start cannot know."""
        return {"eval_seconds": self._eval_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self._eval_seconds = state["eval_seconds"]

    def eval_start(self, state: State, logger: Logger) -> None:
        """Stop the clock."""
        self._pause()

    def eval_end(self, state: State, logger: Logger) -> None:
        """Count the time of this evaluation."""
        self._eval_seconds += state.eval_timestamp.total_wct.total_seconds()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Stop the clock: checkpoints, if any, are written now."""
        self._pause()

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """Let the clock go on."""
        if self._pause_start is not None:
            self._paused += time.perf_counter() - self._pause_start
            self._pause_start = None

    def batch_end(self, state: State, logger: Logger) -> None:
        """Log, where the interval or the run ends."""
        step, total = int(state.timestamp.batch), total_batches(state)
        self._steps += 1
        if self._steps == _WARM_UP_STEPS:
            self._restart(step)
        elif self._mark is not None and (step % self._interval == 0 or step == total):
            since, since_step = self._mark
            self._recent.append((time.perf_counter() - since - self._paused, step - since_step))
            self._restart(step)
            logger.log_metrics(self._metrics(state, max(0, total - step) if total else None))

    def _metrics(self, state: State, steps_left: int | None) -> dict[str, float]:
        seconds, steps = self._recent[-1]
        speed = self._tokens_per_batch * steps / seconds
        train_hours = state.timestamp.total_wct.total_seconds() / _SECONDS_PER_HOUR
        eval_hours = self._eval_seconds / _SECONDS_PER_HOUR
        metrics = {
            "throughput/tokens_per_sec": speed,
            "throughput/device/tokens_per_sec": speed / self._world_size,
            "time/train": train_hours,
            "time/val": eval_hours,
            "time/total": train_hours + eval_hours,
        }
        if self._peak_flops is not None:
            metrics["throughput/device/mfu"] = speed * self._flops_per_token / self._peak_flops
        if torch.cuda.is_available():
            metrics["memory/peak_allocated_mem"] = torch.cuda.max_memory_allocated() / _BYTES_PER_GB
        if steps_left is not None:
            recent_seconds, recent_steps = (sum(column) for column in zip(*self._recent, strict=True))
            metrics["time/remaining_estimate"] = steps_left * recent_seconds / recent_steps / _SECONDS_PER_HOUR
        return metrics

    def _pause(self) -> None:
        if self._pause_start is None:
            self._pause_start = time.perf_counter()

    def _restart(self, step: int) -> None:
        self._mark, self._paused = (time.perf_counter(), step), 0.0


def total_batches(state: State) -> int:
    """Batches of the whole run, 0 where that cannot be known."""
    duration = cast("Time[int] | None", state.max_duration)
    if duration is None:
        return 0
    if duration.unit == TimeUnit.BATCH:
        return duration.value
    elapsed = state.get_elapsed_duration()
    return round(int(state.timestamp.batch) / elapsed.value) if elapsed and elapsed.value else 0

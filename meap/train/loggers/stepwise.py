"""Metrics of a step arrive at different times, its loss last and for many steps at once; here they are put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from meap.train.callbacks.throughput import last_step

__all__ = ["StepwiseLogger"]


class StepwiseLogger(LoggerDestination):
    """A destination that writes steps in order, once per interval, before checkpoints and at the end; on rank 0 only.

    Composer's own loggers write what they are handed at once: W&B refuses a step below one it has seen, TensorBoard's
    starts a file with each flush and knows nothing of resumed runs, MLflow's sends a request per call.

    Args:
        interval: Batches between writings.
    """

    def __init__(self, *, interval: int) -> None:
        self._interval = interval
        self._pending: dict[int, dict[str, float]] = {}
        self._is_open = False

    def open(self, state: State) -> None:
        """Begin, or go on from the step in `state`."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take metrics of a step; of the last one again, if more become known."""
        raise NotImplementedError

    def flush(self) -> None:
        """Make sure that what was written lasts."""

    def finish(self) -> None:
        """End, for good or until the run is resumed."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Collect numbers by step."""
        assert step is not None, "Composer's Logger fills in the step"
        numbers = {
            name: float(value) for name, value in metrics.items() if isinstance(value, int | float | torch.Tensor)
        }
        self._pending.setdefault(step, {}).update(numbers)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Open; the step to go on from is known now."""
        if dist.get_global_rank() == 0:
            self.open(state)
            self._is_open = True

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write at the end of an interval and of the run; callbacks, which run before, have logged what they know."""
        step = int(state.timestamp.batch)
        if step % self._interval == 0 or step == last_step(state):
            self._write_pending()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Write what the checkpoint, saved just before, has asked for: a run resumed from it will not log it again."""
        step = int(state.timestamp.batch)
        if step in self._pending and "loss/train/total" in self._pending[step]:
            self._write_pending()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Write the rest."""
        self._write_pending()

    def close(self, state: State, logger: Logger) -> None:
        """Write the rest and finish, also after an error."""
        self._write_pending()
        if self._is_open:
            self._is_open = False
            self.finish()

    def _write_pending(self) -> None:
        if self._is_open and self._pending:
            for step in sorted(self._pending):
                self.write(step, self._pending[step])
            self.flush()
        if self._is_open or dist.get_global_rank() != 0:
            self._pending = {}

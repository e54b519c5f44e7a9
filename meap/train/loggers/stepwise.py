"""Collects the metrics of a step, which arrive at different times, the losses of many steps last and together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from meap.errors import MeapError, first_line
from meap.places.problems import full_disk_errors
from meap.train.callbacks.throughput import last_step

__all__ = ["StepwiseLogger", "Table"]


@dataclass(frozen=True)
class Table:
    """Texts that belong to a step."""

    name: str
    columns: list[str]
    rows: list[list[Any]]

    def records(self) -> list[dict[str, Any]]:
        """A row each, by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class StepwiseLogger(LoggerDestination):
    """A destination that writes steps in order, once per interval, before checkpoints and at the end; on rank 0 only.

    Composer's own loggers write metrics at once: W&B refuses a step below one it has seen, TensorBoard's starts a file
    with each flush and does not handle resumed runs, MLflow's sends a request per call.

    Args:
        interval: Batches between writings.
    """

    is_local = False
    """Whether it writes to this machine's disk, so that it is done soon."""

    def __init__(self, *, interval: int) -> None:
        self._interval = interval
        self._pending: dict[int, dict[str, float]] = {}
        self._tables: dict[int, Table] = {}
        self._is_open = False

    @property
    def place(self) -> Path:
        """What it writes on this machine, for the error about a full disk."""
        return Path.cwd()

    def open(self, state: State) -> None:
        """Open, or resume from the step in `state`."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step; the last one may come again with more of them."""
        raise NotImplementedError

    def write_table(self, step: int, table: Table) -> None:
        """Write texts of a step, after its metrics."""

    def flush(self) -> None:
        """Make what was written durable."""

    def finish(self) -> None:
        """Close; the run may be resumed later."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Collect numbers by step."""
        assert step is not None, "Composer's Logger fills in the step"
        numbers = {
            name: float(value) for name, value in metrics.items() if isinstance(value, int | float | torch.Tensor)
        }
        self._pending.setdefault(step, {}).update(numbers)

    def log_table(
        self, columns: list[str], rows: list[list[Any]], name: str = "Table", step: int | None = None
    ) -> None:
        """Collect texts by step."""
        assert step is not None, "Composer's Logger fills in the step"
        self._tables[step] = Table(name, columns, rows)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Open; the step to resume from is known now."""
        if dist.get_global_rank() == 0:
            self.open(state)
            self._is_open = True

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write at the end of an interval and of the run; callbacks run before loggers."""
        step = int(state.timestamp.batch)
        if step % self._interval == 0 or step == last_step(state):
            self._write_pending()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Write the losses read for the checkpoint just saved: a run resumed from it will not log them again."""
        step = int(state.timestamp.batch)
        if step in self._pending and "loss/train/total" in self._pending[step]:
            self._write_pending()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Write the rest."""
        self._write_pending()

    def close(self, state: State, logger: Logger) -> None:
        """Write the rest and finish, also after an error, which is what the user is told then."""
        try:
            self._write_pending()
            if self._is_open:
                self.finish()
        except Exception as error:  # noqa: BLE001 (Composer would print any with a traceback, and go on)
            print(f"warning: the last steps are not on record: {first_line(error)}", file=sys.stderr, flush=True)
        self._is_open = False

    def _write_pending(self) -> None:
        if self._is_open and (steps := sorted({*self._pending, *self._tables})):
            try:
                with full_disk_errors(self.place, num_bytes=None, kind=MeapError):
                    for step in steps:
                        if step in self._pending:
                            self.write(step, self._pending[step])
                        if step in self._tables:
                            self.write_table(step, self._tables[step])
                    self.flush()
            except BaseException:
                self._is_open = False  # closing would fail in the same way
                raise
        if self._is_open or dist.get_global_rank() != 0:
            self._pending, self._tables = {}, {}

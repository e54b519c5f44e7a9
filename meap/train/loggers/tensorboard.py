"""Curves for TensorBoard: ``tensorboard --logdir runs`` shows every run beside the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from textwrap import indent

from composer.core import State

from meap.config import RecipeConfig, to_yaml
from meap.extras import require_packages
from meap.train.loggers.stepwise import StepwiseLogger, Table

__all__ = ["TensorBoardLogger", "build_logger"]

require_packages("loggers.tensorboard=true", "tensorboard", extra="train")
from torch.utils.tensorboard import SummaryWriter  # noqa: E402 (it fails without tensorboard)

_QUEUE = 1000
_SECONDS = 60


class TensorBoardLogger(StepwiseLogger):
    """Write event files with torch's own writer: one file per start, whose first event purges repeated steps.

    Args:
        config: The whole configuration, shown as text.
        run_dir: The run's folder; event files go to `tensorboard` in it.
        interval: Batches between writings.
    """

    is_local = True

    def __init__(self, config: RecipeConfig, run_dir: Path, *, interval: int) -> None:
        super().__init__(interval=interval)
        self._folder = run_dir / "tensorboard"
        self._settings = to_yaml(config)
        self._writer: SummaryWriter | None = None

    @property
    def place(self) -> Path:
        """The folder of event files."""
        return self._folder

    def open(self, state: State) -> None:
        """Start a file; TensorBoard then drops steps of earlier files that will be trained again."""
        done = int(state.timestamp.batch)
        threading.excepthook = partial(_ignore_writer, otherwise=threading.excepthook)
        self._writer = SummaryWriter(
            str(self._folder), purge_step=done + 1 if done else 0, max_queue=_QUEUE, flush_secs=_SECONDS
        )
        self._writer.add_text("config", f"```yaml\n{self._settings}\n```", global_step=done)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        assert self._writer is not None
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=step)

    def write_table(self, step: int, table: Table) -> None:
        """Add its rows as texts, each as it is."""
        assert self._writer is not None
        for number, record in enumerate(table.records()):
            parts = (f"**{column}**\n\n{indent(str(value), '    ')}" for column, value in record.items())
            self._writer.add_text(f"{table.name}/{number}", "\n\n".join(parts), global_step=step)

    def flush(self) -> None:
        """Write events to the disk."""
        assert self._writer is not None
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        assert self._writer is not None
        self._writer.close()


def _ignore_writer(told: threading.ExceptHookArgs, *, otherwise: Callable[[threading.ExceptHookArgs], object]) -> None:
    """The writer's thread has failed: its next call raises the error in the main thread, which tells the user."""
    if type(told.thread).__name__ != "_AsyncWriterThread":
        otherwise(told)


build_logger = TensorBoardLogger

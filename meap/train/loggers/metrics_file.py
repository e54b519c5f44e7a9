"""Metrics as lines of JSON in the run's folder: always written, and read by reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from composer.core import State

from meap.train.loggers.stepwise import StepwiseLogger

__all__ = ["MetricsFile"]


class MetricsFile(StepwiseLogger):
    """Append ``{"step": 10, "loss/train/total": 2.5, ...}``, the first step being 1.

    A step may have several lines, also because a resumed run repeats steps: the last value of a metric counts.

    Args:
        path: File to append to.
        interval: Batches between writings.
    """

    def __init__(self, path: Path, *, interval: int) -> None:
        super().__init__(interval=interval)
        self._path = path
        self._lines: list[str] = []

    def open(self, state: State) -> None:
        """Start on a new line, even if a crash has truncated the last one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_file() and self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n"):
            self._lines.append("")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line."""
        self._lines.append(json.dumps({"step": step, **metrics}))

    def flush(self) -> None:
        """Append all lines at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n".join(self._lines) + "\n")
        self._lines = []

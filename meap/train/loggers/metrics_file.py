"""Metrics as lines of JSON in the run's folder: always there, and what reports read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from composer.core import State

from meap.train.loggers.stepwise import StepwiseLogger

__all__ = ["MetricsFile"]


class MetricsFile(StepwiseLogger):
    """Append ``{"step": 10, "loss/train/total": 2.5, ...}``, the first step being 1.

    Several lines may be of the same step: of several values of a metric the last holds. So it is too where a resumed
    run repeats steps.

    Args:
        path: File to append to.
        interval: Batches between writings.
    """

    def __init__(self, path: Path, *, interval: int) -> None:
        super().__init__(interval=interval)
        self._path = path
        self._lines: list[str] = []

    def open(self, state: State) -> None:
        """Make sure that the next line is a line of its own, even if a crash has cut the last one off."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_file() and self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n"):
            self._lines.append("")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Make a line."""
        self._lines.append(json.dumps({"step": step, **metrics}))

    def flush(self) -> None:
        """Append all lines at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n".join(self._lines) + "\n")
        self._lines = []

"""What a task is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.config import EvalConfig
from meap.evals.lm import LanguageModel
from meap.evals.scoring import Estimate
from meap.tokenizer import Tokenizer

__all__ = ["LazyRows", "Task", "TaskInputs", "TaskResult"]


class LazyRows(Sequence[NDArray[np.int64]]):
    """Rows that are read when they are asked for.

    Args:
        num_rows: How many there are.
        read: Returns row number ``i``.
    """

    def __init__(self, num_rows: int, read: Callable[[int], NDArray[np.int64]]) -> None:
        self._num_rows = num_rows
        self._read = read

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._num_rows))]
        if not 0 <= index < self._num_rows:
            raise IndexError(f"row {index} of {self._num_rows}")
        return self._read(index)


@dataclass(frozen=True)
class TaskInputs:
    """Everything a task may use."""

    model: LanguageModel
    tokenizer: Tokenizer
    """The model's own."""
    config: EvalConfig
    heldout_rows: Sequence[NDArray[np.int64]] = ()
    """Clean rows of ``seq_len + 1`` ids that were not trained on, read when they are asked for."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Called with the examples done and the examples there are."""


@dataclass(frozen=True)
class TaskResult:
    """What a task found."""

    headline: dict[str, Estimate]
    """The numbers to read first, by what they are called in the printed table."""
    numbers: dict[str, Any]
    """All numbers, for the results file and the picture; JSON values."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """One JSON object per example, written to ``<task>.jsonl``."""


@dataclass(frozen=True)
class Task:
    """A row of the table of tasks."""

    check: Callable[[TaskInputs], None]
    """Raises what would stop the task; called for every task before any of them runs."""
    evaluate: Callable[[TaskInputs], TaskResult]
    draw: Callable[[Any, dict[str, Any]], None]
    """Draws `TaskResult.numbers` on matplotlib axes."""

"""What executors know of the tasks they run, and datatrove kept off the console."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Protocol

from datatrove.utils.logging import logger

from meap.config.executors import ExecutorConfig
from meap.places.folder import Folder
from meap.prep.live import Progress
from meap.prep.progress import Tally

__all__ = ["TasksToRun", "quiet"]


class TasksToRun(Protocol):
    """What executors know of a job, or of a pass before it."""

    @property
    def config(self) -> ExecutorConfig:
        """Which executor, and its settings."""
        ...

    @property
    def folder(self) -> Folder:
        """Where the output goes."""
        ...

    @property
    def num_tasks(self) -> int:
        """Tasks in all."""
        ...

    @property
    def num_workers(self) -> int:
        """Tasks to run at the same time."""
        ...

    @property
    def logging_dir(self) -> str:
        """Folder or URL for logs."""
        ...

    @property
    def completed(self) -> frozenset[int]:
        """Tasks that are done already."""
        ...

    @property
    def tally(self) -> Tally:
        """What the steps count into."""
        ...

    @property
    def progress(self) -> Progress:
        """What shows the tallies."""
        ...

    def records(self) -> Container[int]:
        """Tasks that are complete by now."""
        ...


@contextmanager
def quiet() -> Iterator[None]:
    """Keep datatrove's log off the console, although datatrove adds stderr to its sinks again and again."""
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        logger.remove()
        try:
            yield
        finally:
            logger.remove()

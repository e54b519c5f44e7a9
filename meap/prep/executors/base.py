"""What executors know of the tasks they run, and datatrove kept off the console."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from datatrove.utils.logging import logger

from meap.config.executors import ExecutorConfig
from meap.places.folder import Folder
from meap.prep.live import Progress
from meap.prep.progress import Tally

__all__ = ["TasksToRun", "log_of_task", "quiet", "wait_for_records"]

_SETTLE_SECONDS = 90.0
"""How long the record of a completed task may take to be visible here: NFS caches for up to a minute."""

_LOG_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} | {level: <8} | {name}:{function}:{line} - {message}"


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


def wait_for_records(job: TasksToRun, tasks: Sequence[int], *, completed: Container[int]) -> list[int]:
    """Those of `tasks` that have no valid record, once the records of completed ones are visible on this machine."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        records = job.records()
        missing = [task for task in tasks if task not in records]
        if not any(task in completed for task in missing) or time.monotonic() > until:
            return missing
        time.sleep(1.0)


class _TaskLog:
    """What loguru writes to in this process: the log of the task that runs. It takes 10 ms to make a handler."""

    file: IO[str] | None = None
    is_attached = False

    def write(self, message: str) -> None:
        """Write a line."""
        if self.file is not None:
            self.file.write(message)
            self.file.flush()


_TASK_LOG = _TaskLog()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep datatrove's log off the console, although datatrove adds stderr to its sinks again and again."""
    with _no_stderr():
        _detach_log()
        try:
            yield
        finally:
            _detach_log()


@contextmanager
def log_of_task(folder: Any, rank: int) -> Iterator[None]:
    """Keep datatrove's log of a task in a file of its own, with the traceback of its failure.

    Args:
        folder: datatrove's, for logs.
        rank: Number of the task.
    """
    with _no_stderr():
        file = folder.open(f"logs/task_{rank:05d}.log", "w")
        if not _TASK_LOG.is_attached:
            _detach_log()
            logger.add(_TASK_LOG, level="DEBUG", format=_LOG_FORMAT)
            _TASK_LOG.is_attached = True
        _TASK_LOG.file = file
        try:
            yield
        except Exception as error:
            logger.exception(error)
            raise
        finally:
            _TASK_LOG.file = None
            with suppress(OSError):  # a full disk, which the shards' error says better
                file.close()


@contextmanager
def _no_stderr() -> Iterator[None]:
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


def _detach_log() -> None:
    logger.remove()
    _TASK_LOG.is_attached = False

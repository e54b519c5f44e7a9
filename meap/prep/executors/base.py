"""What our executors share: our own idea of what is completed, a quiet console, and one error per failure."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datatrove.executor.base import PipelineExecutor
from datatrove.utils.logging import logger

from meap.errors import DataError, MeapError
from meap.places.folder import Folder
from meap.prep.progress import Tally

if TYPE_CHECKING:
    from meap.prep.live import Progress

__all__ = ["OwnRecords", "Work", "quiet"]


class Work(Protocol):
    """What executors know of a job."""

    @property
    def config(self) -> Any:
        """Has `executor`, `slurm`, `ray` and `progress_interval`."""
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
        """Tasks to leave out."""
        ...

    @property
    def tally(self) -> Tally:
        """What the steps count into."""
        ...

    @property
    def progress(self) -> Progress:
        """What watches the tallies."""
        ...

    def records(self) -> Container[int]:
        """Tasks that are complete by now."""
        ...


class OwnRecords(PipelineExecutor):
    """Comes before one of datatrove's executors among the bases of ours.

    datatrove's completion markers know neither the configuration nor the number of tasks; they are written, but what
    counts is `completed`. Its log goes to files only.
    """

    job: Work
    """Stays with the command: tasks elsewhere get the steps and the tally."""
    completed: frozenset[int]
    tally: Tally

    def belong_to(self, job: Work) -> None:
        """Take over what a job says."""
        self.job = job
        self.completed = job.completed
        self.tally = job.tally

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "job"}

    def is_rank_completed(self, rank: int) -> bool:
        """Whether a task is left out."""
        return rank in self.completed

    def get_incomplete_ranks(self, ranks: Sequence[int] | None = None, skip_completed: bool | None = None) -> list[int]:
        """The tasks to run."""
        del skip_completed
        return [rank for rank in (range(self.world_size) if ranks is None else ranks) if rank not in self.completed]

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Do nothing: job.json says what this job is, and the vocabulary need not be written again."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        self.tally.start(rank)
        try:
            with quiet():
                # Not the next one in line: Ray's collects logs in a folder that it shares with other jobs and users.
                return PipelineExecutor._run_for_rank(self, rank, local_rank, node_rank)
        except MeapError as error:
            self.tally.fail(str(error))
            raise
        except Exception as error:  # noqa: BLE001
            # The traceback is in the log; a pool would print it several times over.
            message = (
                f"task {rank} failed with {type(error).__name__}: {error} (the log is {self.logging_dir.path}/logs/"
                f"task_{rank:05d}.log): run the same command again to retry"
            )
            self.tally.fail(message)
            raise DataError(message) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep datatrove's log off the console: it adds the stderr of the moment to its sinks, at every turn."""
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        logger.remove()
        try:
            yield
        finally:
            logger.remove()

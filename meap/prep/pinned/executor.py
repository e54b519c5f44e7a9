"""datatrove's executors, with completion by task records and one error per failed task."""

from __future__ import annotations

import copy
import tempfile
from collections import deque
from collections.abc import Sequence
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.utils.logging import log_pipeline, logger
from datatrove.utils.stats import PipelineStats, Stats

from meap.errors import DataError, MeapError
from meap.places.problems import describe_full_disk, is_full_disk
from meap.prep.executors.base import TasksToRun, log_of_task
from meap.prep.progress import Tally
from meap.prep.task_records import PREP_DIR

__all__ = ["CompletionFromRecords"]


class CompletionFromRecords(PipelineExecutor):
    """Mixin that precedes one of datatrove's executors among the bases of ours.

    datatrove's completion markers know neither the configuration nor the number of tasks: they are written, but
    `completed` decides. Its log goes to files only.
    """

    job: TasksToRun
    """Not pickled: tasks in other processes get the steps and the tally."""
    completed: frozenset[int]
    tally: Tally

    def belong_to(self, job: TasksToRun) -> None:
        """Take completed tasks and tally from a job."""
        self.job = job
        self.completed = job.completed
        self.tally = job.tally

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "job"}

    def is_rank_completed(self, rank: int) -> bool:
        """Whether a task is done already."""
        return rank in self.completed

    def get_incomplete_ranks(self, ranks: Sequence[int] | None = None, skip_completed: bool | None = None) -> list[int]:
        """The tasks to run."""
        del skip_completed
        return [rank for rank in (range(self.world_size) if ranks is None else ranks) if rank not in self.completed]

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Do nothing: job.json identifies the job, and the vocabulary need not be written again."""

    def run_task(self, rank: int) -> None:
        """Run one task here.

        Raises:
            MeapError: It failed; the traceback is in its log.
        """
        self._run_for_rank(rank)

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        """What datatrove's does, which also makes four handlers of its log for each task, as slow as a small task."""
        del local_rank
        self.tally.start(rank)
        self._set_distributed_environment(node_rank)
        steps: list[Any] = [_with_own_stats(step) for step in self.pipeline]
        try:
            with log_of_task(self.logging_dir, rank):
                log_pipeline(steps)
                data = None
                for step in steps:
                    data = step(data, rank, self.world_size)
                deque(data or (), maxlen=0)
                stats = PipelineStats(steps)
                with self.logging_dir.open(f"stats/{rank:05d}.json", "w") as file:
                    stats.save_to_disk(file)
                logger.info(stats.get_repr(f"Task {rank}"))
                self.mark_rank_as_completed(rank)
                return stats
        except MeapError as error:
            self.tally.fail(str(error))
            raise
        except Exception as error:  # noqa: BLE001
            message = self._described(rank, error)
            self.tally.fail(message)
            raise DataError(message) from None

    def _described(self, rank: int, error: Exception) -> str:
        """Names the log, which has the traceback; a full disk is named itself, as its log may be cut."""
        if is_full_disk(error):
            out = self.logging_dir.path.partition(f"/{PREP_DIR}")[0]
            # What goes to a store is written to a temporary file first.
            place = getattr(error, "filename", None) or (out if self.logging_dir.is_local() else tempfile.gettempdir())
            return f"task {rank}: {describe_full_disk(place)}: free space and run the same command again"
        return (
            f"task {rank} failed with {type(error).__name__}: {error} (the log is {self.logging_dir.path}/logs/"
            f"task_{rank:05d}.log): run the same command again to retry"
        )


def _with_own_stats(step: Any) -> Any:
    """A step with new statistics of datatrove's and everything else shared: a deep copy would copy the tokenizer."""
    own = copy.copy(step)
    own.stats = Stats(str(step))
    return own

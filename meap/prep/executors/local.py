"""The tasks in processes of this machine."""

from __future__ import annotations

from collections.abc import Sequence

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from meap.prep.executors.base import TasksToRun, quiet
from meap.prep.executors.workers import run_in_workers
from meap.prep.pinned.executor import CompletionFromRecords

__all__ = ["LocalExecutor"]


class LocalExecutor(CompletionFromRecords, LocalPipelineExecutor):
    """Runs several tasks at a time, each in its own process; a single worker runs them in this process."""

    def __init__(self, steps: Sequence[PipelineStep], job: TasksToRun) -> None:
        with quiet():
            super().__init__(
                pipeline=list(steps), tasks=job.num_tasks, workers=job.num_workers, logging_dir=job.logging_dir
            )
        self.belong_to(job)

    def run(self) -> None:
        """Run the tasks; the first failure ends them all."""
        ranks = self.get_incomplete_ranks()
        if self.workers > 1 and ranks:
            with quiet():
                run_in_workers(self.run_task, ranks, num_workers=min(self.workers, len(ranks)))
            return
        for rank in ranks:
            self.run_task(rank)

"""What runs the tasks: `build_executor` builds datatrove's executor of the configured kind, adapted to our jobs.

    base.py          what they know of a job; `meap.prep.pinned` holds what is changed in datatrove's
    local.py         processes of this machine
    slurm.py         an array job: submit, wait, say what failed        slurm_array.py  the array, and Slurm's commands
    slurm_task.py    what one element of that array runs
    ray.py           tasks of a Ray cluster

A new executor is a file here, a row in `_EXECUTORS`, and a section in `meap/config/executors.py`. The same
configuration and the same number of tasks give the same bytes with each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from datatrove.pipeline.base import PipelineStep

from meap.places.folder import Folder
from meap.prep.executors.base import TasksToRun
from meap.prep.executors.slurm_array import ARRAY_NAME, end_array

__all__ = ["Executor", "TasksToRun", "build_executor", "has_submitted_tasks"]


_EXECUTORS = {
    "local": "meap.prep.executors.local.LocalExecutor",
    "slurm": "meap.prep.executors.slurm.SlurmExecutor",
    "ray": "meap.prep.executors.ray.RayExecutor",
}
"""By the value of `executor`. Each is imported when it is used: Ray is optional."""


class Executor(Protocol):
    """Runs the steps for every task that is not completed yet."""

    def run(self) -> None:
        """Run the tasks, and return once all of them are done.

        Raises:
            MeapError: A task failed; the finished tasks stay for the next command.
        """
        ...


def build_executor(steps: Sequence[PipelineStep], job: TasksToRun) -> Executor:
    """The executor that `job.config.executor` names.

    Args:
        steps: Reader first, writer last.
        job: What the steps work for: a job, or a pass before it.

    Raises:
        DataError: A Slurm job still runs for the folder.
    """
    if job.config.executor != "slurm":  # an array outlives its command; Slurm's executor goes on with it
        end_array(job.folder)
        job.progress.clear()
    module, name = _EXECUTORS[job.config.executor].rsplit(".", 1)
    return getattr(import_module(module), name)(steps, job)


def has_submitted_tasks(folder: Folder) -> bool:
    """Whether tasks that a command submitted for a folder may outlive it: those of a Slurm array do."""
    return folder.read(ARRAY_NAME) is not None

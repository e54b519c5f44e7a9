"""The tasks in processes of this machine."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import multiprocess
import multiprocess.forkserver
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.stats import Stats

from meap.prep.executors.base import TasksToRun, quiet
from meap.prep.pinned.executor import CompletionFromRecords

__all__ = ["LocalExecutor"]

_PRELOADED = ["datatrove.executor", "numba", "tokenizers"]
_PARALLELISM = "TOKENIZERS_PARALLELISM"


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
        if self.workers > 1:
            self.job.progress.has_local_workers = True
            with quiet(), _workers_from_server():
                super().run()
            return
        steps = cast("list[PipelineStep]", self.pipeline)
        for rank in self.get_incomplete_ranks():
            self.pipeline = [_with_own_stats(step) for step in steps]
            self.run_task(rank)


def _with_own_stats(step: PipelineStep) -> PipelineStep:
    """A step with new statistics of datatrove's and everything else shared: a deep copy would copy the tokenizer."""
    own = copy.copy(step)
    own.stats = Stats(str(step))
    return own


@contextmanager
def _workers_from_server() -> Iterator[None]:
    """Fork worker processes from a clean server that has done the slow imports.

    Forking this process instead would copy its threads' locks in any state. The server ignores Ctrl-C, and its children
    inherit that: the command alone reacts to it, and ends them.
    """
    processes: Any = multiprocess  # whose functions are made when it is imported
    previous_method = processes.get_start_method(allow_none=True)
    previous_parallelism = os.environ.get(_PARALLELISM)
    processes.set_start_method("forkserver", force=True)
    multiprocess.forkserver.set_forkserver_preload(_PRELOADED)
    os.environ[_PARALLELISM] = "false"  # one thread per worker: the workers are as many as the cores
    try:
        with _interrupts_ignored():
            multiprocess.forkserver.ensure_running()
        yield
    finally:
        processes.set_start_method(previous_method, force=True)
        del os.environ[_PARALLELISM]
        if previous_parallelism is not None:
            os.environ[_PARALLELISM] = previous_parallelism


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

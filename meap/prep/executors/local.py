"""The tasks in processes of this machine."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import multiprocess
import multiprocess.forkserver
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from multiprocess.context import ForkServerContext, ForkServerProcess
from multiprocess.pool import Pool

from meap.prep.executors.base import TasksToRun, quiet
from meap.prep.pinned.executor import CompletionFromRecords
from meap.prep.pinned.server import end_server

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
        ranks = self.get_incomplete_ranks()
        if self.workers > 1 and ranks:
            self._run_in_workers(ranks)
            return
        for rank in ranks:
            self.run_task(rank)

    def _run_in_workers(self, ranks: Sequence[int]) -> None:
        """Run tasks in a pool whose workers get the steps once: they name every input file of the job."""
        self.job.progress.has_local_workers = True
        num_workers = min(self.workers, len(ranks))
        self.job.progress.replaced_workers = lambda: _Worker.starts - num_workers
        _Worker.starts = 0
        with (
            quiet(),
            _workers_from_server(),
            Pool(num_workers, initializer=_keep, initargs=(self,), context=_Context()) as pool,
        ):
            deque(pool.imap_unordered(_run_task, ranks), maxlen=0)


class _Worker(ForkServerProcess):
    """Counts how often workers were started: a pool replaces one only when it has ended."""

    starts = 0

    def start(self) -> None:
        """Start it."""
        _Worker.starts += 1
        super().start()


class _Context(ForkServerContext):
    Process = _Worker


_kept: list[LocalExecutor] = []
"""In a worker process: whose tasks it runs."""


def _keep(executor: LocalExecutor) -> None:
    _kept[:] = [executor]


def _run_task(rank: int) -> None:
    _kept[0].run_task(rank)


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
        atexit.unregister(end_server)
        atexit.register(end_server)
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

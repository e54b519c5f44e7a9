"""The executor: datatrove's, with one error per failure, a quiet console, and our own idea of what is complete."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, cast

import multiprocess
import multiprocess.forkserver
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import Stats

from meap.errors import DataError, MeapError

__all__ = ["TaskExecutor"]

_PRELOADED = ["datatrove.executor", "numba", "tokenizers"]
_PARALLELISM = "TOKENIZERS_PARALLELISM"


class TaskExecutor(LocalPipelineExecutor):
    """Runs the steps for every task that is not completed yet, several at a time.

    datatrove's own completion markers know neither the configuration nor the number of tasks; they are written, but
    what counts is `completed`. Its log goes to files only.

    Args:
        steps: Reader first, writer last.
        tasks: Tasks of the whole job.
        workers: Processes; one runs the tasks in this process.
        logging_dir: Folder or URL for logs.
        completed: Tasks to leave out.
    """

    def __init__(
        self,
        steps: Sequence[PipelineStep],
        *,
        tasks: int,
        workers: int,
        logging_dir: str,
        completed: frozenset[int],
    ) -> None:
        with _quiet():
            super().__init__(pipeline=list(steps), tasks=tasks, workers=workers, logging_dir=logging_dir)
        self.completed = completed

    def run(self) -> None:
        """Run the tasks.

        Raises:
            MeapError: A task failed; the other tasks' finished work stays for the next command.
        """
        if self.workers > 1:
            with _quiet(), _workers_from_server():
                super().run()
            return
        steps = cast("list[PipelineStep]", self.pipeline)
        for rank in self.get_incomplete_ranks():
            self.pipeline = [_with_own_stats(step) for step in steps]
            self._run_for_rank(rank)

    def is_rank_completed(self, rank: int) -> bool:
        """Whether a task is left out."""
        return rank in self.completed

    def get_incomplete_ranks(self, ranks: Sequence[int] | None = None, skip_completed: bool | None = None) -> list[int]:
        """The tasks to run."""
        del skip_completed
        return [rank for rank in (range(self.tasks) if ranks is None else ranks) if rank not in self.completed]

    def save_executor_as_json(self, indent: int = 4) -> None:
        """Do nothing: job.json says what this job is, and the vocabulary need not be written again."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        try:
            with _quiet():
                return super()._run_for_rank(rank, local_rank, node_rank)
        except MeapError:
            raise
        except Exception as error:  # noqa: BLE001
            # The traceback is in the log; a pool would print it several times over.
            raise DataError(
                f"task {rank} failed with {type(error).__name__}: {error} (the log is {self.logging_dir.path}/logs/"
                f"task_{rank:05d}.log): run the same command again to retry"
            ) from None


def _with_own_stats(step: PipelineStep) -> PipelineStep:
    """A step that counts anew and shares all else; a deep copy would build the tokenizer again for every task."""
    own = copy.copy(step)
    own.stats = Stats(str(step))
    return own


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep datatrove's log off the console: it adds the stderr of the moment to its sinks, at every turn."""
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        logger.remove()
        try:
            yield
        finally:
            logger.remove()


@contextmanager
def _workers_from_server() -> Iterator[None]:
    """Let worker processes be forked from a clean server that has the slow imports behind it.

    Forking this process instead would copy threads' locks in whatever state they are. The server is started with Ctrl-C
    ignored, which its children inherit: only the command itself reacts to it, and ends them.
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

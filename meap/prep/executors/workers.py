"""Worker processes of this machine, each with a pipe of its own, so that none waits for what another one held."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from multiprocess.connection import Connection, wait
from multiprocess.context import ForkServerContext
from multiprocess.process import parent_process
from multiprocess.reduction import ForkingPickler

from meap.errors import DataError
from meap.places.problems import require_room_for_sockets
from meap.prep.pinned.server import start_server
from meap.processes import end_processes, end_with_parent

__all__ = ["run_in_workers"]

_PRELOADED = ("datatrove.executor", "numba", "tokenizers")
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_SERVER_IS_GONE = 255
"""What multiprocess says of a process where the server, which alone waits for it, cannot tell how it ended."""
_SECONDS_TO_DIE = 5.0
_FILES_TO_START = 6
"""What starting a process opens at most: pipes, and the connection to the server."""


def run_in_workers(run_task: Callable[[int], object], tasks: Sequence[int], *, num_workers: int) -> None:
    """Run tasks, as many at a time as there are workers.

    Args:
        run_task: Runs the task of a number. It is pickled once: it may name every input file of a job.
        tasks: Their numbers.
        num_workers: Processes, at most as many as tasks.

    Raises:
        DataError: A worker that had a task has ended, or the process that forks them.
        Exception: What the first task that failed has raised.
    """
    waiting = deque(tasks)
    with _few_threads(), _started(num_workers) as workers:
        work = bytes(ForkingPickler.dumps(run_task))
        for worker in workers:
            worker.begin(waiting.popleft(), work)
        while busy := [each for each in workers if each.task is not None]:
            ready = set(wait([handle for each in busy for handle in each.handles]))
            for worker in busy:
                if ready.intersection(worker.handles):
                    worker.finish()
                    if waiting:
                        worker.begin(waiting.popleft())


class _Worker:
    """A process that runs a task at a time."""

    def __init__(self, server: int) -> None:
        context = ForkServerContext()
        self.task: int | None = None
        self._server = server
        self._connection, theirs = context.Pipe()
        self.process: Any = context.Process(target=_work, args=(theirs, server), daemon=True)
        with theirs:
            _require_files(_FILES_TO_START)
            try:
                self.process.start()
            except (EOFError, ConnectionError):
                raise self._lost(f"the process {server} that forks the workers") from None

    @property
    def handles(self) -> tuple[Connection, int]:
        """What is ready once its task is over, in whichever way."""
        return self._connection, self.process.sentinel

    def begin(self, task: int, work: bytes = b"") -> None:
        """Give it a task, the first one with what runs tasks."""
        self.task = task
        try:
            if work:
                self._connection.send_bytes(work)
            self._connection.send(task)
        except ConnectionError:
            raise self._lost() from None

    def finish(self) -> None:
        """Take the outcome of its task; raises the task's error."""
        try:
            # Where there is nothing, the process alone was ready.
            error = self._connection.recv() if self._connection.poll() else self._lost()
        except (EOFError, OSError):
            raise self._lost() from None
        if error is not None:
            raise error
        self.task = None

    def wait_until_gone(self) -> None:
        """Wait until it has let go of its files: that is all that is to be seen where the server is gone."""
        with suppress(EOFError, OSError), self._connection:
            while self._connection.poll(_SECONDS_TO_DIE):
                self._connection.recv_bytes()

    def _lost(self, what: str | None = None) -> DataError:
        if what is None:
            self.process.join(_SECONDS_TO_DIE)
            what = f"the worker process {self.process.pid} of task {self.task}"
            if self.process.exitcode == _SERVER_IS_GONE:
                what = f"the process {self._server} that forks the workers"
        return DataError(
            f"{what} has ended without a word; was it killed, perhaps out of memory? The tasks that are finished are "
            "kept: run the same command again to continue; if it was memory, with fewer workers"
        )


@contextmanager
def _started(count: int) -> Iterator[list[_Worker]]:
    """Fork workers from a clean server that has done the slow imports; they are gone when the block ends.

    Forking this process instead would copy its threads' locks in any state.
    """
    require_room_for_sockets("workers=1")
    server, workers = start_server(_PRELOADED), list[_Worker]()
    try:
        for _ in range(count):
            workers.append(_Worker(server))
        yield workers
    finally:
        end_processes([each.process for each in workers])
        for each in workers:
            each.wait_until_gone()


def _require_files(count: int) -> None:
    """Raise where files run out, before the server is asked: half a request ends it with a traceback."""
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(Path(os.devnull).open())


@contextmanager
def _few_threads() -> Iterator[None]:
    """One thread per worker: the workers are as many as the cores."""
    previous = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        del os.environ[_PARALLELISM]
        if previous is not None:
            os.environ[_PARALLELISM] = previous


def _work(connection: Connection, server: int) -> None:
    """Run tasks until there are no more; in a worker process."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != server:  # it ended before the call above
        return
    threading.Thread(target=_end_with_command, daemon=True).start()
    with suppress(EOFError, OSError):
        run_task = connection.recv()
        while True:
            connection.send_bytes(_error_of(run_task, connection.recv()))


def _end_with_command() -> None:
    """Else a task would go on beside the command that runs it again."""
    command = parent_process()
    assert command is not None
    command.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _error_of(run_task: Callable[[int], object], task: int) -> bytes:
    """What a task has raised, pickled; None where it has done its work."""
    raised: BaseException | None = None
    try:
        run_task(task)
    except BaseException as error:  # noqa: BLE001 (raised by the command; a panic of Rust is no Exception)
        raised = error
    try:
        pickled = bytes(ForkingPickler.dumps(raised))
        if raised is None or isinstance(ForkingPickler.loads(pickled), Exception):
            return pickled
    except Exception:  # noqa: BLE001, S110 (of classes that are local, or whose arguments are not their message)
        pass
    return bytes(ForkingPickler.dumps(RuntimeError(f"{type(raised).__name__}: {raised}")))

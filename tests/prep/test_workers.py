"""Worker processes, and the one that forks them, end with the command; a lost one ends the command with an error."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from meap.data.unusable import UnusableFileError
from meap.prep.executors.workers import _error_of

BEGINS_AND_ENDS = """
from meap.prep.pinned.server import start_server
from meap.processes import leave

start_server(["datatrove.executor", "numba", "tokenizers"])
leave(lambda: 0)
"""


def processes_of(session: int, *, parent: int | None = None) -> dict[int, str]:
    """Processes that run, with their command lines."""
    found = {}
    for each in psutil.process_iter(["status", "cmdline", "ppid"]):
        with contextlib.suppress(ProcessLookupError):
            if (
                each.info["status"] != psutil.STATUS_ZOMBIE
                and os.getsid(each.pid) == session
                and parent in {None, each.info["ppid"]}
            ):
                found[each.pid] = " ".join(each.info["cmdline"] or [])
    return found


def servers_of(session: int) -> list[int]:
    return [pid for pid, line in processes_of(session, parent=session).items() if "forkserver" in line]


def workers_of(session: int) -> list[int]:
    return [pid for server in servers_of(session) for pid in processes_of(session, parent=server)]


def test_a_server_that_is_still_importing_ends_with_its_command(quiet_environment, project_root):
    command = subprocess.Popen(
        [sys.executable, "-c", BEGINS_AND_ENDS], start_new_session=True,
        env=quiet_environment | {"PYTHONPATH": str(project_root)},
    )  # fmt: skip
    assert command.wait(120) == 0
    until = time.monotonic() + 0.5
    while (left := servers_of(command.pid)) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []


class Preparation:
    """A command with two workers, which a test disturbs."""

    def __init__(self, arguments: tuple[str, ...], tmp_path: Path, start_command, wait_until) -> None:
        self.arguments, self.out, self.wait_until = arguments, tmp_path / "out", wait_until
        # Sockets are made there, whose paths must be short.
        self.temporary = temporary = Path(tempfile.mkdtemp(prefix="w", dir="/tmp"))
        self.start = lambda: start_command(*arguments, "remote=out", "workers=2", TMPDIR=str(temporary))
        self.command = self.start()

    @property
    def session(self) -> int:
        return self.command.pid

    def tasks(self) -> dict[int, int]:
        """Tasks that have begun and not ended, with the worker of each."""
        found = {}
        for path in (self.out / ".prep/scratch/progress").glob("*.json"):
            with contextlib.suppress(ValueError, FileNotFoundError):
                counts = json.loads(path.read_text())
                if not counts["is_done"]:
                    found[int(path.stem)] = counts["pid"]
        return found

    def wait_for_tasks(self) -> list[int]:
        """Wait until workers have tasks, and stop them there; gives their process ids.

        One that was forked just now, and has none yet, is left alone: it does not yet end with its parent.
        """
        while True:
            self.wait_until(self.tasks)
            busy = set(self.tasks().values()) & set(workers_of(self.session))
            for pid in busy:
                os.kill(pid, signal.SIGSTOP)
            if busy & set(self.tasks().values()):
                return sorted(busy)
            for pid in busy:
                os.kill(pid, signal.SIGCONT)

    def end(self) -> tuple[int, str]:
        """Its status and messages, once it has ended and nothing is left of it."""
        _, messages = self.command.communicate(timeout=60)
        assert "Traceback" not in messages
        assert "resource_tracker" not in messages
        self.wait_until(lambda: not processes_of(self.session))
        assert not (self.out / ".prep/scratch").exists()
        assert list(self.temporary.iterdir()) == []
        return self.command.returncode, messages

    def error(self) -> str:
        """Its one error, once it has ended."""
        status, messages = self.end()
        (error,) = [line for line in messages.splitlines() if line.startswith("error: ")]
        assert status == 1
        assert "are kept: run the same command again" in error
        return error


@pytest.fixture
def preparation_arguments(prepare, tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """What to prepare; it is there as `expected`, made by one process."""
    for number in range(4):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(1500, seed=number))
    arguments = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=63", "shard_size=16kb", "tasks=4")
    prepare(*arguments, "remote=expected")
    return arguments


@pytest.fixture
def preparation(preparation_arguments, start_command, tmp_path, wait_until, hashes_of):
    """Afterwards the same command completes to what an undisturbed one gives."""
    disturbed = Preparation(preparation_arguments, tmp_path, start_command, wait_until)
    yield disturbed
    again = disturbed.start()
    assert again.communicate(timeout=300)[1]
    assert again.returncode == 0
    assert hashes_of(disturbed.out) == hashes_of(tmp_path / "expected")
    shutil.rmtree(disturbed.temporary)  # which a command that was killed has left something in


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_one_error(
    preparation_arguments, start_command, tmp_path
):
    (temporary := tmp_path / ("long" * 30)).mkdir()
    command = start_command(*preparation_arguments, "remote=out", "workers=2", TMPDIR=str(temporary))
    _, messages = command.communicate(timeout=300)
    assert command.returncode == 2, messages
    assert f"error: the folder for temporary files, {temporary}, has a path of" in messages
    assert "set TMPDIR to a shorter one, such as /tmp, or workers=1" in messages
    assert "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_server_killed_while_it_starts_is_one_error(preparation, wait_until):
    wait_until(lambda: servers_of(preparation.session))
    (server,) = servers_of(preparation.session)
    os.kill(server, signal.SIGKILL)
    assert f"the process {server} that forks the workers has ended" in preparation.error()


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.parametrize("have_tasks", [False, True], ids=["workers start", "workers have tasks"])
def test_a_server_killed_ends_its_workers_and_the_command(preparation, wait_until, have_tasks):
    if have_tasks:
        preparation.wait_for_tasks()
    else:
        wait_until(lambda: workers_of(preparation.session))
    (server,) = servers_of(preparation.session)
    os.kill(server, signal.SIGKILL)
    assert f"the process {server} that forks the workers has ended" in preparation.error()


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.parametrize("has_task", [False, True], ids=["it starts", "it has a task"])
def test_a_worker_killed_is_one_error(preparation, wait_until, has_task):
    if has_task:
        preparation.wait_for_tasks()
        task, worker = next(iter(preparation.tasks().items()))
    else:
        wait_until(lambda: len(workers_of(preparation.session)) == 2)
        task, worker = "", workers_of(preparation.session)[0]
    os.kill(worker, signal.SIGKILL)
    assert f"the worker process {worker} of task {task}" in preparation.error()


@pytest.mark.slow
@pytest.mark.fault(1)
def test_workers_end_with_a_command_that_is_killed(preparation, wait_until):
    """Else they would finish their tasks beside the command that runs these again."""
    wait_until(preparation.tasks)
    task = next(iter(preparation.tasks()))
    os.kill(preparation.session, signal.SIGKILL)
    wait_until(lambda: not processes_of(preparation.session))
    assert task in preparation.tasks()


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("have_tasks", [False, True], ids=["the server starts", "workers have tasks"])
def test_a_signal_to_all_processes_stops_the_command_quietly(preparation, wait_until, number, have_tasks):
    if have_tasks:
        preparation.wait_for_tasks()
    else:
        wait_until(lambda: servers_of(preparation.session))
    os.killpg(preparation.session, number)
    status, messages = preparation.end()
    assert status == os.EX_TEMPFAIL
    assert messages.endswith(f"stopped by {number.name}: run the same command again to resume\n")


@pytest.mark.slow
@pytest.mark.fault(2)
@pytest.mark.parametrize("options", ["size=4k", "size=4k,ro"], ids=["full", "read-only"])
def test_workers_need_no_shared_memory(
    preparation_arguments, tmp_path, command_path, quiet_environment, hashes_of, options
):
    mount = f"mount -t tmpfs -o {options} none /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here (root can)")
    command = [sys.executable, str(command_path), *preparation_arguments, "remote=out", "workers=2"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount}; exec "$@"', "sh", *command], cwd=tmp_path, check=False, timeout=300,
        env=quiet_environment | {"PYTHONPATH": str(command_path.parent.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")


class LongerError(Exception):
    """Its argument is not its message."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is too long", len(what))


class PanicError(BaseException):
    """As those of libraries in Rust."""


def fail(task: int) -> None:
    class LocalError(Exception):
        pass

    unusable = UnusableFileError("shard.00001.mds", "is missing", "fetch it again")
    raise (unusable, LongerError("a line"), LocalError("of a library"), PanicError("in a library"))[task]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (0, "UnusableFileError: shard.00001.mds is missing: fetch it again"),
        (1, "RuntimeError: LongerError: ('a line is too long', 6)"),
        (2, "LocalError: of a library"),
        (3, "RuntimeError: PanicError: in a library"),
    ],
)
def test_an_error_of_any_kind_comes_from_a_task_to_the_command(task, told):
    error = pickle.loads(_error_of(fail, task))
    assert f"{type(error).__name__}: {error}" == told
    assert pickle.loads(_error_of(str, task)) is None

"""A lock ends with its holder, and tells others who that is."""

import fcntl
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meap.places.locks import describe_holder, lock_file

COMMAND = ["recipes/meap_1b.py", "yamls/1b.yaml", "data.remote=s3://me:hunter2@bucket/c4", "tracker.api_key=hunter2"]


@pytest.fixture
def lock(tmp_path) -> Path:
    return tmp_path / "lock"


def fork(run: Callable[[], object]) -> tuple[int, int]:
    """A process that runs and then waits to be killed; its pid, and a pipe that says when it is so far."""
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        os.read(reader, 1)
        return pid, reader
    try:
        run()
        os.write(writer, b".")
        signal.pause()
    finally:
        os._exit(1)


def hold(lock: Path) -> Callable[[], object]:
    def run() -> None:
        sys.argv = COMMAND
        assert lock_file(lock) is not None

    return run


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.fault(6)
def test_a_lock_names_its_holder_without_secrets_and_ends_with_it(lock):
    pid, reader = fork(hold(lock))
    assert lock_file(lock) is None
    assert re.fullmatch(
        rf"process {pid} \(recipes/meap_1b.py yamls/1b.yaml '?data.remote=s3://\*\*\*@bucket/c4'? "
        r"'?tracker.api_key=\*\*\*'?\) for 0:00:\d\d",
        describe_holder(lock),
    )
    kill(pid)
    os.close(reader)
    handle = lock_file(lock)
    assert handle is not None
    assert f"process {os.getpid()} (" in describe_holder(lock)
    os.close(handle)


def test_a_lock_whose_file_is_removed_at_any_moment_is_not_held(lock, monkeypatch):
    flock = fcntl.flock

    def removed(handle: int, how: int) -> None:
        flock(handle, how)
        lock.unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    assert lock_file(lock) is None


def test_a_holder_of_another_machine_is_named_with_its_host_and_age(lock):
    handle = lock_file(lock)
    assert handle is not None
    holder = json.loads(lock.read_text())
    lock.write_text(json.dumps(holder | {"host": "node7", "pid": 12, "command": "x", "since": holder["since"] - 3723}))
    assert describe_holder(lock).startswith("process 12 on node7 (x) for 1:02:0")
    os.close(handle)


def test_what_a_killed_holder_has_started_keeps_the_lock_and_is_told_apart(lock, wait_until):
    """Loader workers outlive a killed run by seconds."""
    pids, numbers = os.pipe()

    def run() -> None:
        hold(lock)()
        child, _ = fork(lambda: None)
        os.write(numbers, str(child).encode())

    pid, reader = fork(run)
    child = int(os.read(pids, 16))
    kill(pid)
    assert lock_file(lock) is None
    assert describe_holder(lock).endswith(", which has ended but left child processes running")
    os.kill(child, signal.SIGKILL)
    # It closes its files one after the other.
    handles: list[int] = []
    wait_until(lambda: handles or handles.extend(filter(None, [lock_file(lock)])) or handles)
    for each in (*handles, reader, pids, numbers):
        os.close(each)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": null}'])
def test_a_holder_that_says_nothing_is_another_process(lock, content):
    lock.write_bytes(content)
    assert describe_holder(lock) == "another process"

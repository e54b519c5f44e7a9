"""Isolates runs on one machine: names of shared memory, lock files, and folders of downloaded shards.

streaming 0.13 counts up from 000000 to the first name that looks free. Two runs that start at the same moment find the
same name and share each other's counters and shard states; the names of killed runs are never freed; and a cache folder
in use goes unnoticed by runs with another temporary folder. Here a run draws a random number, locks a file of that
number while it lives, and removes the leftovers of runs whose lock is free.
"""

from __future__ import annotations

import atexit
import errno
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from _posixshmem import shm_unlink
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory as PlainSharedMemory
from multiprocessing.util import Finalize
from pathlib import Path
from types import ModuleType
from typing import Any

import streaming.base.dataset as streaming_dataset
import streaming.base.shared.memory as streaming_memory
from streaming.base.constant import BARRIER_FILELOCK, CACHE_FILELOCK, LOCALS, SHM_TO_CLEAN
from streaming.base.shared import SharedMemory
from streaming.base.shared.prefix import _check_self, _get_path, _pack_locals
from streaming.base.world import World

from meap.data.pinned.order import RowLocator
from meap.data.pinned.waits import WatchedBarrier
from meap.data.ranks import gather_from_ranks, meet_neighbours
from meap.data.shared_memory import describe_full_memory, require_shared_memory
from meap.errors import ConfigError, DataError, LostRankError
from meap.places.locks import NoLocksError, describe_holder, lock_file, lock_in_time
from meap.places.redaction import describe_error
from meap.processes import start_tracker

__all__ = ["LostNeighbourError", "isolated_names", "release_caches", "wait_for_shared_memory"]

_MOST_NUMBERS = 10**11
"""macOS allows names of 31 characters."""
_LEAST_SHARED_MEMORY = 1 << 20
"""For the shared state besides the order of an epoch: a few bytes per shard."""
_SHARED = "what the readers of a data set share"
_SECONDS_TO_SIZE = 30.0
"""For another rank to get from one system call to the next, on a busy machine."""

_IN_USE = ".in_use"
_OWN = "give each run, and each node, its own with run.dir, or with data.cache_dir on a disk that nodes do not share"

_held: dict[Path, int] = {}
"""Files this process has locked, open until it ends; the kernel then releases the lock."""
_holder = 0
"""Process id of the owner of the locks."""
_made: set[str] = set()
"""Names of the segments that this process has made, or began to."""
_maker = 0
"""Its process id."""


@contextmanager
def isolated_names() -> Iterator[None]:
    """Datasets made within get names that no other run on this machine has, on all ranks of it.

    Raises:
        ConfigError: Another run uses the same cache folder.
    """
    start_tracker()
    with (
        _replaced(streaming_dataset, "get_shm_prefix", _register),
        _replaced(streaming_dataset, "Spanner", RowLocator),
        _replaced(streaming_dataset, "SharedBarrier", WatchedBarrier),
        wait_for_shared_memory(),
    ):
        yield


@contextmanager
def wait_for_shared_memory() -> Iterator[None]:
    """Within, streaming opens shared memory only once its creator has sized it.

    It is released when this process exits, also if multiprocessing started the process.
    """
    with (
        _replaced(streaming_memory, "BuiltinSharedMemory", _SizedSharedMemory),
        _replaced(streaming_memory, "atexit", _AtEveryExit),
    ):
        yield


def release_caches() -> None:
    """Release this process's cache folders to other runs before it ends."""
    for path in [each for each in _held if each.name.endswith(_IN_USE)]:
        os.close(_held.pop(path))


@contextmanager
def _replaced(module: ModuleType, name: str, ours: Any) -> Iterator[None]:
    """Replace a global name of a module of streaming."""
    theirs = getattr(module, name)
    setattr(module, name, ours)
    try:
        yield
    finally:
        setattr(module, name, theirs)


class _AtEveryExit:
    """Replaces `atexit`, which processes of multiprocessing skip."""

    @staticmethod
    def register(release: Callable[[], None]) -> None:
        if multiprocessing.parent_process() is None:
            atexit.register(release)
        else:
            Finalize(None, release, exitpriority=-1)  # below 0: after processes that read here have ended


class LostNeighbourError(DataError, LostRankError, FileNotFoundError):
    """A segment is gone with the rank that has created it; streaming handles the latter where one need not be there."""


class _SizedSharedMemory(PlainSharedMemory):
    """A segment is empty between creation and sizing; streaming waits 7 ms for that, this class longer.

    It has all its memory once it is made: a process that writes where there is none is killed by SIGBUS.

    Raises:
        ConfigError: There is too little.
    """

    def __init__(self, name: str | None = None, create: bool = False, size: int = 0) -> None:
        self._is_ready, self._is_new = False, create
        if create and name is not None:
            _making(name)
        given_up = time.monotonic() + _SECONDS_TO_SIZE
        while True:
            try:
                super().__init__(name, create, size)
            except ValueError:
                self.close()
                if create or time.monotonic() > given_up:
                    raise
                time.sleep(0.001)
            except FileExistsError:  # another's
                _made.discard(str(name))
                raise
            except FileNotFoundError as error:
                rank = os.environ.get("RANK", "0")
                raise LostNeighbourError(
                    f"the rank that shared memory with rank {rank} has ended ({error.filename} is gone): look for the "
                    "reason among the messages of the other ranks"
                ) from error
            else:
                self._is_ready = True
                break
        if create and sys.platform == "linux":
            self._allocate(size)

    def _allocate(self, size: int) -> None:
        try:
            os.posix_fallocate(self._fd, 0, size)  # pyright: ignore[reportAttributeAccessIssue]
        except OSError as error:
            self.close()
            self.unlink()
            if error.errno != errno.ENOSPC:
                raise
            raise ConfigError(describe_full_memory(size, _SHARED)) from error

    def unlink(self) -> None:
        """As Python's, which also calls it where opening fails: on what others use, or its tracker does not know."""
        if not self._is_ready and not self._is_new:
            return
        if not self._is_ready:
            resource_tracker.register(f"/{self.name}", "shared_memory")
        super().unlink()
        _made.discard(self.name)


def _making(name: str) -> None:
    """Note a segment that is about to be made; what a signal keeps anybody else from knowing is removed at the exit."""
    global _maker  # noqa: PLW0603
    if _maker != os.getpid():
        _maker = os.getpid()
        _made.clear()  # of the process that forked this one
        _AtEveryExit.register(_remove_made)
    _made.add(name)


def _remove_made() -> None:
    for path in (f"/{name}" for name in _made if _maker == os.getpid()):
        with suppress(FileNotFoundError):  # streaming has removed it, as it does but for such signals
            shm_unlink(path)
            resource_tracker.register(path, "shared_memory")  # perhaps it is known already; unknown ones are an error
            resource_tracker.unregister(path, "shared_memory")


def _register(
    streams_local: list[str], streams_remote: list[str | None], world: World, retry: int = 0
) -> tuple[int, SharedMemory]:
    """Replaces streaming's function of the same signature; called by every rank at once."""
    _check_self(streams_local)
    meet_neighbours()
    number, memory, problem = 0, None, ""
    if world.is_local_leader:
        try:
            _lock_caches(streams_local, streams_remote)
            _sweep()
            require_shared_memory(_LEAST_SHARED_MEMORY, _SHARED)
            number, memory = _claim(streams_local)
        except ConfigError as error:
            problem = str(error)
        except NoLocksError as error:  # streaming would wait for its own locks there without an end
            problem = (
                f"the temporary folder, {tempfile.gettempdir()}, takes no locks ({error.strerror}): set TMPDIR to a "
                "folder on a disk of this machine"
            )
    # Errors are shared like the number: a rank that raises alone leaves the others waiting.
    announced = gather_from_ranks((world.node, world.is_local_leader, number, problem))
    if problems := [problem for *_, problem in announced if problem]:
        raise ConfigError(problems[0])
    if memory is None:
        number = next(number for node, is_leader, number, _ in announced if is_leader and node == world.node)
        memory = SharedMemory(_get_path(number, LOCALS), False)
        _AtEveryExit.register(partial(_follow, number))
    return number, memory


def _claim(streams_local: list[str]) -> tuple[int, SharedMemory]:
    while True:
        number = secrets.randbelow(_MOST_NUMBERS)
        if not _lock(_number_file(number)):
            continue
        contents = _pack_locals(streams_local, number)
        with suppress(FileExistsError):  # a run with another temporary folder has drawn the same number
            memory = SharedMemory(_get_path(number, LOCALS), True, len(contents))
            memory.buf[: len(contents)] = contents
            return number, memory


def _lock_caches(streams_local: list[str], streams_remote: list[str | None]) -> None:
    for local, remote in zip(streams_local, streams_remote, strict=True):
        if remote is None:  # nothing is downloaded: any number of runs may read what is there
            continue
        path = Path(local + _IN_USE)
        try:
            is_held = path in _held or _lock(path, lock_in_time)
        except NoLocksError:
            path.unlink(missing_ok=True)
            continue  # runs that share it anyway load each file more than once, into drafts of their own
        except OSError as error:
            raise ConfigError(
                f"the cache folder {local} cannot be written ({describe_error(error)}): {_OWN}"
            ) from error
        if not is_held:
            raise ConfigError(f"the cache folder {local} is in use by {describe_holder(path)}: {_OWN}")


def _lock(path: Path, lock: Callable[[Path], int | None] = lock_file) -> bool:
    """Lock the file at `path` until this process ends; False if another process holds it."""
    handle = lock(path)
    if handle is not None:
        global _holder  # noqa: PLW0603
        if _holder != os.getpid():
            _holder = os.getpid()
            _AtEveryExit.register(_leave_nothing)
        _held[path] = handle
    return handle is not None


def _number_file(number: int | str) -> Path:
    """The file whose lock claims the number for a run of this user; in the temporary folder, which is not shared."""
    return Path(tempfile.gettempdir(), f"meap-streaming-{os.getuid()}-{number}")


def _number_of(path: Path) -> int | None:
    number = path.name.removeprefix(_number_file("").name)
    return int(number) if path == _number_file(number) and number.isdecimal() else None


def _is_own(path: Path) -> bool:
    """Whether the file still exists and belongs to this user; others could otherwise have segments removed."""
    with suppress(FileNotFoundError):
        return path.lstat().st_uid == os.getuid()
    return False


def _sweep() -> None:
    """Remove the leftovers of killed runs, by number, if no process holds the lock."""
    for path in Path(tempfile.gettempdir()).glob(_number_file("*").name):
        number = _number_of(path)
        if number is None or path in _held or not _is_own(path) or not _lock(path):
            continue
        for name in SHM_TO_CLEAN:
            with suppress(FileNotFoundError):
                leftover = PlainSharedMemory(_get_path(number, name))
                leftover.close()
                leftover.unlink()
        _release(path)


def _release(path: Path) -> None:
    """Remove a file that this process has locked, with the lock files of a run's number."""
    path.unlink(missing_ok=True)  # first: a rank that finds it gone removes what it has locked since, see `_follow`
    if (number := _number_of(path)) is not None:
        _remove_lock_files(number)
    os.close(_held.pop(path))


def _remove_lock_files(number: int) -> None:
    for name in (BARRIER_FILELOCK, CACHE_FILELOCK):
        Path(tempfile.gettempdir(), _get_path(number, name)).unlink(missing_ok=True)


def _follow(number: int) -> None:
    """Remove a run's lock files after the rank that has its number, if that has ended before this one."""
    if not _number_file(number).exists():
        _remove_lock_files(number)


def _leave_nothing() -> None:
    """Remove the files this process holds; the ranks that created segments of shared memory remove those."""
    if os.getpid() != _holder:  # forked: it has inherited the locks, not their ownership
        return
    for path in list(_held):
        _release(path)

"""File locks: the kernel releases a lock when its holder ends in any way, and the file names the holder."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from meap.errors import DataError
from meap.json_text import parse_json, read_small
from meap.places.redaction import clean_arguments
from meap.processes import is_alive

__all__ = ["NoLocksError", "describe_holder", "lock_file", "lock_in_time", "sole_writer"]

_MOST_SHOWN = 200
"""Characters of a command."""
_SECONDS_TO_DIE = 20.0
"""Loader workers, and the locks they hold, outlive a killed run by a few seconds."""


class NoLocksError(OSError):
    """The file system has no locks, as some network file systems have none."""


def lock_file(path: Path) -> int | None:
    """Lock the file at `path`, created if needed, as long as this process, or a fork of it, keeps the handle open.

    Returns:
        The handle; None if another process holds the lock, see `describe_holder`.

    Raises:
        NoLocksError: Nobody can lock it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed it between opening and locking.
        is_ours = os.path.samestat(path.stat(), os.fstat(handle))
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    except OSError as error:
        os.close(handle)
        raise NoLocksError(error.errno, os.strerror(error.errno or 0), str(path)) from error
    if not is_ours:
        os.close(handle)
        return None
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join(clean_arguments(sys.argv)),
        "since": time.time(),
    }
    with suppress(OSError):  # a full disk: the lock holds without its holder's name
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)
    return handle


def lock_in_time(path: Path, *, patience: float = math.inf) -> int | None:
    """As `lock_file`, in a folder created if needed; waits for child processes that a killed holder has left.

    Returns:
        The handle; None if another process holds the lock for 20 seconds, or for `patience` if that is shorter.

    Raises:
        NoLocksError: Nobody can lock it.
        OSError: The folder cannot be created.
    """
    given_up = time.monotonic() + min(_SECONDS_TO_DIE, patience)
    while True:
        handle = None
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was removed meanwhile
            handle = lock_file(path)
        if handle is not None or time.monotonic() > given_up:
            return handle
        time.sleep(0.1)


@contextmanager
def sole_writer(folder: Path, *, of: Path | None = None) -> Iterator[None]:
    """Hold a folder's own lock within the block: nothing is left behind, however this process ends.

    Where the file system has no locks of folders, nobody is kept out.

    Args:
        folder: The folder, created if needed.
        of: What the folder is for, in the error; the folder itself if unset.

    Raises:
        DataError: Another process holds it, or it cannot be created.
    """
    handle = None
    try:
        while (handle := _lock_folder(folder, of or folder)) is None:
            pass  # it was renamed or removed meanwhile
        yield
    except BaseException as error:  # by a signal, perhaps before anything is in it
        if handle is not None or not isinstance(error, DataError):  # else it is the other process's
            with suppress(OSError):  # it is not empty, or gone
                folder.rmdir()
        raise
    finally:
        if handle is not None:
            os.close(handle)


def _lock_folder(folder: Path, of: Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, FileExistsError) and not os.path.lexists(folder):
            return None
        if error.errno in {errno.EMFILE, errno.ENOSPC, errno.EDQUOT}:
            raise  # another folder would not help
        raise DataError(f"{of} cannot be created ({error.strerror}): choose another folder") from error
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        told = f"{of} is being written by another process: wait until that has ended, or choose another folder"
        raise DataError(told) from error
    except OSError:
        return handle
    with suppress(FileNotFoundError):
        if os.path.samestat(folder.stat(), os.fstat(handle)):
            return handle
    os.close(handle)
    return None


def describe_holder(path: Path) -> str:
    """The holder of the lock at `path`, for messages: process, host if it is another, command, and age of the lock."""
    try:
        holder = parse_json(read_small(path))
        pid, host, command = int(holder["pid"]), str(holder["host"]), str(holder["command"])
        age = timedelta(seconds=max(0, round(time.time() - holder["since"])))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has not written its name yet
    shown = command if len(command) <= _MOST_SHOWN else command[:_MOST_SHOWN] + "..."
    elsewhere, ended = "", ""
    if host != socket.gethostname():
        elsewhere = f" on {host}"
        ended = f" (if that machine is gone, delete {path}, which its disk's server may hold for it)"
    elif not is_alive(pid):
        ended = ", which has ended but left child processes running"
    return f"process {pid}{elsewhere} ({shown}) for {age}{ended}"

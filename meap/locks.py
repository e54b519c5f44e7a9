"""Locks on files: the kernel takes one away when its holder ends, however that is, and the file says who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from meap.places.redaction import clean_arguments

__all__ = ["describe_holder", "lock_file"]

_MOST_SHOWN = 200
"""Characters of a command."""


def lock_file(path: Path) -> int | None:
    """Lock the file at `path`, made if need be, as long as this process, or one that it forks, keeps the handle open.

    Where the file system has no locks, as some network file systems, everybody gets one.

    Returns:
        The handle; None where somebody else has the lock, see `describe_holder`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, somebody else may have removed it.
        is_ours = path.exists() and os.path.samestat(path.stat(), os.fstat(handle))
    except BlockingIOError:
        is_ours = False
    except OSError:
        is_ours = True
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


def describe_holder(path: Path) -> str:
    """Who has locked the file at `path`, for a message: process, host where it is another, command, and how long."""
    try:
        holder = json.loads(path.read_bytes())
        pid, host, command = int(holder["pid"]), str(holder["host"]), str(holder["command"])
        age = timedelta(seconds=max(0, round(time.time() - holder["since"])))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # which has only just begun to say who it is
    shown = command if len(command) <= _MOST_SHOWN else command[:_MOST_SHOWN] + "..."
    place, ended = "", ""
    if host != socket.gethostname():
        place = f" on {host}"
    elif not _is_alive(pid):
        ended = ", which has ended, but not what it started"
    return f"process {pid}{place} ({shown}) for {age}{ended}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True

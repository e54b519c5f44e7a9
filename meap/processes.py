"""How processes end: with those that started them, when they are asked to, and always in time."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NoReturn

from meap.errors import StoppedError

__all__ = ["end_processes", "end_with_parent", "leave", "obey_parent_alone", "raise_on_signals", "stopping_by_signals"]

_PR_SET_PDEATHSIG = 1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SECONDS_TO_DIE = 5.0
"""Between SIGKILL and the end of a process: the kernel may be busy with its memory."""
_SECONDS_TO_ASK_AGAIN = 0.05
_SECONDS_TO_LEAVE = 6.0
"""For threads and exit handlers, from the last message on; nothing of value is left to be done then."""

_status: int | None = None
"""Of a command that leaves."""


def _skip_teardown() -> None:
    """End a command that leaves: the interpreter would free object by object, for seconds, what the kernel frees."""
    if _status is not None:
        _flush()
        os._exit(_status)


if "multiprocessing.util" not in sys.modules:  # else what removes its temporary folder would run after this, so never
    atexit.register(_skip_teardown)


def end_with_parent(signal_number: int) -> None:
    """Let the kernel send this process a signal when the thread that started it ends, however that was; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def obey_parent_alone() -> None:
    """Make this process, which multiprocessing has started, ignore requests to stop, and end with its parent.

    A loader worker's group is told to stop while its trainer still needs it for the step under way. The trainer ends
    its workers by SIGKILL, which is safe: files reach the cache under their names only when they are whole.
    """
    for number in (*_STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it was gone before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Kill processes and wait until they are gone."""
    for process in processes:
        process.kill()
    given_up = time.monotonic() + _SECONDS_TO_DIE
    for process in processes:
        process.join(max(0.0, given_up - time.monotonic()))


@contextmanager
def stopping_by_signals() -> Iterator[None]:
    """Let signals end what runs within by an exception, so that it cleans up after itself; see `raise_on_signals`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*_STOP_SIGNALS, signal.SIGINT)}
    hook, asking = sys.unraisablehook, list[threading.Timer]()
    sys.unraisablehook = partial(_ask_again, asking, otherwise=hook)
    raise_on_signals()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for again in asking:
            again.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask_again(asking: list[threading.Timer], unraisable: Any, *, otherwise: Callable[[Any], object]) -> None:
    """Send a signal again whose exception Python has swallowed, as it does where an object's `__del__` was running."""
    if isinstance(unraisable.exc_value, StoppedError):
        number = unraisable.exc_value.signal_number
    elif isinstance(unraisable.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        otherwise(unraisable)
        return
    # A little later: here, too, what it raises would be swallowed.
    again = threading.Timer(_SECONDS_TO_ASK_AGAIN, os.kill, [os.getpid(), number])
    again.daemon = True
    again.start()
    asking.append(again)


def raise_on_signals() -> None:
    """Let SIGTERM and SIGUSR1 raise `StoppedError`, and SIGINT `KeyboardInterrupt`; in the main thread only."""
    if threading.current_thread() is threading.main_thread():
        for number in _STOP_SIGNALS:
            signal.signal(number, _raise_stopped)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(status: int) -> NoReturn:
    """End this process with `status`, within seconds.

    multiprocessing and concurrent.futures join what they have started without a limit, so a worker that hangs, or a
    thread that waits for a store, would keep a finished command for ever.

    Args:
        status: Exit status.
    """
    for number in (*_STOP_SIGNALS, signal.SIGINT):  # the result is known, and the end is near
        signal.signal(number, signal.SIG_IGN)
    global _status  # noqa: PLW0603
    _status = status
    threading.Thread(target=_insist, args=[status], name="exit", daemon=True).start()
    end_processes([each for each in multiprocessing.active_children() if each.daemon])
    _flush()
    sys.exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it may be gone
            stream.flush()


def _insist(status: int) -> None:
    time.sleep(_SECONDS_TO_LEAVE)
    os._exit(status)


def _raise_stopped(number: int, _: FrameType | None) -> None:
    is_speaker = os.environ.get("RANK", "0") == "0"
    name = signal.Signals(number).name
    error = StoppedError(f"stopped by {name}: the same command continues" if is_speaker else "")
    error.signal_number = number
    raise error

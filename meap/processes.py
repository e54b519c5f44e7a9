"""Ending processes: with their parents, on signals, and within a bounded time."""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import math
import multiprocessing
import os
import platform
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn, ParamSpec, TypeVar

from meap.errors import LostRankError, MeapError, StoppedError

__all__ = [
    "LOST_RANK",
    "SAME_REQUEST_SECONDS",
    "WAITED_FOR_RANK",
    "ask_store",
    "end_processes",
    "end_with_parent",
    "is_alive",
    "is_of_connection",
    "leave",
    "leave_lost_terminal",
    "neighbours",
    "obey_parent_alone",
    "open_line",
    "open_standard_streams",
    "raise_on_signals",
    "raise_request_of_ranks",
    "raise_stop_request",
    "raise_swallowed_request",
    "require_files_for_ranks",
    "signals_wait",
    "start_tracker",
    "state_of",
    "stop_signals",
    "stopping_by_signals",
    "visible_processes",
    "wait_with_ranks",
]

LOST_RANK = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection was likely closed")
WAITED_FOR_RANK = ("Timed out waiting", "Operation timed out", "Connection timed out")
"""What torch says of the connections between ranks, mostly without a class of its own."""

SAME_REQUEST_SECONDS = 2.0
"""A launcher that is asked to stop asks its ranks, often by another signal than the one that has reached them, too."""

_Found = TypeVar("_Found")
_Given = ParamSpec("_Given")
_FAILED, _STOPPED, _FINISHED, _LEFT = "meap/failed", "meap/stopped", "meap/finished", "meap/left"
_SECONDS_TO_ANSWER = 0.6
"""Three questions take less than `SAME_REQUEST_SECONDS`."""
_SECONDS_TO_BE_ASKED = 1.5
"""For the other ranks, to learn from the store of one that ends early how it ended."""
_SECONDS_TO_LOOK = 1.0
_SECONDS_TO_ARRIVE = 0.2
"""For what another rank has sent just before it ended."""
_SECONDS_WITHOUT_FILES, _FILES_TO_CONNECT = 4.0, 4
_FILES_OF_RUN, _FILES_TO_JOIN = 46, 40
"""Fewer than any run of several ranks takes: two of them, without loader workers, take 52 to 58."""
_PR_SET_PDEATHSIG = 1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SECONDS_TO_DIE = 5.0
"""Between SIGKILL and the end of a process: the kernel may be busy with its memory."""
_SECONDS_TO_RESEND = 0.05
_SECONDS_TO_LEAVE = 6.0
"""For threads and exit handlers, after the last message; nothing of value remains to be done."""
_TICK = 0.1

neighbours: dict[int, int] = {}
"""Process ids of the other ranks of this machine, by rank, once they have met, see `meap.data.ranks`."""

_status: int | None = None
"""Exit status, once `leave` was called."""
_requested = -math.inf
"""When a signal last raised."""
_ends_early = False
"""Whether this rank ends without having agreed on it with the others."""
_leaves = False
"""Whether the process ends after what is run, see `leave`."""
_line: Any = None
"""See `open_line`."""
_asking: threading.Thread | None = None
"""Asks the store; while it gets no answer, nobody asks again."""
_is_store_lost = False
"""Whether its host did not answer: torch would print its own frames each time that it is asked."""


def _skip_teardown() -> None:
    """Exit without the interpreter's teardown, which would free objects one by one for seconds."""
    if _status is not None:
        _flush()
        os._exit(_status)


if "multiprocessing.util" not in sys.modules:  # otherwise its temporary folder would never be removed
    atexit.register(_skip_teardown)


def end_with_parent(signal_number: int) -> None:
    """Have the kernel signal this process when the thread that started it ends in any way; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def obey_parent_alone() -> None:
    """Make this child process of multiprocessing ignore stop signals and end with its parent.

    A signal to the process group reaches loader workers while the trainer still needs them for the current step. The
    trainer ends its workers by SIGKILL, which is safe: files appear in the cache only when they are whole.
    """
    for number in (*_STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def start_tracker() -> None:
    """Start Python's tracker of shared memory, which outlives every signal to the group that this process handles.

    The tracker itself ignores SIGINT and SIGTERM only. A scheduler's SIGUSR1 would end it, and another one would report
    each segment that the first knew of.
    """
    from multiprocessing import resource_tracker

    with signals_wait():  # which a process inherits, and keeps
        resource_tracker.ensure_running()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Block the stop signals of this thread: they take effect when the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP_SIGNALS, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Kill processes and wait until they are gone."""
    for process in processes:
        process.kill()
    given_up = time.monotonic() + _SECONDS_TO_DIE
    for process in processes:
        process.join(max(0.0, given_up - time.monotonic()))


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask to stop; without SIGHUP, of a terminal that was closed, where nohup has it ignored."""
    return tuple(each for each in _STOP_SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN)


def leave_lost_terminal() -> None:
    """Discard what would go to a terminal that is gone, since writing to it fails."""
    for number in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


def open_standard_streams() -> None:
    """Open those that were closed, as by `>&-`: files would take their numbers, and then what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        with suppress(OSError):
            while os.open(os.devnull, os.O_RDWR) < number:
                pass
        setattr(sys, name, Path(os.devnull).open("w" if number else "r"))  # noqa: SIM115


class _StopRequest(BaseException):
    """A signal asks to stop. No `Exception`, as KeyboardInterrupt is none: what handles failures must not handle it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stopping_by_signals() -> Iterator[None]:
    """Turn signals into exceptions within the block, so that it cleans up; see `raise_on_signals`.

    Raises:
        StoppedError: SIGTERM, SIGUSR1 or SIGHUP came.
        MeapError: It came since another rank has failed: a launcher then ends the others, as if they were to resume.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*_STOP_SIGNALS, signal.SIGINT)}
    hook, timers = sys.unraisablehook, list[threading.Timer]()
    sys.unraisablehook = partial(_resend, timers, otherwise=hook)
    global _requested, _ends_early  # noqa: PLW0603
    _requested, _ends_early = -math.inf, False
    raise_on_signals()
    try:
        with signals_wait(), suppress(FileNotFoundError):  # there is none
            tempfile.gettempdir()  # which Python tries out with a file, at its first use
        try:
            yield
        except SystemExit as exit_:
            raise _as_request(exit_) from None
        except Exception as error:
            raise_swallowed_request(error)
            raise
        _tell_ranks(_FINISHED, "")
    except StoppedError:
        raise
    except Exception as error:
        _requested, _ends_early = time.monotonic(), True  # a signal would only keep it from saying why
        if told := _request_of_ranks(error):
            raise _stopped(told) from None
        _tell_ranks(_FAILED, "")
        raise
    except _StopRequest as request:
        _ends_early = True
        if _came_since_rank_failed(request):
            rank = os.environ.get("RANK", "0")
            raise MeapError(
                f"rank {rank} ends, since another one has failed: look for the reason among the messages of that rank"
            ) from None
        _tell_ranks(_STOPPED, str(request))
        raise _stopped(str(request)) from None
    finally:
        _requested = math.inf  # the result is known: no signal may change it any more
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()
        for number, handler in () if _leaves else before.items():
            signal.signal(number, handler)


def _came_since_rank_failed(request: _StopRequest) -> bool:
    """Whether it is a launcher's, which ends the others when one has failed, or is gone without a word."""
    is_one_gone = not all(is_alive(pid) for pid in neighbours.values())  # looked at first: it may be about to speak
    keys = (_STOPPED, _FAILED, _FINISHED)
    told = ask_store(lambda store: [bool(store.check([key])) for key in keys])
    if told is None:
        return _has_lost_rank(request)
    is_stopped, is_failed, is_finished = told
    return not is_stopped and (is_failed or _has_lost_rank(request) or (is_one_gone and not is_finished))


def _as_request(exit_: SystemExit) -> BaseException:
    """The signal for which Composer's handlers exit, which replace ours when it is imported."""
    if exit_.code == 128 + signal.SIGINT:
        return KeyboardInterrupt()
    return _StopRequest(signal.SIGTERM) if exit_.code == 128 + signal.SIGTERM else exit_


def raise_swallowed_request(error: BaseException) -> None:
    """Raise a signal's request in whose place a library has raised `error`, as s3transfer does when it cleans up."""
    if isinstance(error, StoppedError):
        return
    for each in _chain(error):
        if isinstance(each, _StopRequest):
            raise _StopRequest(each.number) from None
        if isinstance(each, KeyboardInterrupt):
            raise KeyboardInterrupt(*each.args) from None


def raise_request_of_ranks(error: Exception) -> None:
    """Raise the request that has ended another rank, where this one has failed for it: at once, before that is gone."""
    if told := _request_of_ranks(error):
        raise _StopRequest(signal.Signals[told]) from None


def _request_of_ranks(error: Exception) -> str | None:
    """The request that has ended another rank; None where there was none, or this one failed for reasons of its own."""
    is_own = isinstance(error, MeapError) and not _has_lost_rank(error)
    return None if is_own else _told_by_ranks(_STOPPED)


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and all that it came from or, where nobody has said otherwise, upon; libraries make circles of them."""
    found, left = list[BaseException](), [error]
    while left:
        each = left.pop()
        if not any(each is other for other in found):
            found.append(each)
            came_upon = None if each.__suppress_context__ else each.__context__
            left += [other for other in (each.__cause__, came_upon) if other is not None]
    return found


def _stopped(request: str) -> StoppedError:
    is_speaker = os.environ.get("RANK", "0") == "0"
    return StoppedError(f"stopped by {request}: run the same command again to resume" if is_speaker else "")


def _tell_ranks(what: str, text: str) -> None:
    """Note for the other ranks how this one ends, before its end reaches them as a signal or a lost connection."""
    ask_store(lambda store: store.set(what, text))


def _told_by_ranks(what: str) -> str | None:
    """What a rank has noted; None where none has."""
    return ask_store(lambda store: store.get(what).decode() if store.check([what]) else None)


def ask_store(use: Callable[[Any], _Found]) -> _Found | None:
    """What it gives; None where there is no store, or its host, rank 0, has ended or stands still.

    Args:
        use: Is given what torch's ranks share, in a thread.
    """
    found, store = list[_Found](), _store_of_ranks()

    def ask() -> None:
        global _is_store_lost  # noqa: PLW0603
        try:
            found.append(use(store))
        except RuntimeError:
            _is_store_lost = True

    global _asking  # noqa: PLW0603
    if _asking is not None:
        _asking.join(_SECONDS_TO_ANSWER)
    if store is not None and not _is_store_lost and not (_asking and _asking.is_alive()):
        _asking = threading.Thread(target=ask, daemon=True)
        _asking.start()
        _asking.join(_SECONDS_TO_ANSWER)
    return next(iter(found), None)


def wait_with_ranks(
    act: Callable[[], _Found], look: Callable[[], None] = lambda: None, *, seconds: float = math.inf
) -> _Found:
    """Call what waits for other ranks within torch, where signals are not handled and a rank that is gone goes unseen.

    Args:
        act: What to call; in a thread, whose GPU is that of this one.
        look: Raises where a rank is gone, as far as it can be seen; called each second.
        seconds: To wait at most; torch's own time-outs do not hold for all that it waits for.

    Raises:
        LostRankError: Another rank has ended, stopped or with an error; or it was waited for in vain.
        OSError: No more files may be opened, for which torch tries to connect again and again, for half an hour.
    """
    outcome, error = list[_Found](), list[BaseException]()
    cuda: Any = sys.modules.get("torch.cuda")
    device = cuda.current_device() if cuda is not None and cuda.is_initialized() else None

    def run() -> None:
        try:
            if cuda is not None and device is not None:
                cuda.set_device(device)  # a thread begins with the first one, which all ranks of a node would share
            outcome.append(act())
        except BaseException as raised:  # noqa: BLE001 (raised below)
            error.append(raised)

    thread, looked = threading.Thread(target=run, name="ranks", daemon=True), time.monotonic()
    began = could_open = looked
    thread.start()
    while thread.is_alive():
        thread.join(_TICK)
        if time.monotonic() - looked > _SECONDS_TO_LOOK:
            looked = time.monotonic()
            could_open = looked if _may_open(_FILES_TO_CONNECT) else could_open
            if looked - could_open > _SECONDS_WITHOUT_FILES:
                raise _too_many_open_files()
            if looked - began > seconds:
                raise LostRankError(
                    f"rank {os.environ.get('RANK', '0')} waited for the others for {seconds:g} s in vain: see that all "
                    "were started, and that MASTER_ADDR and MASTER_PORT lead to rank 0, then run the same command again"
                )
            if _told_by_ranks(_STOPPED) is not None or _told_by_ranks(_FAILED) is not None:
                thread.join(_SECONDS_TO_ARRIVE)
                if thread.is_alive():
                    raise _lost("another one")
            try:
                look()
                if _is_store_lost:
                    raise _lost("rank 0")
            except LostRankError:
                thread.join(_SECONDS_TO_LOOK)  # this process may have stood still itself, and it be there
                if thread.is_alive():
                    raise
    if error:
        raise error[0]
    return outcome[0]


def require_files_for_ranks(*, is_loaded: bool) -> None:
    """Refuse to meet other ranks where this one may not open the files that it takes.

    Later on gloo ends the process where it cannot open one more.

    Args:
        is_loaded: Whether libraries are loaded, which hold some. Before, all ranks are refused at the same time; later,
            a launcher may end one that is slower, which then is taken for one to resume.

    Raises:
        OSError: It may not.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" and not _may_open(_FILES_TO_JOIN if is_loaded else _FILES_OF_RUN):
        raise _too_many_open_files()


def _too_many_open_files() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _may_open(count: int) -> bool:
    """Whether this process may open as many files besides those that it has open."""
    opened = list[int]()
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno != errno.EMFILE
    finally:
        for each in opened:
            os.close(each)
    return True


def _lost(other: str) -> LostRankError:
    rank = os.environ.get("RANK", "0")
    return LostRankError(
        f"rank {rank} waited for {other}, which has ended: the reason is among the messages of that rank"
    )


def _be_asked() -> None:
    """Say that this rank knows how the run ends; rank 0, which hosts the store, keeps it until the others have."""
    store, port = _store_of_ranks(), os.environ.get("MASTER_PORT", "")
    if store is None or not port.isdecimal():
        return
    if os.environ.get("RANK", "0") != "0":
        ask_store(lambda store: store.add(_LEFT, 1))
        return
    others = sys.modules["torch.distributed"].get_world_size() - 1
    _close_connections(but=int(port))
    until = time.monotonic() + _SECONDS_TO_BE_ASKED
    with suppress(RuntimeError):
        while store.add(_LEFT, 0) < others and time.monotonic() < until:
            time.sleep(_TICK)


def _close_connections(*, but: int) -> None:
    """End what other ranks may be waiting at, as the end of this process would; not the connections of that port.

    torch's are no objects of Python's, as those of libraries are: W&B's to the process that writes for it, a store's.
    """
    gc.unfreeze()  # what a run has frozen is not among the objects
    of_python = {each.fileno() for each in gc.get_objects() if issubclass(type(each), socket.socket)}
    for path in Path("/proc/self/fd").glob("*"):  # Linux only
        if int(path.name) in of_python:
            continue
        with suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as connection:
            is_tcp = connection.family in {socket.AF_INET, socket.AF_INET6} and connection.type == socket.SOCK_STREAM
            if is_tcp and but not in {connection.getsockname()[1], connection.getpeername()[1]}:
                connection.shutdown(socket.SHUT_RDWR)


def _has_lost_rank(error: BaseException) -> bool:
    """Whether an error, or what it or a signal came upon, is that another rank was lost."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    return any(isinstance(each, LostRankError) or is_of_connection(each) for each in _chain(error))


def is_of_connection(error: BaseException) -> bool:
    """Whether torch says that a connection between ranks has ended, or was waited for in vain."""
    has_class = type(error).__name__ in {"DistNetworkError", "DistStoreError"}
    return has_class or any(words in str(error) for words in (*LOST_RANK, *WAITED_FOR_RANK))


def open_line() -> None:
    """Connect to torch's store once more, for questions while torch waits there, and holds its own connection."""
    global _line, _is_store_lost  # noqa: PLW0603
    _line, _is_store_lost = None, False
    store = _store_of_ranks()
    _line = store and store.clone()


def _store_of_ranks() -> Any:
    """What torch's ranks share from their start on; None where there is one rank."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    if distributed.get_world_size() == 1:
        return None
    return _line or distributed.distributed_c10d._get_default_store()


def _resend(timers: list[threading.Timer], unraisable: Any, *, otherwise: Callable[[Any], object]) -> None:
    """Resend a signal whose exception Python swallowed, as it does while an object's `__del__` runs."""
    if isinstance(unraisable.exc_value, _StopRequest):
        number = unraisable.exc_value.number
    elif isinstance(unraisable.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        otherwise(unraisable)
        return
    global _requested  # noqa: PLW0603
    _requested = -math.inf
    # Later, since an exception raised here would be swallowed, too.
    timer = threading.Timer(_SECONDS_TO_RESEND, os.kill, [os.getpid(), number])
    timer.daemon = True
    timer.start()
    timers.append(timer)


def raise_on_signals() -> None:
    """Let SIGTERM, SIGUSR1, SIGHUP and SIGINT raise what no handler of failures catches; in the main thread only.

    What comes soon after the first is the same request: it neither disturbs the cleaning up nor changes the status.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (*stop_signals(), signal.SIGINT):
            signal.signal(number, _raise_request)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    return state_of(pid) != "ended"


def state_of(pid: int) -> Literal["runs", "stopped", "ended"]:
    """What a process of this machine does; one that nobody has waited for yet has ended all the same."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "ended"
    except PermissionError:
        pass  # another user's
    with suppress(OSError, IndexError):  # not Linux, or gone by now
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "ended" if letter in "ZX" else "stopped" if letter in "Tt" else "runs"
    return "runs"


@cache
def visible_processes() -> str:
    """Names the processes among which a number means the same process: those of this boot of this container."""
    try:
        seen = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        seen = platform.node()
    return f"{zlib.crc32(seen.encode()):08x}"


def leave(run: Callable[_Given, int], *given: _Given.args, **named: _Given.kwargs) -> NoReturn:
    """Call `run`, and end this process with the status that it returns, within seconds.

    multiprocessing and concurrent.futures join their workers without a timeout, so a worker that hangs, or a thread
    that waits for a store, would keep a finished command running forever.

    Args:
        run: Returns the exit status. Once its `stopping_by_signals` has ended, no signal changes that.
        given: Its arguments.
        named: Those with a name.
    """
    global _leaves  # noqa: PLW0603
    _leaves = True
    try:
        status = run(*given, **named)
    except BaseException:
        for number in (*_STOP_SIGNALS, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        raise
    for number in (*_STOP_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    global _status  # noqa: PLW0603
    _status = status
    sys.unraisablehook = partial(_ignore_lack_of_files, otherwise=sys.unraisablehook)
    threading.Thread(target=_force_exit, args=[status], name="exit", daemon=True).start()
    end_processes([each for each in multiprocessing.active_children() if each.daemon])
    _flush()
    if status and _ends_early:
        with suppress(Exception):  # whatever goes wrong, the status is known
            _be_asked()
    sys.exit(status)


def _ignore_lack_of_files(unraisable: Any, *, otherwise: Callable[[Any], object]) -> None:
    """Exit handlers of libraries import, and print tracebacks where no more files may be opened, as the user knows."""
    if getattr(unraisable.exc_value, "errno", None) != errno.EMFILE:
        otherwise(unraisable)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader may be gone
            stream.flush()


def _force_exit(status: int) -> None:
    for _ in range(round(_SECONDS_TO_LEAVE / _TICK)):  # what a process that is stopped meanwhile waits counts as one
        time.sleep(_TICK)
    os._exit(status)


def raise_stop_request(number: int) -> NoReturn:
    """End the block within `stopping_by_signals`, as a signal does; from a handler of signals."""
    global _requested  # noqa: PLW0603
    _requested = time.monotonic()
    raise _StopRequest(number)


def _raise_request(number: int, _: FrameType | None) -> None:
    global _requested  # noqa: PLW0603
    if number == signal.SIGHUP:
        leave_lost_terminal()
    now = time.monotonic()
    if now - _requested > SAME_REQUEST_SECONDS:
        _requested = now
        raise KeyboardInterrupt if number == signal.SIGINT else _StopRequest(number)

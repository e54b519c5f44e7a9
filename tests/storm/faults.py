"""Faults, as a command meets them: what is ordered of its probe, and what is done to its disks and its store."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .journeys import Fault
from .running import Command, Outcome
from .targets import is_record
from .world import Home

ANOTHER_USER = 65534
SECONDS_OF_A_STALL = 3.0
SECONDS_OF_PATIENCE = 1.0
_FEW_TIMES, _SECONDS_WITHOUT_A_STORE = 2, 900.0
"""A checkpoint of each step asks a store that never answers for two minutes: ours, s3fs and botocore ask again."""
_DAMAGES = ("flip", "short")
_HASHED = (".zstd", ".mds", ".pt", ".distcp")
"""Files whose bytes the project checks against a hash; what else is damaged on the way, TLS would tell."""


@dataclass(frozen=True)
class Expected:
    """How often things happen in such a command when it is left alone."""

    change: int = 40
    passes: int = 28
    request: int = 30
    publish: int = 3

    def number(self, fault: Fault) -> int:
        """At which of them the fault is due, from 1."""
        counts = {"change": self.change, "pass": self.passes, "request": self.request, "publish": self.publish}
        return 1 + int((fault.at or 0.0) * counts[fault.event])


def run(
    home: Home,
    words: Sequence[str],
    faults: Sequence[Fault],
    expected: Expected,
    *,
    ranks: int = 1,
    nodes: bool = False,
    cold: bool = False,
) -> Outcome:
    """Run a command to its end, under faults."""
    hits: list[str] = []
    faults = [each for each in faults if each.kind != "user" or home.world.others_have_python]
    orders, changed = _orders(faults, expected)
    orders["nodes"] = nodes
    with contextlib.ExitStack() as stack:
        for fault in faults:
            if fault.kind in _PLACES:
                is_there = stack.enter_context(_PLACES[fault.kind](home, fault))
                hits += [fault.kind] * is_there
        store = stack.enter_context(_AtTheStore(home, faults, expected))
        hits += [each.kind for each in faults if each.kind in {"files", "umask", "user", "home"}]
        command = store.command = home.start(words, ranks=ranks, orders=orders, changed=changed, cold=cold)
        if any(each.detail.get("times", 1) > _FEW_TIMES for each in faults):
            command.more_seconds = _SECONDS_WITHOUT_A_STORE
        others = _accompany(command, faults, lambda: home.start(words, ranks=ranks, orders={"nodes": nodes}))
        met = [*hits, *["store"] * bool(store.done)]
        outcome = command.end(met, was_killed=signal.SIGKILL in command.signals())
    outcome.others = others
    return outcome


def _orders(faults: Sequence[Fault], expected: Expected) -> tuple[dict[str, Any], dict[str, str | None]]:
    orders, changed = dict[str, Any](at=[]), dict[str, str | None]()
    for fault in faults:
        at = {"event": fault.event, "number": expected.number(fault)}
        if fault.event == "request":
            continue
        if fault.kind == "signal":
            number = int(signal.Signals[fault.detail["signal"]])
            orders["at"].append({**at, "act": "signal", "signal": number, "whom": fault.detail["whom"]})
        elif fault.kind == "stop" or (fault.kind == "second" and fault.detail["stands"]):
            orders["at"].append({**at, "act": "stop"})
        elif fault.kind == "second":
            orders["at"].append({**at, "act": "second"})
        elif fault.kind == "clock":
            orders["at"].append({**at, "act": "clock", "seconds": fault.detail["seconds"]})
        elif fault.kind == "files":
            orders["files"] = fault.detail["files"]
        elif fault.kind == "umask":
            orders["umask"] = 0o077
        elif fault.kind == "user":
            orders["user"] = ANOTHER_USER
        elif fault.kind == "home":
            changed["HOME"] = "/nonexistent"
    return orders, changed


def _accompany(command: Command, faults: Sequence[Fault], start: Callable[[], Command]) -> list[Outcome]:
    """Be beside the command until it ends, or is late; what it met is started beside it."""
    others, beside = list[Outcome](), None
    wants_second = any(each.kind == "second" for each in faults)
    wait = next((each.detail["seconds"] for each in faults if each.kind == "stop"), 0.5)
    while not command.is_over() and not command.is_late():
        time.sleep(0.03)
        if (command.notes / "stopped").exists():
            command.passes_at_stop = command.count("pass")
            if wants_second:
                others.append(_to_the_end(start()))
            else:
                time.sleep(wait)
            command.go_on()
        elif wants_second and beside is None and (command.notes / "second").exists():
            beside = start()
    return [*others, _to_the_end(beside)] if beside is not None else others


def _to_the_end(command: Command) -> Outcome:
    while not command.is_over() and not command.is_late():
        time.sleep(0.03)
    return command.end([], was_killed=True)


class _AtTheStore(contextlib.AbstractContextManager["_AtTheStore"]):
    """Hits requests from a certain one on, so many of those that it may hit; and the command, at a certain request."""

    command: Command | None = None

    def __init__(self, home: Home, faults: Sequence[Fault], expected: Expected) -> None:
        self.store, self.seen, self.published, self.done, self.lock = home.world.store, 0, 0, 0, threading.Lock()
        self.has_record = False
        self.plans = [(expected.number(each), each.detail, [0]) for each in faults if each.kind == "store"]
        self.signals = {(each.event, expected.number(each)): each.detail for each in faults if each.kind == "signal"}

    def __enter__(self) -> Self:
        self.store.resumed.clear()
        self.store.rule = self._rule
        return self

    def __exit__(self, *_: object) -> None:
        self.store.rule = lambda *_: None
        self.store.resumed.set()

    def _rule(self, method: str, path: str, _: int) -> int | str | None:
        with self.lock:
            self.seen += 1
            due = [self.signals.get(("request", self.seen))]
            if self.has_record:
                self.published += 1
                due.append(self.signals.get(("publish", self.published)))
            self.has_record = method == "PUT" and is_record(path)
            hits = [each for each in due if each is not None and self.command is not None]
            for each in hits:
                assert self.command is not None
                self.command.hit(each["whom"], int(signal.Signals[each["signal"]]))
            if any(each["signal"] == "SIGKILL" for each in hits):
                return "reset"  # who is gone has not sent it to its end
            for start, detail, made in self.plans:
                what = detail["what"]
                if self.seen < start or made[0] >= detail["times"] or detail["method"] not in ("any", method):
                    continue
                if what in _DAMAGES and not (method == "GET" and path.endswith(_HASHED)):
                    continue
                if (what == "half" and method != "GET") or (what == "cut" and method != "PUT"):
                    continue
                made[0] += 1
                self.done += 1
                if what == "stall":
                    threading.Timer(SECONDS_OF_A_STALL, self.store.resumed.set).start()
                elif what == "hang":
                    number = int(signal.Signals[detail["signal"]])
                    threading.Timer(SECONDS_OF_PATIENCE, self._hit, [detail["whom"], number]).start()
                    return "stall"
                return int(what) if what.isdigit() else what
        return None

    def _hit(self, whom: str, number: int) -> None:
        if self.command is not None and not self.command.is_over():
            self.command.hit(whom, number)


@contextlib.contextmanager
def _full(place: Path, room: int, size: str) -> Iterator[bool]:
    used = shutil.disk_usage(place).used
    _mount("-o", f"remount,size={max(4096, used + room)}", place)
    try:
        yield True
    finally:
        _mount("-o", f"remount,size={size}", place)


@contextlib.contextmanager
def _read_only(home: Home, fault: Fault) -> Iterator[bool]:
    place = home.path / fault.detail["folder"]
    if not place.is_dir():
        yield False
        return
    _mount("--bind", place, place)
    _mount("-o", "remount,bind,ro", place)
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        _mount("-o", "remount,rw", home.path)  # a disk that was made smaller meanwhile has become read-only itself


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


_PLACES = {
    "disk": lambda home, fault: _full(home.path, fault.detail["room"], "1g"),
    "shm": lambda _, fault: _full(Path("/dev/shm"), fault.detail["room"], "2g"),
    "read_only": _read_only,
}
SIGNALLED = {
    ("SIGTERM", "group"): {os.EX_TEMPFAIL},
    ("SIGUSR1", "group"): {os.EX_TEMPFAIL, -signal.SIGUSR1},  # the latter of a launcher
    ("SIGHUP", "group"): {os.EX_TEMPFAIL, -signal.SIGHUP},
    ("SIGHUP", "rank"): {os.EX_TEMPFAIL},
    ("SIGHUP", "launcher"): {os.EX_TEMPFAIL, -signal.SIGHUP},
    ("SIGTERM", "rank"): {os.EX_TEMPFAIL},
    ("SIGUSR1", "rank"): {os.EX_TEMPFAIL},
    ("SIGTERM", "launcher"): {os.EX_TEMPFAIL},
    ("SIGUSR1", "launcher"): {os.EX_TEMPFAIL, -signal.SIGUSR1},
    ("SIGINT", "group"): {130, 1},
    ("SIGINT", "rank"): {130, 1},
    ("SIGINT", "launcher"): {130, 1, os.EX_TEMPFAIL},
    ("SIGKILL", "group"): {-signal.SIGKILL},
    ("SIGKILL", "launcher"): {-signal.SIGKILL},
    ("SIGKILL", "rank"): {-signal.SIGKILL, 256 - signal.SIGKILL, 1},
    ("SIGKILL", "worker"): {1},
}
"""How a command may end, besides well, where a signal reached a part of it; elsewhere, workers ignore signals."""


_LIMITS = {"disk", "shm", "read_only", "user", "files"}


def statuses(faults: Sequence[Fault], hits: Sequence[str], settings: dict[str, str]) -> set[int]:
    """How a command may end that met these faults."""
    allowed = {0}
    for fault in faults:
        if fault.kind == "signal" and "signal" in hits:
            allowed |= SIGNALLED.get((fault.detail["signal"], fault.detail["whom"]), set())
        elif fault.kind in _LIMITS or (fault.kind == "second" and {"stop", "second"} & {*hits}):
            allowed |= {1, 2}
        elif fault.kind == "store" and "store" in hits:
            is_borne = fault.detail["what"] == "late" or fault.detail["times"] == 1
            allowed |= set() if is_borne and settings.get("data.download_retry") != "0" else {1}
            allowed |= SIGNALLED.get((fault.detail.get("signal"), "group"), set())
    if hits.count("signal") > 1:  # the second one, after more than two seconds, ends the process at once
        numbers = {signal.Signals[each.detail["signal"]] for each in faults if each.detail.get("signal")}
        allowed |= {-number for number in numbers} | {256 - number for number in numbers}
    return allowed

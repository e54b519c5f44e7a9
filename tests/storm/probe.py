"""Runs a command of the project as a user would, and watches and hits it from inside; in place of `python`.

    STORM=<notes folder> python tests/storm/probe.py <ranks> <script or -m module> [arguments]

The folder's orders.json says what is to happen; see `Orders`. The command leads a session, so that all it starts can be
found. Written there: `pid`, `rank<R>.pid`, `rows-<rank>.jsonl` (step, ids and hashes of what each forward pass was
given), `change`, `pass` and `publish` (a byte for each, whichever process), `hit` (a line per order carried out).

With several ranks Composer's own launcher runs, but forks its ranks instead of starting them, which takes seconds each.
"""

import atexit
import contextlib
import faulthandler
import functools
import hashlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))
from targets import hit, is_record

NOTES = Path(os.environ["STORM"])
ORDERS: dict[str, Any] = json.loads((NOTES / "orders.json").read_text())
"""
files, user, umask      limits and identity of the process
at                      [{"event": "change", "number": 7, "act": "signal", "signal": 9, "whom": "group"}, ...]
                        events: change, pass, publish
                        acts: signal; stop (stand still until the storm goes on with it); second (the storm starts
                        another one); clock (seconds)
nodes                   whether each rank is a node of its own
watched                 folders whose changes count
"""
_WRITING = os.O_WRONLY | os.O_RDWR
_ASKING = (signal.SIGTERM, signal.SIGINT)


class Count:
    """Events of one kind in all processes of the command; a byte in a file each."""

    def __init__(self, event: str) -> None:
        self.event, self.owner, self.handle = event, 0, -1
        self.orders = {each["number"]: each for each in ORDERS["at"] if each["event"] == event}

    def add(self) -> None:
        if self.owner != os.getpid():  # a handle that is shared would share its place, too
            self.owner = os.getpid()
            self.handle = os.open(NOTES / self.event, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(self.handle, b".")
        if (order := self.orders.get(os.lseek(self.handle, 0, os.SEEK_CUR))) is not None:
            act(order)


def act(order: dict[str, Any]) -> None:
    with (NOTES / "hit").open("a") as file:
        file.write(json.dumps(order | {"time": time.monotonic()}) + "\n")
    if order["act"] == "clock":
        shift_clock(order["seconds"])
    elif order["act"] == "second":
        (NOTES / "second").touch()
    elif order["act"] == "stop":
        (NOTES / "stopped").touch()
        os.killpg(os.getpgrp(), signal.SIGSTOP)
    else:
        hit(NOTES, order["whom"], order["signal"], own=os.getpid())


def shift_clock(seconds: float) -> None:
    steady = time.time
    time.time = lambda: steady() + seconds


def watch_files() -> None:
    count, published, folders = Count("change"), Count("publish"), tuple(ORDERS["watched"])
    renaming = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}
    has_record = [False]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[0], str | os.PathLike) or not (arguments[2] or 0) & _WRITING:
                return
        elif event not in renaming:
            return
        path = os.fsdecode(arguments[0])
        if (path if path[:1] == "/" else f"{folders[0]}/{path}").startswith(folders):
            count.add()
            if has_record[0]:
                published.add()
            has_record[0] = event == "os.rename" and is_record(os.fsdecode(arguments[1]))

    sys.addaudithook(watch)


def watch_steps() -> None:
    """Note what every forward pass of training is given, under its step."""
    if "composer" not in sys.modules:  # a Python that begins cold is left as it is
        return
    import torch
    from composer.core import Engine, Event

    import meap.processes  # noqa: F401
    from meap.train.model import NextTokenModel

    run_event, step, count, notes = Engine.run_event, [0], Count("pass"), dict[int, Any]()

    @functools.wraps(run_event)
    def note_step(engine: Engine, event: Event | str) -> Any:
        if Event(event) == Event.BATCH_START:
            step[0] = int(engine.state.timestamp.batch) + 1
        return run_event(engine, event)

    def note_pass(module: torch.nn.Module, given: Any) -> None:
        if not isinstance(module, NextTokenModel) or "sample_id" not in given[0] or not (step[0] and module.training):
            return
        if os.getpid() not in notes:
            notes[os.getpid()] = (NOTES / f"rows-{os.environ.get('RANK', '0')}.jsonl").open("a", buffering=1)
        ids = given[0]["sample_id"].tolist()
        hashes = [hash_of(given[0], row) for row in range(len(ids))]
        notes[os.getpid()].write(json.dumps([step[0], list(zip(ids, hashes, strict=True))]) + "\n")
        count.add()

    Engine.run_event = note_step
    torch.nn.modules.module.register_module_forward_pre_hook(note_pass)


def hash_of(batch: Any, row: int) -> str:
    """Of inputs and labels, without the padding that neighbours in a batch decide."""
    inputs, labels = batch["input_ids"][row].numpy(), batch["labels"][row].numpy()
    end = max((inputs != 0).nonzero()[0], default=0) + 1
    return hashlib.sha256(inputs[:end].tobytes() + labels[:end].tobytes()).hexdigest()[:16]


class ForkedRank:
    """What the launcher needs of `subprocess.Popen`: a rank, forked."""

    def __init__(self, args: list[str], *, stdout: Any = None, stderr: Any = None, text: bool = True) -> None:
        self.args, self.stdout, self.stderr = args, stdout, stderr
        self.returncode: int | None = None
        sys.stdout.flush()
        # What importing Composer has set would raise while Python is still busy with the fork, which swallows it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
        if (pid := os.fork()) == 0:
            weakref.finalize._registry.clear()  # pyright: ignore[reportAttributeAccessIssue] (the launcher's folder)
            for number, file in ((1, stdout), (2, stderr)):
                if file is not None:
                    os.dup2(file.fileno(), number)
            become(args[1:])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pid = pid

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode


def become(words: list[str]) -> NoReturn:
    """Be a rank to its end, as an interpreter would."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    tempfile.tempdir, status = None, 0
    if ORDERS.get("nodes"):
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": os.environ["RANK"]}
    (NOTES / f"rank{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    try:
        run(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  nothing may go on into the launcher's loop
        traceback.print_exc()
        status = 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status & 0xFF)


def launch(ranks: int, words: list[str]) -> NoReturn:
    from composer.cli import launcher
    from composer.core.engine import sigterm_handler

    for number in _ASKING:  # as importing it does, which a warm Python has done before
        signal.signal(number, sigterm_handler)
    launcher.subprocess = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        Popen=ForkedRank, CalledProcessError=subprocess.CalledProcessError, STDOUT=subprocess.STDOUT
    )
    sys.argv = ["composer", "-n", str(ranks), *words]
    sys.exit(launcher.main())


def run(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    if os.getpid() != os.getsid(0):
        os.setsid()
    (NOTES / "pid").write_text(str(os.getpid()))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the storm may be running under nohup
    faulthandler.register(signal.SIGUSR2, file=(NOTES / "stacks").open("w"), chain=False)
    if files := ORDERS.get("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if ORDERS.get("umask") is not None:
        os.umask(ORDERS["umask"])
    if user := ORDERS.get("user"):
        NOTES.chmod(0o777)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    ranks, words = int(sys.argv[1]), sys.argv[2:]
    watch_files()
    watch_steps()
    if ranks > 1:
        launch(ranks, words)
    run(words)


main()

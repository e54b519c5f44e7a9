"""A command under way, and what is left of it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .targets import hit

ROOT = Path(__file__).resolve().parents[2]
SECONDS_TO_END, SECONDS_TO_LEAVE = 150, 15


def machine_load() -> float:
    """How much longer things take than on a machine with nothing else to do."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass
class Outcome:
    """What is left of a command that has ended."""

    words: list[str]
    status: int | None
    """None if it did not end in time."""
    printed: str
    seconds: float
    notes: Path
    hits: list[str]
    """Faults that took place."""
    left: list[str]
    """Processes, segments of shared memory and temporary files."""
    others: "list[Outcome]" = field(default_factory=list)
    """Commands that ran on the same place meanwhile."""
    passes_at_stop: int = 0
    """Forward passes that it had made when it stood still."""
    patience: float = 0.0
    """Seconds between Ctrl-C and its end, as on a machine with nothing else to do."""

    def count(self, event: str) -> int:
        return size_of(self.notes / event)


def size_of(path: Path) -> int:
    """In bytes; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


def temporary_files(folder: Path, *, is_private: bool) -> Iterator[Path]:
    """What is in the temporary folder, but torch's cache of kernels; and in shared memory, where that is ours."""
    yield from (path for path in folder.iterdir() if not path.name.startswith("torchinductor_"))
    if is_private:
        yield from Path("/dev/shm").iterdir()


@dataclass
class Command:
    """A command under way, with all that it has started."""

    words: list[str]
    process: subprocess.Popen[bytes]
    notes: Path
    temporary: Path
    is_private: bool
    before: set[Path]
    """Segments of shared memory and temporary files that were there."""
    started: float
    passes_at_stop: int = 0
    more_seconds: float = 0.0
    """That it may take for what happens to it."""

    @property
    def leader(self) -> int | None:
        path = self.notes / "pid"
        return int(path.read_text() or 0) or None if path.exists() else None

    @property
    def printed(self) -> str:
        return (self.notes / "out").read_text(errors="replace") + (self.notes / "err").read_text(errors="replace")

    def members(self) -> list[psutil.Process]:
        """The processes of its session that are alive."""
        found, leader = [], self.leader
        for process in psutil.process_iter(["status", "cmdline"]) if leader else ():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def count(self, event: str) -> int:
        """How often that has happened in it."""
        return size_of(self.notes / event)

    def hit(self, whom: str, number: int) -> None:
        """Send a signal to a part of it, as its probe would."""
        if self.leader:
            with (self.notes / "hit").open("a") as file:
                told = {"act": "signal", "signal": number, "whom": whom, "time": time.monotonic()}
                file.write(json.dumps(told) + "\n")
            hit(self.notes, whom, number)

    def signals(self) -> list[int]:
        """Those that were sent."""
        return [each["signal"] for each in map(json.loads, self._lines("hit")) if each["act"] == "signal"]

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def go_on(self) -> None:
        """After it stood still."""
        (self.notes / "stopped").unlink(missing_ok=True)
        for each in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGCONT)

    def is_late(self) -> bool:
        return time.monotonic() - self.started > (SECONDS_TO_END + self.more_seconds) * machine_load()

    def kill(self) -> None:
        """What did not end in time; its stacks are noted first."""
        for number in (signal.SIGCONT, signal.SIGUSR2, signal.SIGKILL):
            for each in self.members():
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)
            time.sleep(0.5)
        self.process.kill()

    def end(self, hits: list[str], *, was_killed: bool) -> Outcome:
        """What is left; what a kill leaves in temporary folders is not asked for, and removed."""
        status, ended = self.process.poll(), time.monotonic()
        if status is None:
            self.kill()
            self.process.wait()
        was_killed = was_killed or (status or 0) < 0  # Composer's launcher has no handler for SIGUSR1
        was_killed = was_killed or "with SIGKILL instead" in self.printed  # a rank by the launcher, after half a minute
        deadline = time.monotonic() + SECONDS_TO_LEAVE * machine_load()
        while (alive := self.members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [f"process {each.pid} {' '.join(each.info['cmdline'] or [])[:150]}" for each in alive]
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        met = [json.loads(line) for line in self._lines("hit")]
        ctrl_c = [each["time"] for each in met if each.get("signal") == signal.SIGINT and each["whom"] == "group"]
        # Composer's launcher has a folder for logs, which a signal as it is made or removed leaves.
        in_launcher = "for all training processes to terminate" in self.printed and any(
            each.get("whom") in {"group", "launcher"} for each in met
        )
        for path in temporary_files(self.temporary, is_private=self.is_private):
            if path in self.before:
                continue
            if not was_killed and not (in_launcher and re.fullmatch(r"tmp\w{8}", path.name) and path.is_dir()):
                left.append(str(path))
            elif path.name.startswith(("pymp-", "tmp", "torch")):  # of Python's and of libraries
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        happened = [each["act"] for each in met]
        outcome = Outcome(self.words, status, self.printed, ended - self.started, self.notes, [*hits, *happened], left)
        outcome.passes_at_stop = self.passes_at_stop
        outcome.patience = max((ended - each for each in ctrl_c), default=0.0) / machine_load()
        return outcome

    def _lines(self, name: str) -> list[str]:
        path = self.notes / name
        return path.read_text().splitlines() if path.exists() else []

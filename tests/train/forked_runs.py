"""Runs of the recipe in real processes, started within a second: the ranks of `training_ranks.py`, for tests."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from meap.config import RecipeConfig, load_config, save_config

ROOT = Path(__file__).resolve().parents[2]
EPOCH, STEPS = 8, 14
STOPPED = os.EX_TEMPFAIL
# At this learning rate, what rounding makes of a step does not grow.
SETTINGS = (f"train.max_duration={STEPS}ba", "train.microbatch_size=2", "optimizer.lr=0.001")
SECONDS_TO_END = 60


@dataclass
class Run:
    """Ranks under way."""

    forks: subprocess.Popen[str]
    pids: list[int]
    out: Path

    def wait(self) -> list[int]:
        """Exit statuses, negative where a signal ended the rank."""
        return ask(self.forks, {"wait": self.pids})["exit"]

    def end(self) -> list[int]:
        """As `wait`, for a run that something ends: once one rank is gone, nothing may live on for a minute."""
        until(lambda: any(state_of(pid) == "Z" for pid in self.pids), self)
        self.require_gone()
        return self.wait()

    def kill(self) -> list[int]:
        """As a launcher does that has lost a rank, or a machine that is gone."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        return self.wait()

    @property
    def printed(self) -> str:
        """What all ranks have printed."""
        return "".join(path.read_text() for path in sorted(self.out.glob("*.log")))

    @property
    def run_dir(self) -> Path:
        return Path(load_config(RecipeConfig, self.out / "config.yaml").run.dir)

    def members(self) -> list[psutil.Process]:
        """The processes of this run that are alive: ranks, each the leader of its session, and what they started."""
        found = []
        for process in psutil.process_iter(["status"]):
            try:
                if os.getsid(process.pid) in self.pids and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except ProcessLookupError:
                continue
        return found

    def require_gone(self) -> None:
        """Nothing of this run may live on for a minute."""
        deadline = time.monotonic() + SECONDS_TO_END
        while alive := self.members():
            assert time.monotonic() < deadline, f"{alive} live on\n{self.printed}"
            time.sleep(0.1)

    def rows(self, world: int) -> list[set[tuple[int, str]]]:
        """Ids and masks of each step, whichever rank had them."""
        by_rank = [
            [
                [(i, h) for i, h in json.loads(line)]
                for line in (self.out / f"rank{rank}.jsonl").read_text().splitlines()
            ]
            for rank in range(world)
        ]
        passes = 8 // world // 2
        return [
            {row for rows in by_rank for each in rows[at : at + passes] for row in each}
            for at in range(0, min(map(len, by_rank)) // passes * passes, passes)
        ]


def state_of(pid: int) -> str:
    """One letter, as in `man proc`: T stopped, Z ended and not yet waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def ask(forks: subprocess.Popen[str], job: dict[str, Any]) -> dict[str, Any]:
    assert forks.stdin is not None
    assert forks.stdout is not None
    forks.stdin.write(json.dumps(job) + "\n")
    forks.stdin.flush()
    return json.loads(forks.stdout.readline())


def until(condition: Callable[[], object], run: Run) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        if all(state_of(pid) == "Z" for pid in run.pids):
            assert condition(), f"all ranks have ended\n{run.printed}"
            return
        assert time.monotonic() < deadline, run.printed
        time.sleep(0.01)


@contextmanager
def forked_ranks(python: str) -> Iterator[subprocess.Popen[str]]:
    """The process that forks them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
    process = subprocess.Popen(
        [python, str(Path(__file__).with_name("training_ranks.py"))],
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def starter(forks: subprocess.Popen[str], small_config: Any, make_folder: Callable[[str], Path]) -> Callable[..., Run]:
    """What starts a run on so many ranks; `faults` are by rank, as `faults.py` has them."""

    def start(
        run_dir: Path,
        world: int,
        *overrides: str,
        nodes: bool = False,
        recipe: str = "meap_1b.py",
        faults: dict[int, dict[str, Any]] | None = None,
        **environment: str,
    ) -> Run:
        out = make_folder(f"{run_dir.name}-{world}-")
        save_config(small_config(run_dir, *SETTINGS, "checkpoint.interval=3ba", *overrides), out / "config.yaml")
        job = {
            "world": world,
            "nodes": nodes,
            "recipe": recipe,
            "config": str(out / "config.yaml"),
            "out": str(out),
            "faults": faults or {},
            "environment": environment,
        }
        return Run(forks, ask(forks, job)["pids"], out)

    return start

"""Where journeys happen: a home on a small disk of its own, stores, shared memory that nobody else uses, commands.

With leave to mount (root; in a container, --privileged), the storm has a private view of the machine: its own /dev/shm,
and disks that it can shrink. Without, what needs that is not drawn.
"""

import contextlib
import ctypes
import gzip
import json
import os
import pydoc_data.topics
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests import warm_python
from tests.s3_faults import S3Faults
from tests.small_tokenizer import write_small_tokenizer

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("probe.py")
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASTORMSTORMSTORM0",
    "AWS_SECRET_ACCESS_KEY": "storm/secret+key/0123456789abcdefghijklmn",
    "HF_TOKEN": "hf_stormstormstormstormstormstormsto",
    "WANDB_API_KEY": "5707a5707a5707a5707a5707a5707a5707a57070",
}
SECONDS_TO_END, SECONDS_TO_LEAVE = 150, 15
_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay number 1234567890.\n\n### Response:"
)


def machine_load() -> float:
    """How much longer things take than on a machine with nothing else to do."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def go_private() -> bool:
    """Leave the machine's mounts for a copy, in which nobody else sees ours; says whether that is allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() or libc.unshare(0x00020000):
        return False
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2g,mode=1777", "shm", "/dev/shm"], check=False
    ).returncode


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

    def count(self, event: str) -> int:
        path = self.notes / event
        return path.stat().st_size if path.exists() else 0


class World:
    """Homes, stores and a Python that has imported everything."""

    def __init__(self, folder: Path, *, is_private: bool) -> None:
        from moto.server import ThreadedMotoServer

        self.folder, self.is_private = folder, is_private
        self.temporary = folder / "t"  # short: loader workers make sockets there
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        folder.chmod(0o755)
        self.warm = warm_python.start(folder)
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        self.store = S3Faults(f"http://{host}:{port}")
        self.direct = f"http://{host}:{port}"
        self.number = 0
        self._texts = [text[:900] for _, text in sorted(pydoc_data.topics.topics.items())]

    def client(self) -> Any:
        """The store, past all faults."""
        import boto3

        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.direct, **keys)

    @contextlib.contextmanager
    def home(self, name: str) -> Iterator["Home"]:
        """A user's folder with text of their own; gone afterwards."""
        path = self.folder / name
        path.mkdir()
        if self.is_private:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g,mode=755", name, str(path)], check=True)
        for each in ("dataprep", "recipes", "yamls"):
            (path / each).symlink_to(ROOT / each)
        write_small_tokenizer(path / "my-tokenizer", [*self._texts[:80], *[_PROMPT] * 20], vocab_size=512)
        for number in range(3):
            texts = self._texts[number:60:3]
            write_gzip(path / f"crawl/{number}.jsonl.gz", [{"text": text} for text in texts])
            write_gzip(path / f"other/{number}.jsonl.gz", [{"text": text[::-1]} for text in texts])
        sentences = [line.strip() for text in self._texts for line in text.split(". ") if 40 < len(line) < 90][:60]
        chats = [{"instruction": f"Say number {number}.", "output": text} for number, text in enumerate(sentences)]
        write_gzip(path / "chats/0.jsonl.gz", chats)
        bucket = f"{name}-bucket"
        self.client().create_bucket(Bucket=bucket)
        try:
            yield Home(self, path, bucket)
        finally:
            subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)
            shutil.rmtree(path, ignore_errors=True)
            self._empty(bucket)

    def _empty(self, bucket: str) -> None:
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for each in page.get("Contents", []):
                client.delete_object(Bucket=bucket, Key=each["Key"])

    def close(self) -> None:
        self.store.resumed.set()
        shutil.rmtree(self.folder, ignore_errors=True)


def write_gzip(path: Path, records: list[dict[str, object]]) -> None:
    """Records as JSON lines, compressed."""
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@dataclass
class Home:
    """The folder that the commands of a journey run in, with its bucket."""

    world: World
    path: Path
    bucket: str

    def environment(self, notes: Path, changed: dict[str, str | None]) -> dict[str, str]:
        ours = ("RANK", "WORLD_", "LOCAL_", "NODE_RANK", "MASTER_", "AWS_", "S3_", "MEAP_", "STORM", "HF_", "WANDB_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        own: dict[str, str | None] = {
            "TMPDIR": str(self.world.temporary),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.path),
            "STORM": str(notes),
            "S3_ENDPOINT_URL": self.world.store.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "HF_HUB_OFFLINE": "1",
            **SECRETS,
            **changed,
        }
        return {name: value for name, value in {**kept, **own}.items() if value is not None}

    def start(
        self, words: Sequence[str], *, ranks: int, orders: dict[str, Any], changed: dict[str, str | None], cold: bool
    ) -> "Command":
        """Begin a command; what it starts, and what happens to it, goes by `orders`."""
        self.world.number += 1
        notes = self.world.folder / f"command-{self.world.number}"
        notes.mkdir()
        orders = {"at": [], "watched": [str(self.path), str(self.world.temporary)], **orders}
        (notes / "orders.json").write_text(json.dumps(orders))
        shared = {path.name for path in Path("/dev/shm").iterdir()}
        with (notes / "out").open("w") as out, (notes / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable if cold else self.world.warm, str(PROBE), str(ranks), *words],
                cwd=self.path, env=self.environment(notes, changed), stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
        return Command(self, list(words), process, notes, shared, time.monotonic())


@dataclass
class Command:
    """A command under way, with all that it has started."""

    home: Home
    words: list[str]
    process: subprocess.Popen[bytes]
    notes: Path
    shared: set[str]
    started: float

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

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def go_on(self) -> None:
        """After it stood still."""
        (self.notes / "stopped").unlink(missing_ok=True)
        for each in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGCONT)

    def is_late(self) -> bool:
        return time.monotonic() - self.started > SECONDS_TO_END * machine_load()

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
        status, seconds = self.process.poll(), time.monotonic() - self.started
        if status is None:
            self.kill()
            self.process.wait()
        deadline = time.monotonic() + SECONDS_TO_LEAVE * machine_load()
        while (alive := self.members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = [f"process {each.pid} {' '.join(each.info['cmdline'] or [])[:150]}" for each in alive]
        for each in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        happened = [json.loads(line)["act"] for line in self._lines("hit")]
        if not was_killed and self.home.world.is_private:
            left += [str(path) for path in sorted(Path("/dev/shm").iterdir()) if path.name not in self.shared]
        temporary = sorted(self.home.world.temporary.iterdir())
        left += [] if was_killed else [f"$TMPDIR/{path.name}" for path in temporary]
        for path in temporary:
            if was_killed and path.name.startswith(("pymp-", "tmp", "torch")):  # of Python's and of libraries
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        return Outcome(self.words, status, self.printed, seconds, self.notes, [*hits, *happened], left)

    def _lines(self, name: str) -> list[str]:
        path = self.notes / name
        return path.read_text().splitlines() if path.exists() else []


def make_world() -> World:
    """A world in a short temporary folder."""
    return World(Path(tempfile.mkdtemp(prefix="storm-", dir="/tmp")), is_private=go_private())

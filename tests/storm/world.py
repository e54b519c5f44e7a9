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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError

from tests import s3_servers, warm_python
from tests.s3_faults import S3Faults
from tests.small_tokenizer import write_small_tokenizer

from .running import ROOT, Command, temporary_files

PROBE = "tests/storm/probe.py"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASTORMSTORMSTORM0",
    "AWS_SECRET_ACCESS_KEY": "storm/secret+key/0123456789abcdefghijklmn",
    "HF_TOKEN": "hf_stormstormstormstormstormstormsto",
    "WANDB_API_KEY": "5707a5707a5707a5707a5707a5707a5707a57070",
}
_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay number 1234567890.\n\n### Response:"
)


def go_private() -> bool:
    """Leave the machine's mounts for a copy, in which nobody else sees ours; says whether that is allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() or libc.unshare(0x00020000):
        return False
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    return not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2g,mode=1777", "shm", "/dev/shm"], check=False
    ).returncode


class World:
    """Homes, stores and a Python that has imported everything."""

    def __init__(self, folder: Path, *, is_private: bool, make: str = "moto", without: str = "-") -> None:
        self.folder, self.is_private, self.root = folder, is_private, ROOT
        interpreter = Path(sys.base_prefix)
        self.others_have_python = all(path.stat().st_mode & 1 for path in (interpreter, *interpreter.parents))
        self.temporary = folder / "t"  # short: loader workers make sockets there
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        folder.chmod(0o755)
        self.warm = warm_python.start(folder, without=without)
        self.make, self.ends = make, contextlib.ExitStack()
        self.direct = self.ends.enter_context(_moto() if make == "moto" else s3_servers.serving(make, folder / "s3"))
        self.store = S3Faults(self.direct)
        self.store.server.handle_error = lambda *_: None  # a command that is killed leaves its connections
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
            (path / each).symlink_to(self.root / each)
        write_small_tokenizer(path / "my-tokenizer", [*self._texts[:80], *[_PROMPT] * 20], vocab_size=512)
        for number in range(3):
            texts = self._texts[number:60:3]
            write_gzip(path / f"crawl/{number}.jsonl.gz", [{"text": text} for text in texts])
            write_gzip(path / f"other/{number}.jsonl.gz", [{"text": text[::-1]} for text in texts])
        sentences = [line.strip() for text in self._texts for line in text.split(". ") if 40 < len(line) < 90][:60]
        chats = [{"instruction": f"Say number {number}.", "output": text} for number, text in enumerate(sentences)]
        for number in range(3):
            write_gzip(path / f"chats/{number}.jsonl.gz", chats[number::3])
        bucket = f"{name}-bucket"
        client = self.client()
        # A store under load may fail once it has made it, and is asked again.
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket)
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
        with contextlib.suppress(ClientError):  # what a killed upload has left is not listed
            client.delete_bucket(Bucket=bucket)

    def close(self) -> None:
        self.store.resumed.set()
        self.ends.close()
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

    def environment(self, notes: Path, changed: Mapping[str, str | None]) -> dict[str, str]:
        ours = ("RANK", "WORLD_", "LOCAL_", "NODE_RANK", "MASTER_", "AWS_", "S3_", "MEAP_", "STORM", "HF_", "WANDB_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        own: dict[str, str | None] = {
            "TMPDIR": str(self.world.temporary),
            "PYTHONPATH": str(self.world.root),
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.path),
            "STORM": str(notes),
            "S3_ENDPOINT_URL": self.world.store.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "offline",
            **SECRETS,
            **changed,
        }
        return {name: value for name, value in {**kept, **own}.items() if value is not None}

    def start(
        self,
        words: Sequence[str],
        *,
        ranks: int = 1,
        orders: Mapping[str, Any] = MappingProxyType({}),
        changed: Mapping[str, str | None] = MappingProxyType({}),
        cold: bool = False,
    ) -> Command:
        """Begin a command; what it starts, and what happens to it, goes by `orders`."""
        self.world.number += 1
        notes = self.world.folder / f"command-{self.world.number}"
        notes.mkdir()
        orders = {"at": [], "watched": [str(self.path), str(self.world.temporary)], **orders}
        (notes / "orders.json").write_text(json.dumps(orders))
        before = set(temporary_files(self.world.temporary, is_private=self.world.is_private))
        with (notes / "out").open("w") as out, (notes / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable if cold else self.world.warm, str(self.world.root / PROBE), str(ranks), *words],
                cwd=self.path, env=self.environment(notes, changed), stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
        return Command(
            list(words), process, notes, self.world.temporary, self.world.is_private, before, time.monotonic()
        )


@contextlib.contextmanager
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def make_world(seed: int, *, without: str = "-") -> World:
    """A world in a short temporary folder, with a store of one of the makes that are installed."""
    makes = ["moto", *(each for each in ("rclone", "weed") if s3_servers.program_of(each) is not None)]
    folder, make = Path(tempfile.mkdtemp(prefix="storm-", dir="/tmp")), Random(f"store {seed}").choice(makes)
    return World(folder, is_private=go_private(), make=make, without=without)

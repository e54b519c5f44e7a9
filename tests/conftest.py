"""Shared fixtures: a small tokenizer and small shards, made as data preparation makes them but in milliseconds."""

import contextlib
import dataclasses
import gc
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meap.answers import END, LONG, SCORED, with_long_answers
from meap.config import TokenizerConfig
from meap.manifest import CONVERSATIONS, Manifest, ShardRecord, TokenizerRecord
from meap.schema import (
    ANSWER_COLUMN,
    COPIED_COLUMN,
    LENGTHS_COLUMN,
    MANIFEST_NAME,
    TOKENIZER_DIR,
    TOKENS_COLUMN,
    conversation_columns,
    mds_columns,
)
from meap.tokenizer import Tokenizer, load_tokenizer

from . import slurm_cluster, warm_python
from .fault_table import FaultResults, replace_table
from .s3_faults import S3Faults
from .small_tokenizer import write_small_tokenizer

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait would spin, on cores that other tests need
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that a test starts compiles the project anew
with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup start what is not

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

_TEXTS = (
    "The harbour lay quiet under a grey sky, and the boats rocked without a sound.",
    "Nobody in the village could remember a summer as dry as this one; even the deep well had run low.",
    "She counted the letters twice, tied them with a ribbon and put them back into the drawer.",
)


_FAULT_RESULTS = FaultResults()


LONGEST = (
    "test_long_run",
    "test_ways_out",
    "test_pre_training",
    "test_launchers",
    "test_slurm",
    "test_fine_tuning",
    "test_gpu_check",
    "test_experiments",
    "test_elasticity",
    "test_kills",
    "test_dedup",
    "test_encoder",
    "test_s3_faults",
)
"""Files that take more than a minute, by how much."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", metavar="FILE", help="write what tests marked `fault` have shown into this file")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Side by side, what begins last decides when all is done: the longest files begin first, then the slow ones.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    length = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (length.get(item.path.stem, len(LONGEST)), item.path not in slow))
    for item in items:
        # Properties travel with a report to the process that counts, also from a worker of xdist.
        item.user_properties += [("fault", each) for mark in item.iter_markers("fault") for each in mark.args]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _FAULT_RESULTS.add(report.nodeid, report.outcome, report.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not (path := config.getoption("--fault-table")):
        return
    try:
        replace_table(Path(path), _FAULT_RESULTS.table())
    except ValueError as error:
        terminalreporter.write_line(str(error), red=True)


@pytest.fixture(autouse=True, scope="module")
def release_shared_memory() -> Iterator[None]:
    """Streaming keeps the shared memory of each dataset, some 36 open files, until its process ends; free it here."""
    yield
    if "/dev/shm/" not in Path("/proc/self/maps").read_text():
        return  # looking at every object takes seconds where torch and all are loaded
    from streaming.base.shared import SharedMemory

    gc.unfreeze()  # what training has frozen
    gc.collect()
    for each in gc.get_objects():
        if type(each) is SharedMemory:
            with contextlib.suppress(BufferError):  # a dataset that is still in use
                each.cleanup()


@pytest.fixture(scope="session")
def release_caches() -> Callable[[], None]:
    """A process keeps its cache folders until it ends; here other processes continue what it began."""

    def release() -> None:
        if "meap.data.pinned.isolation" in sys.modules:
            from meap.data.pinned.isolation import release_caches

            release_caches()

    return release


@pytest.fixture(autouse=True)
def release_caches_after_each_test(release_caches) -> Iterator[None]:
    yield
    release_caches()


@pytest.fixture(autouse=True)
def restore_environment() -> Iterator[None]:
    """Recipes that run in this process set variables that their children inherit; other tests must not.

    Those of the rank stay: torch has joined its group by them for as long as this process lives.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        if not name.startswith(("RANK", "WORLD_", "LOCAL_", "NODE_RANK", "MASTER_")):
            del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real text and tokenizers are not here: no folder {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_small_tokenizer(folder, _TEXTS, vocab_size=300)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return load_tokenizer(TokenizerConfig(name=str(tokenizer_dir)))


@pytest.fixture(scope="session")
def write_shards(tokenizer: Tokenizer) -> Callable[..., Path]:
    """Write `rows` random rows per split, each different, with the tokenizer and manifests beside them."""

    def write(
        remote: Path,
        *,
        rows: int = 96,
        seq_len: int = 16,
        validation_rows: int = 48,
        compression: str | None = "zstd",
        seed: int = 0,
        shard_rows: int = 8,
    ) -> Path:
        from streaming import MDSWriter

        random = np.random.default_rng(seed)
        for split, count in (("train", rows), ("validation", validation_rows)):
            if not count:
                continue
            folder = remote / split
            with MDSWriter(
                columns=mds_columns(seq_len, tokenizer.vocab_size),
                out=str(folder),
                compression=compression,
                hashes=["xxh3_64"],
                size_limit=400 + shard_rows * ((seq_len + 1) * 2 + 4),  # about so many
            ) as writer:
                for _ in range(count):
                    row = random.integers(2, tokenizer.vocab_size - 1, seq_len + 1).astype(np.uint16)
                    writer.write({TOKENS_COLUMN: row})
            index = json.loads((folder / "index.json").read_text())
            shards = tuple(
                ShardRecord(name, len(content), hashlib.sha256(content).hexdigest(), shard["samples"])
                for shard in index["shards"]
                for name in [(shard["zip_data"] or shard["raw_data"])["basename"]]
                for content in [(folder / name).read_bytes()]
            )
            manifest = Manifest(
                split=split,
                seq_len=seq_len,
                dtype="uint16",
                hash_algorithm="xxh3_64",
                documents=count,
                tokens=count * (seq_len + 1),
                rows=count,
                dropped_tail_tokens=0,
                bad_lines=0,
                tokenizer=TokenizerRecord(
                    tokenizer.name,
                    tokenizer.fingerprint,
                    tokenizer.vocab_size,
                    tokenizer.bos_id,
                    tokenizer.eos_id,
                    tokenizer.mask_id,
                ),
                shards=shards,
                sources=(),
                config={},
                versions={},
            )
            (folder / MANIFEST_NAME).write_text(manifest.to_json())
        tokenizer.save(remote / TOKENIZER_DIR)
        return remote

    return write


@pytest.fixture(scope="session")
def conversation_rows() -> list[dict[str, np.ndarray]]:
    """Rows of three random conversations of up to three turns, those with an answer of more than 4 words copied."""
    random, rows = np.random.default_rng(1), []
    for _ in range(48):
        conversations = []
        for _ in range(3):
            turns = [(int(random.integers(2, 5)), int(random.integers(1, 9))) for _ in range(random.integers(1, 4))]
            flags = [each for asked, said in turns for each in [0] * asked + [SCORED] * said + [SCORED | END]]
            conversations.append((random.integers(3, 90, len(flags)), with_long_answers(np.array(flags, np.uint8), 4)))
        rows.append(
            {
                TOKENS_COLUMN: np.concatenate([tokens for tokens, _ in conversations]).astype(np.uint16),
                ANSWER_COLUMN: np.concatenate([flags for _, flags in conversations]),
                LENGTHS_COLUMN: np.array([len(flags) for _, flags in conversations], np.uint32),
                COPIED_COLUMN: np.array([(flags & LONG).any() for _, flags in conversations], np.uint8),
            }
        )
    return rows


@pytest.fixture(scope="session")
def write_conversations(write_shards, conversation_rows, tokenizer: Tokenizer) -> Callable[..., Path]:
    """Write the rows of conversations as both splits of a data set, with rows of `seq_len` positions."""

    def write(remote: Path, *, seq_len: int) -> Path:
        from streaming import MDSWriter

        write_shards(remote, rows=8, validation_rows=8)
        for split in ("train", "validation"):
            plain = Manifest.from_json((remote / split / MANIFEST_NAME).read_text(), origin="plain")
            shutil.rmtree(remote / split)
            with MDSWriter(
                columns=conversation_columns(tokenizer.vocab_size),
                out=str(remote / split),
                compression="zstd",
                hashes=["xxh3_64"],
                size_limit=4096,
            ) as writer:
                for row in conversation_rows:
                    writer.write(row)
            manifest = dataclasses.replace(
                plain,
                kind=CONVERSATIONS,
                seq_len=seq_len,
                rows=len(conversation_rows),
                shards=(),
                config={"min_answer_tokens": 4, "max_length": seq_len // 2, "copies": True},
            )
            (remote / split / MANIFEST_NAME).write_text(manifest.to_json())
        return remote

    return write


@pytest.fixture(scope="session")
def bytecode_cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where this machine writes no bytecode, each command would compile torch anew."""
    return {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))} if sys.dont_write_bytecode else {}


@pytest.fixture
def quiet_environment(bytecode_cache: dict[str, str]) -> dict[str, str]:
    """Environment for subprocesses: no rank variables of a surrounding launcher, one thread each."""
    ours = ("RANK", "WORLD_", "LOCAL_", "NODE_RANK", "MASTER_", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return environment | bytecode_cache | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="session", name="warm_python")
def start_warm_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that is called as `python` is, and has imported everything already."""
    folder = tmp_path_factory.getbasetemp()
    return warm_python.start(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], object]], None]:
    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline, "the event did not come"
            time.sleep(0.002)

    return wait


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that leads to a Slurm cluster of two nodes on this machine."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def no_earlier_server() -> None:
    """File systems that libraries keep would go to the address of a server that has ended."""
    import fsspec

    kinds: list[Any] = [fsspec.get_filesystem_class("s3")]
    if "datatrove.io" in sys.modules:
        kinds.append(sys.modules["datatrove.io"].DataFolder)
    for kind in kinds:
        kind.clear_instance_cache()


@pytest.fixture
def server(no_earlier_server) -> Iterator[str]:
    """An S3 store on the loopback interface."""
    del no_earlier_server
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    # What is stored belongs to the process, not to the server.
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    server.stop()


@pytest.fixture
def bucket(server: str):
    import boto3

    resource = boto3.resource(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="testkeyid",
        aws_secret_access_key="testsecret",
    )
    return resource.create_bucket(Bucket="corpus")


@pytest.fixture
def s3_faults(server: str, bucket) -> Iterator[S3Faults]:
    faults = S3Faults(server)
    yield faults
    faults.resumed.set()
    faults.server.shutdown()
    faults.server.server_close()


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    """Write a checkpoint as Composer does, by hand."""
    import torch

    def write(path: Path, weights: dict[str, Any], *, run_name: str = "small", step: int = 7) -> Path:
        timestamp = {"Timestamp": {"batch": step, "token": step * 100}}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"state": {"model": weights, "run_name": run_name, "timestamp": timestamp}, "rng": []},
            path,
        )
        return path

    return write


@pytest.fixture
def publish(write_checkpoint, tmp_path) -> Callable[..., Path]:
    """A checkpoint of a run in a folder or behind a URL, with its record; returns its local path."""
    import torch

    from meap.checkpoints import CheckpointRecord, CheckpointStore, ModelRecord, describe_file

    nothing = ModelRecord({}, None, TokenizerRecord("", "", 0, 0, 0, 0), ())

    def write(
        folder: str,
        step: int,
        weights: dict[str, Any] | None = None,
        *,
        config=None,
        model: ModelRecord = nothing,
        shared=(),
        **more,
    ) -> Path:
        store, name = CheckpointStore(folder), f"ba{step}.pt"
        local = tmp_path / "written" if store.is_remote else Path(folder)
        path = write_checkpoint(local / name, weights or {"w": torch.ones(step)}, step=step, **more)
        if store.is_remote:
            store.upload([name], local)
        store.share(dict(shared))
        files = (describe_file(path, name),)
        store.publish(CheckpointRecord(step, 0, 0, "small", "full", 1, config or {}, model, {}, {}, files))
        return path

    return write

"""Preparation as tests run it: in this process, or by the command in a process group of its own."""

import gzip
import hashlib
import importlib.util
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import zstandard

from meap.config import PrepConfig, SftPrepConfig, load_config

_WORDS = (
    "tide",
    "harbour",
    "lamp",
    "rope",
    "gull",
    "storm",
    "letter",
    "bread",
    "window",
    "road",
    "stone",
    "river",
    "salt",
)


@pytest.fixture(scope="session")
def command_path(project_root: Path) -> Path:
    return project_root / "dataprep" / "c4_to_mds.py"


@pytest.fixture
def prepare(command_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the entry point's steps here, in tmp_path: ``prepare("source=...", ...)``."""
    spec = importlib.util.spec_from_file_location("c4_to_mds", command_path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*overrides: str) -> None:
        module.prepare(load_config(PrepConfig, None, ["workers=1", *overrides]))

    return run


@pytest.fixture
def prepare_sft(prepare: Callable[..., None], project_root: Path, tokenizer_dir: Path) -> Callable[..., None]:
    """Run the steps of fine-tuning data's entry point here, in tmp_path, with the small tokenizer."""
    del prepare  # only its set-up is needed
    spec = importlib.util.spec_from_file_location("sft_to_mds", project_root / "dataprep" / "sft_to_mds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*overrides: str) -> None:
        given_keys = ("workers=1", f"tokenizer.name={tokenizer_dir}", "remote=out", "heldout_ratio=0")
        module.prepare(load_config(SftPrepConfig, None, [*given_keys, *overrides]))

    return run


@pytest.fixture
def start_command(
    command_path: Path,
    project_root: Path,
    tmp_path: Path,
    quiet_environment: dict[str, str],
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in tmp_path, in a process group of its own, which is ended with the test."""
    started: list[subprocess.Popen[str]] = []
    kept = {
        name: value
        for name, value in quiet_environment.items()
        if not name.startswith(("AWS_", "S3_")) and name != "TOKENIZERS_PARALLELISM"
    }

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(command_path), *arguments],
            cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(project_root)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run_command_line(
    start_command: Callable[..., subprocess.Popen[str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = start_command(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def forked_commands(
    project_root: Path, command_path: Path, tmp_path: Path, warm_python: str, request: pytest.FixtureRequest
) -> Iterator[Callable[..., AbstractContextManager[int]]]:
    """Run the command in tmp_path as a fork of a process that has imported everything; gives its process group.

    A parameter names modules that are imported besides.
    """
    process = subprocess.Popen(
        [
            warm_python,
            str(project_root / "tests" / "prep" / "fork_commands.py"),
            str(command_path),
            *getattr(request, "param", ()),
        ],
        env=os.environ | {"PYTHONPATH": str(project_root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    @contextmanager
    def run(*arguments: str) -> Iterator[int]:
        stdin.write(json.dumps({"cwd": str(tmp_path), "arguments": arguments}) + "\n")
        stdin.flush()
        yield int(stdout.readline())
        run.status = os.waitstatus_to_exitcode(int(stdout.readline()))

    yield run
    stdin.close()
    process.wait()
    stdout.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many KiB; called again, the same one gets another size."""
    (disk := tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    if (mount := subprocess.run(command, capture_output=True, check=False)).returncode:
        pytest.skip(f"a small file system cannot be mounted here (root can): {mount.stderr.decode().strip()}")

    def resize(size: int) -> Path:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
        return disk

    yield resize
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="session")
def make_texts() -> Callable[..., list[str]]:
    def make(count: int, *, seed: int = 0, words: int = 60) -> list[str]:
        rng = random.Random(seed)
        return [
            f"{seed}/{number} " + " ".join(rng.choices(_WORDS, k=rng.randint(1, 2 * words))) for number in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def write_lines() -> Callable[..., Path]:
    """Write JSON lines, gzipped where the name says so; a str is a document, bytes are a line as it is."""

    def write(path: Path, documents: list[str | bytes], key: str = "text") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            each if isinstance(each, bytes) else json.dumps({key: each, "url": "https://example.invalid"}).encode()
            for each in documents
        ]
        content = b"".join(line + b"\n" for line in lines)
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        return path

    return write


@pytest.fixture(scope="session")
def corpus_of() -> Callable[[Path], list[str]]:
    """Texts of gzipped JSON lines, file by file, read with the standard library alone."""

    def read(folder: Path, pattern: str = "*.json.gz") -> list[str]:
        return [
            json.loads(line)["text"]
            for file in sorted(folder.glob(pattern))
            for line in gzip.decompress(file.read_bytes()).decode().splitlines()
        ]

    return read


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], np.ndarray]:
    """Rows of a split in the order of its index, parsed from the bytes of the MDS format, without streaming."""

    def read(split_dir: Path) -> np.ndarray:
        rows = []
        for shard in json.loads((split_dir / "index.json").read_text())["shards"]:
            zipped = shard["zip_data"]
            content = (split_dir / (zipped or shard["raw_data"])["basename"]).read_bytes()
            if zipped:
                assert len(content) == zipped["bytes"]
                content = zstandard.ZstdDecompressor().decompress(content)
            assert len(content) == shard["raw_data"]["bytes"]
            count = int(np.frombuffer(content, np.uint32, 1)[0])
            offsets = np.frombuffer(content, np.uint32, count + 1, 4)
            _, dtype, length = shard["column_encodings"][0].split(":")
            assert count == shard["samples"]
            rows += [np.frombuffer(content[start:end], dtype) for start, end in itertools.pairwise(offsets)]
            assert all(len(row) == int(length) for row in rows)
        return np.stack(rows)

    return read


@pytest.fixture(scope="session")
def hashes_of() -> Callable[[Path], dict[str, str]]:
    """Hash of every file of a data set that its readers see, and of its task records."""

    def read(remote: Path) -> dict[str, str]:
        return {
            str(path.relative_to(remote)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(remote.rglob("*"))
            if path.is_file() and (path.parent.name == "tasks" or ".prep" not in path.parts)
        }

    return read

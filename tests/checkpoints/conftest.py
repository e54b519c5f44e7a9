"""Small checkpoints of a few bytes, in a local folder or in memory behind a URL."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from meap.checkpoints import CheckpointRecord, CheckpointStore, ModelRecord, describe_file
from meap.manifest import TokenizerRecord

MODEL = ModelRecord({"model_type": "llama"}, 320, TokenizerRecord("small", "sha256:0f", 301, 0, 1, 300), ())


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists("/bucket"):
        filesystem.rm("/bucket", recursive=True)


@pytest.fixture(params=["local", "url"])
def place(request: pytest.FixtureRequest, tmp_path: Path, memory) -> str:
    """A folder of checkpoints that is not there yet."""
    memory.pipe("/bucket/other", b"")
    return str(tmp_path / "checkpoints") if request.param == "local" else "memory://bucket/run"


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., CheckpointRecord]:
    """Write a checkpoint as training does: files first, the record last."""

    def write(folder: str, step: int, *, sharded: bool = False, publish: bool = True) -> CheckpointRecord:
        store = CheckpointStore(folder)
        local = tmp_path / "written" if store.is_remote else Path(folder)
        names = [f"ba{step}/__0_0.distcp", f"ba{step}/.metadata"] if sharded else [f"ba{step}.pt"]
        for name in names:
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_bytes(f"{name} of {step}".encode() * 100)
        files = tuple(describe_file(local / name, name) for name in names)
        kind = "sharded" if sharded else "full"
        record = CheckpointRecord(
            step, 0, step * 10, "small", kind, 1, {"run": {"name": "small"}}, MODEL, {}, {}, files
        )
        if store.is_remote:
            store.upload(names, local)
        if publish:
            store.publish(record)
        return record

    return write

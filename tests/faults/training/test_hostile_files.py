"""Checkpoints and shards that would run a program, or write outside of their folder, if anybody let them."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xxhash
import zstandard
from streaming import MDSWriter
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from meap.checkpoints import CheckpointStore, describe_file
from meap.checkpoints.reading import read_checkpoint
from meap.errors import CheckpointError, DataError
from meap.manifest import Manifest, ShardRecord
from tests.train.forked_runs import Run

pytestmark = [pytest.mark.fault(10), pytest.mark.timeout(900)]

SHARDED = ("train.sharding=full", "checkpoint.state_dict=sharded")


class Payload:
    """Unpickling this would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def sharded(start, tmp_path_factory) -> Run:
    """A run of six steps on two ranks that has left parts."""
    run = start(tmp_path_factory.mktemp("sharded") / "run", 2, *SHARDED, "train.max_duration=6ba")
    assert run.wait() == [0, 0], run.printed
    return run


def in_metadata(folder: Path, touched: Path) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = Payload(touched)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def in_part(folder: Path, touched: Path) -> None:
    """Every item that torch stores as bytes becomes one that would run a program."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    hostile = io.BytesIO()
    torch.save(Payload(touched), hostile)
    replaced = 0
    for index, place in metadata.storage_data.items():
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            with (folder / place.relative_path).open("ab") as part:
                at = part.tell()
                part.write(hostile.getvalue())
            metadata.storage_data[index] = _StorageInfo(place.relative_path, at, len(hostile.getvalue()))
            replaced += 1
    assert replaced > 10
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.slow
@pytest.mark.parametrize("tamper", [in_metadata, in_part])
def test_a_sharded_checkpoint_is_never_executed(start, sharded, tmp_path, tamper: Callable[[Path, Path], None]):
    shutil.copytree(sharded.run_dir, tmp_path / "run")
    store = CheckpointStore(str(tmp_path / "run/checkpoints"))
    folder = Path(store.location, "ba6")
    tamper(folder, tmp_path / "touched")
    # Who can write parts can write a record of them, too.
    record = store.record(6)
    files = tuple(describe_file(Path(store.location, file.name), file.name) for file in record.files)
    store.publish(dataclasses.replace(record, files=files))
    run = start(tmp_path / "run", 1, *SHARDED)
    assert run.wait() == [1], run.printed
    assert "holds more than tensors and plain values; nothing in it was run" in run.printed
    assert not (tmp_path / "touched").exists()
    assert "step      7" not in run.printed


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [0, 0.1])
def test_a_sharded_checkpoint_whose_part_is_damaged_is_one_error(sharded, tmp_path, keeps):
    folder = shutil.copytree(sharded.run_dir / "checkpoints/ba6", tmp_path / "ba6")
    part = max(folder.glob("__*"), key=lambda path: path.stat().st_size)
    os.truncate(part, int(part.stat().st_size * keeps))
    with pytest.raises(CheckpointError, match=r"^checkpoint ba6 is damaged \([A-Za-z]+Error: .*\): give an older one"):
        read_checkpoint(folder)


def rewrite_manifest(split: Path) -> None:
    """As whoever can write shards can: with the sizes and hashes of what is there."""
    manifest = Manifest.from_json((split / "manifest.json").read_text(), origin="here")
    index = json.loads((split / "index.json").read_text())
    shards = tuple(
        ShardRecord(stored["basename"], len(content), hashlib.sha256(content).hexdigest(), shard["samples"])
        for shard in index["shards"]
        for stored in [shard["zip_data"] or shard["raw_data"]]
        for content in [(split / stored["basename"]).read_bytes()]
    )
    rows = sum(shard.rows for shard in shards)
    (split / "manifest.json").write_text(dataclasses.replace(manifest, rows=rows, shards=shards).to_json())


def test_a_column_that_is_a_pickle_is_refused(train, write_shards, tmp_path):
    remote = write_shards(tmp_path / "mds", rows=16, seq_len=16, validation_rows=0)
    split, touched = remote / "train", tmp_path / "touched"
    manifest = (split / "manifest.json").read_text()
    shutil.rmtree(split)
    with MDSWriter(columns={"tokens": "pkl"}, out=str(split), hashes=["xxh3_64"], size_limit=4096) as writer:
        for _ in range(16):
            writer.write({"tokens": Payload(touched)})
    (split / "manifest.json").write_text(manifest)
    rewrite_manifest(split)
    with pytest.raises((DataError, ValueError), match="unsafe type: pkl"):
        train(tmp_path / "run", f"data.remote={remote}", "train.max_duration=2ba")
    assert not touched.exists()
    assert b"posix" in b"".join(path.read_bytes() for path in split.glob("*.mds")), "the test proved nothing"


def test_a_shard_elsewhere_is_neither_read_nor_written(train, write_shards, tmp_path):
    remote = write_shards(tmp_path / "mds", rows=16, seq_len=16, validation_rows=0, compression=None)
    split = remote / "train"
    index = json.loads((split / "index.json").read_text())
    (split / index["shards"][0]["raw_data"]["basename"]).rename(remote / "evil.mds")
    index["shards"][0]["raw_data"]["basename"] = "../evil.mds"
    (split / "index.json").write_text(json.dumps(index))
    rewrite_manifest(split)
    with pytest.raises(DataError, match=r"names a shard \.\./evil\.mds outside its folder"):
        train(tmp_path / "run", f"data.remote={remote}", "train.max_duration=2ba")
    assert not list((tmp_path / "run").rglob("evil.mds"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_hides_gigabytes_ends_the_run_in_the_memory_of_its_stated_size(
    train, write_shards, tmp_path, workers
):
    remote = write_shards(tmp_path / "mds", rows=64, seq_len=16, validation_rows=0)
    split = remote / "train"
    index = json.loads((split / "index.json").read_text())
    stated = index["shards"][0]
    compressor, zeros = zstandard.ZstdCompressor().compressobj(), bytes(1 << 24)
    content = b"".join([*(compressor.compress(zeros) for _ in range(128)), compressor.flush()])
    name, size = stated["zip_data"]["basename"], stated["raw_data"]["bytes"]
    (split / name).write_bytes(content)
    stated["zip_data"] |= {"bytes": len(content), "hashes": {"xxh3_64": xxhash.xxh3_64_hexdigest(content)}}
    (split / "index.json").write_text(json.dumps(index))
    rewrite_manifest(split)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak_bytes()
    unusable = rf"^{split / name} \(rows 0 to \d+\) cannot be used after 1 attempt: "
    with pytest.raises(DataError, match=rf"{unusable}it unpacks to more than the {size:,} bytes that .*: [^\n]*$"):
        train(tmp_path / "run", f"data.remote={remote}", "train.max_duration=1ep", f"data.num_workers={workers}")
    assert _peak_bytes() - before < 1 << 29, "of 2 GiB"


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10

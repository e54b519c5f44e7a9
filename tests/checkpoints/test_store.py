"""What counts as a checkpoint, what is deleted, and what a store that does not answer means."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from meap.checkpoints import CheckpointStore, DamagedError
from meap.errors import CheckpointError
from meap.places.folder import Folder


def names_in(folder: str) -> set[str]:
    filesystem, root = fsspec.core.url_to_fs(folder)
    return {path.rsplit("/", 1)[-1] for path in filesystem.ls(root, detail=False)}


def overwrite(folder: str, name: str, content: bytes | None) -> None:
    filesystem, root = fsspec.core.url_to_fs(folder)
    if content is None:
        filesystem.rm(f"{root}/{name}")
    else:
        filesystem.pipe_file(f"{root}/{name}", content)


def test_only_what_has_a_record_counts(place, save):
    store = CheckpointStore(place)
    assert store.steps() == []
    for step in (9, 100, 20):
        save(place, step)
    save(place, 200, publish=False)
    assert store.steps() == [100, 20, 9]
    assert store.record(20).tokens == 200


@pytest.mark.parametrize("sharded", [False, True])
def test_a_whole_checkpoint_is_fetched(place, save, tmp_path, sharded):
    record = save(place, 8, sharded=sharded)
    path = CheckpointStore(place).fetch(CheckpointStore(place).record(8), tmp_path / "copies")
    assert path.name == ("ba8" if sharded else "ba8.pt")
    for file in record.files:
        assert (path.parent / file.name).read_bytes() == f"{file.name} of 8".encode() * 100
    assert not list(path.parent.rglob("*.partial"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is missing"),
        (b"ba8.pt of 8" * 99, r"has 1,089 bytes instead of 1,100"),
        (b"BA8.pt of 8" + b"ba8.pt of 8" * 99, "does not have the hash"),
    ],
)
def test_damage_is_found(place, save, tmp_path, content, problem):
    record = save(place, 8)
    overwrite(place, "ba8.pt", content)
    with pytest.raises(DamagedError, match=problem):
        CheckpointStore(place).fetch(record, tmp_path / "copies")
    if "hash" not in problem:
        with pytest.raises(DamagedError, match=problem):
            CheckpointStore(place).require_sizes(record)


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_damaged_record_is_found(place, save, content):
    save(place, 8)
    overwrite(place, "ba8.json", content)
    with pytest.raises(DamagedError, match=r"ba8.json is (missing|damaged)"):
        CheckpointStore(place).record(8)


def test_the_record_of_another_step_is_refused(place, save):
    overwrite(place, "ba9.json", save(place, 8).to_json())
    with pytest.raises(DamagedError, match="is the record of step 8"):
        CheckpointStore(place).record(9)


def test_a_copy_that_is_there_is_not_fetched_again_unless_it_is_damaged(save, tmp_path, memory):
    record, copies = save("memory://bucket/run", 8), tmp_path / "copies"
    store = CheckpointStore("memory://bucket/run")
    store.fetch(record, copies)
    memory.rm("/bucket/run/ba8.pt")
    store.fetch(record, copies)
    (copies / "ba8.pt").write_bytes(b"other")
    with pytest.raises(DamagedError, match="missing"):
        store.fetch(record, copies)


def test_nodes_that_share_a_disk_fetch_at_the_same_time(save, tmp_path, memory, monkeypatch):
    """They wrote one draft, and called the checkpoint damaged."""
    save("memory://runs", 8)
    download, have_all = Folder.download, threading.Barrier(3, timeout=20)

    def together(folder: Folder, name: str, path: Path, *, num_bytes: int) -> bool:
        is_there = download(folder, name, path, num_bytes=num_bytes)
        have_all.wait()
        return is_there

    monkeypatch.setattr(Folder, "download", together)
    store = CheckpointStore("memory://runs")
    record = store.record(8)
    with ThreadPoolExecutor(3) as nodes:
        paths = [each.result() for each in [nodes.submit(store.fetch, record, tmp_path / "copies") for _ in range(3)]]
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "copies").iterdir()} == {"ba8.pt"}


def test_old_checkpoints_and_what_never_counted_are_deleted(place, save):
    for step in (1, 2, 3, 4):
        save(place, step, sharded=step % 2 == 0)
    save(place, 9, publish=False)  # not of this run's past: perhaps another is writing it
    store = CheckpointStore(place)
    store.withdraw(3)
    overwrite(place, "ba1.notes", b"of the user")
    store.prune(-1, newest=4)
    assert store.steps() == [4, 2, 1]
    store.prune(2, newest=4)
    assert names_in(place) == {"ba4", "ba4.json", "ba2", "ba2.json", "ba9.pt", "ba1.notes"}


def test_a_store_that_cannot_be_asked_is_an_error_and_no_empty_folder():
    with pytest.raises(CheckpointError, match=r"checkpoint.folder=nosuch://x cannot be used \(.*\): check the address"):
        CheckpointStore("nosuch://x").steps()


def test_a_file_is_no_folder_of_checkpoints(tmp_path):
    Path(tmp_path, "file").touch()
    with pytest.raises(CheckpointError, match="is a file: choose a folder or a URL"):
        CheckpointStore(str(tmp_path / "file")).steps()

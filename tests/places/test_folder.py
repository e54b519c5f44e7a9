"""A folder here and one in a store behave alike, and fail with one error each."""

import errno
import re
from pathlib import Path

import fsspec
import pytest

from meap.back_off import BackOff
from meap.errors import CheckpointError, DataError
from meap.places.folder import Folder
from meap.places.problems import full_disk_errors


@pytest.fixture(params=["local", "store"])
def url(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "mds[1]")
        return
    memory = fsspec.filesystem("memory")
    memory.pipe("/places/other", b"")
    yield "memory://places/mds"
    memory.rm("/places", recursive=True)


def test_what_is_written_is_listed_read_and_removed(url, tmp_path):
    folder = Folder(f"{url}/")
    assert (folder.entries(), folder.subfolders(), folder.exists()) == ([], [], False)
    folder.write("train/index.json", b"{}")
    folder.write("record", b"123")
    assert (folder.entries(), folder.subfolders()) == (["record", "train"], ["train"])
    assert (folder.read("record"), folder.read("none"), folder.size("record"), folder.size("none")) == (
        *(b"123", None),
        *(3, None),
    )
    assert (folder.exists("train/index.json"), folder.exists("train/none")) == (True, False)
    assert folder.sizes("train") == {"index.json": 2}
    assert folder.matching("*/index.json") == {"train/index.json": 2}
    (tmp_path / "file").write_bytes(b"of here")
    folder.upload(tmp_path / "file", "train/copy")
    assert folder.download("train/copy", tmp_path / "back", num_bytes=7)
    assert not folder.download("none", tmp_path / "none", num_bytes=7)
    assert (tmp_path / "back").read_bytes() == b"of here"
    folder.remove("train")
    folder.remove("none")
    assert folder.entries() == ["record"]
    folder.require_writable()
    assert folder.entries() == ["record"]


def test_a_signal_before_the_store_has_answered_leaves_no_probe(url, monkeypatch):
    folder = Folder(url)
    folder.write("record", b"123")
    kind = type(folder._do(lambda filesystem, _: filesystem, cannot_be="read"))
    write = kind.pipe_file

    def interrupted(*arguments, **how):
        write(*arguments, **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "pipe_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.require_writable()
    assert folder.entries() == ["record"]


def test_several_files_are_read_at_once(url):
    folder = Folder(url)
    folder.write("a", b"1")
    folder.write("b", b"2")
    assert folder.read_all(["a", "none", "b"]) == {"a": b"1", "b": b"2"}
    assert folder.read_all([]) == {}


def test_no_more_is_read_than_is_allowed(url):
    folder = Folder(url, key="remote")
    for name, content in (("empty", b""), ("small", b"12345"), ("large", b"123456")):
        folder.write(name, content)
    assert (folder.read("empty", most=5), folder.read("small", most=5)) == (b"", b"12345")
    assert folder.read_all(["empty", "small"], most=5) == {"empty": b"", "small": b"12345"}
    said = rf"^remote={re.escape(url)}/large is refused, since it has 6 bytes, and 5 are the most that .*: check what"
    for read in (lambda: folder.read("large", most=5), lambda: folder.read_all(["small", "large"], most=5)):
        with pytest.raises(DataError, match=said):
            read()


def test_an_error_has_the_key_the_class_and_the_address(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"^checkpoint\.folder=.*/file is a file: choose a folder or a URL$"):
        Folder(str(tmp_path / "file"), key="checkpoint.folder", kind=CheckpointError).entries()
    with pytest.raises(DataError, match=r"^.*/file/x cannot be written \(FileExistsError.*\): check the address"):
        Folder(str(tmp_path / "file")).write("x", b"")


def test_a_store_is_asked_again_and_a_disk_is_not(url, monkeypatch):
    monkeypatch.setattr("meap.places.folder._BACK_OFF", BackOff(attempts=3, first_wait=0.0))
    folder, tried = Folder(url), []
    folder.write("a", b"1")

    def fail(path: str, **_) -> bytes:
        tried.append(path)
        raise OSError(errno.EIO, "broken")

    filesystem, _ = fsspec.core.url_to_fs(url)
    monkeypatch.setattr(filesystem, "cat_file", fail)
    times = "" if folder.is_local else " after 3 attempts"
    with pytest.raises(
        DataError, match=rf"/a cannot be read{times} \(OSError: .*broken\): check the address"
    ) as failed:
        folder.read("a")
    assert len(tried) == (1 if folder.is_local else 3)
    assert isinstance(failed.value.__cause__, OSError)


def test_a_file_that_was_replaced_on_another_machine_is_opened_again(tmp_path, monkeypatch):
    monkeypatch.setattr("meap.places.folder._BACK_OFF", BackOff(attempts=3, first_wait=0.0))
    folder, stale = Folder(str(tmp_path)), [OSError(errno.ESTALE, "Stale file handle")] * 2
    folder.write("a", b"new")
    filesystem, _ = fsspec.core.url_to_fs(str(tmp_path))
    read = filesystem.cat_file

    def read_late(path: str, **which) -> bytes:
        if stale:
            raise stale.pop()
        return read(path, **which)

    monkeypatch.setattr(filesystem, "cat_file", read_late)
    assert folder.read("a") == b"new"
    stale[:] = [OSError(errno.ESTALE, "Stale file handle")] * 3
    with pytest.raises(DataError, match=r"/a cannot be read after 3 attempts \(OSError: .*Stale file handle\): check"):
        folder.read("a")


def test_a_mistake_of_ours_keeps_its_traceback(url, monkeypatch):
    folder = Folder(url)
    monkeypatch.setattr(fsspec.core.url_to_fs(url)[0], "cat_file", lambda path, **_: {}[path])
    with pytest.raises(KeyError):
        folder.read("a")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"no space left for .*/run \(12 bytes needed, [\d,]+ bytes free on its disk\): free space"),
        (errno.EFBIG, r"/run cannot be written \(File too large, 12 bytes\): raise the limit"),
    ],
)
def test_a_full_disk_is_found_behind_the_error_of_a_library(tmp_path, number, said):
    def write() -> None:
        try:
            raise OSError(number, "x")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    with (
        pytest.raises(CheckpointError, match=said),
        full_disk_errors(Path(tmp_path, "run"), num_bytes=12, kind=CheckpointError),
    ):
        write()
    with pytest.raises(ValueError, match="other"), full_disk_errors(tmp_path, num_bytes=12, kind=CheckpointError):
        raise ValueError("other")

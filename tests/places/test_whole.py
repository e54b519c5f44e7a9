"""A file or folder appears whole or not at all."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from meap.errors import DataError
from meap.places import whole
from meap.places.locks import lock_file, sole_writer
from meap.places.whole import (
    append_whole,
    named_file,
    remove_drafts,
    temporary_folder,
    whole_file,
    whole_files,
    whole_folder,
    write_whole,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail_halfway(writing: AbstractContextManager[Path], files: Callable[[Path], tuple[Path, ...]]) -> None:
    with writing as draft:
        for file in files(draft):
            file.write_bytes(b"ha")
        raise OSError("half")


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("one_writer", [False, True])
def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, durable, one_writer):
    path, options = tmp_path / "deep" / "file", {"durable": durable, "one_writer": one_writer}
    write_whole(path, b"first", **options)
    with pytest.raises(OSError, match="half"):
        fail_halfway(whole_file(path, **options), lambda draft: (draft, draft.with_name(f"{draft.name}.of-a-library")))
    assert contents(tmp_path) == {"deep/file": b"first"}
    write_whole(path, "zweite \N{LATIN SMALL LETTER U WITH DIAERESIS}", **options)
    assert contents(tmp_path) == {"deep/file": b"zweite \xc3\xbc"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ""),
        ("", ""),
        ("a\n", "a\n"),
        ('a\n{"torn', "a\n"),
        ("torn", ""),
        ("\n" + "torn" * 50_000, "\n"),
        ("a\n" * 50_000 + "t", "a\n" * 50_000),
    ],
    ids=["none", "empty", "whole", "torn", "first torn", "long and torn", "many and torn"],
)
def test_lines_are_appended_to_whole_lines(tmp_path, before, after):
    path = tmp_path / "deep" / "lines.jsonl"
    if before is not None:
        path.parent.mkdir()
        path.write_text(before)
    append_whole(path, "\N{LATIN SMALL LETTER U WITH DIAERESIS}\nc\n")
    append_whole(path, "")
    append_whole(path, "d\n")
    assert path.read_text("utf-8") == after + "\N{LATIN SMALL LETTER U WITH DIAERESIS}\nc\nd\n"


def test_lines_that_a_second_writer_appends_meanwhile_are_not_cut_off(tmp_path, monkeypatch):
    path, find = tmp_path / "log.txt", whole._end_of_whole_lines

    def find_slowly(*where: Any) -> int:
        end = find(*where)
        with path.open("a") as file:
            file.write("second\n")
        return end

    monkeypatch.setattr(whole, "_end_of_whole_lines", find_slowly)
    append_whole(path, "first\n")
    append_whole(path, "first\n")
    assert sorted(path.read_text().splitlines()) == ["first", "first", "second", "second"]


@pytest.mark.parametrize("one_writer", [False, True])
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_who_may_read_a_file_follows_from_the_user_s_umask(tmp_path, umask, one_writer):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", b"", one_writer=one_writer)
        os.close(lock_file(tmp_path / "lock") or 0)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "lock")} == {0o666 & ~umask}


def test_several_writers_do_not_meet(tmp_path):
    with whole_file(tmp_path / "file") as one:
        one.write_bytes(b"one")
        write_whole(tmp_path / "file", b"other")
        assert contents(tmp_path)["file"] == b"other"
    assert contents(tmp_path) == {"file": b"one"}


def test_of_several_writers_the_drafts_of_killed_ones_are_removed_and_those_of_others_are_not(tmp_path):
    path = tmp_path / "results[1].json"
    code = "import sys, time, pathlib; from meap.places.whole import whole_file\n"
    code += "with whole_file(pathlib.Path(sys.argv[1])) as draft:\n"
    code += "    draft.touch(); print(draft.name, flush=True); time.sleep(600)"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    killed, alive = (writer.stdout.readline().strip() for writer in writers if writer.stdout is not None)
    writers[0].kill()
    writers[0].communicate()
    (elsewhere := tmp_path / ".results[1].json.00000000-1-0a1b2c3d.partial").touch()  # of another machine
    write_whole(path, "all")
    assert killed != alive
    assert {each.name for each in tmp_path.iterdir()} == {path.name, alive, elsewhere.name}
    writers[1].kill()
    writers[1].communicate()


def test_what_a_killed_writer_left_is_overwritten_or_removed(tmp_path):
    (tmp_path / ".file.partial").write_bytes(b"a longer half")
    write_whole(tmp_path / "file", b"whole")
    (tmp_path / ".other.partial.3fA").touch()
    (tmp_path / "partial").touch()
    remove_drafts(tmp_path)
    assert contents(tmp_path) == {"file": b"whole", "partial": b""}


def test_files_come_together_with_the_record_last(tmp_path, monkeypatch):
    moved, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: moved.append(to.name) or replace(self, to))
    with whole_files(tmp_path, ["a", "record"]) as drafts:
        (drafts / "record").write_bytes(b"of a")
        (drafts / "a").write_bytes(b"a")
        assert not (tmp_path / "a").exists()
    assert moved == ["a", "record"]
    with pytest.raises(OSError, match="half"):
        fail_halfway(whole_files(tmp_path, ["a", "record"]), lambda drafts: (drafts / "a",))
    assert contents(tmp_path) == {"a": b"a", "record": b"of a"}


def test_a_temporary_folder_is_gone_also_if_a_signal_comes_while_it_is_made_or_removed(tmp_path, monkeypatch):
    make = Path.mkdir

    def make_interrupted(path: Path, **given: Any) -> None:
        make(path, **given)
        raise KeyboardInterrupt

    with temporary_folder("mine-", within=tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
        monkeypatch.setattr(Path, "mkdir", make_interrupted)
        with pytest.raises(KeyboardInterrupt), temporary_folder("other-", within=tmp_path):
            pytest.fail("it was not entered")
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert not list(tmp_path.iterdir())

    monkeypatch.undo()
    remove = os.rmdir

    def remove_interrupted(*given: Any, **named: Any) -> None:
        monkeypatch.setattr(os, "rmdir", remove)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), temporary_folder("third-", within=tmp_path):
        monkeypatch.setattr(os, "rmdir", remove_interrupted)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_whole_or_stays_as_it_was(tmp_path):
    for content in (b"first", b"second"):
        with whole_folder(tmp_path / "made") as draft:
            (draft / "file").write_bytes(content)
        assert contents(tmp_path) == {"made/file": content}
    with pytest.raises(OSError, match="half"):
        fail_halfway(whole_folder(tmp_path / "made"), lambda draft: (draft / "file",))
    assert contents(tmp_path) == {"made/file": b"second"}


SHORT_OF_FILES = """
import os, pathlib, resource, sys
from meap.places.whole import temporary_folder, whole_folder
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
folder = pathlib.Path(sys.argv[2])
with temporary_folder("made-", within=folder) if sys.argv[1] == "temporary" else whole_folder(folder / "made") as path:
    with temporary_folder("other-", within=folder):
        pass
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "er" / "file").touch()
    while True:
        os.open(os.devnull, os.O_RDONLY)
"""


@pytest.mark.parametrize("kind", ["temporary", "whole"])
def test_a_process_that_may_open_no_more_files_leaves_no_folder_behind(tmp_path, kind):
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_FILES, kind, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Too many open files" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_request_to_stop_between_two_renames_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    """What had been there was left under another name, and so was lost to whoever looked for it."""
    with whole_folder(tmp_path / "made") as draft:
        (draft / "file").write_text("first")
    rename = Path.rename

    def stop(path: Path, target: Path) -> Path:
        if path.name == ".made.partial":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "made") as draft:
            (draft / "file").write_text("second")
    assert contents(tmp_path) == {"made/file": b"first"}


WRITING = """
import pathlib, sys
from meap.places.whole import whole_folder
with whole_folder(pathlib.Path(sys.argv[1])) as draft:
    (draft / "theirs").touch()
    print(flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_writer_at_a_time_and_what_a_killed_one_left_is_removed(tmp_path):
    """A second export removed the folder that the first was still writing, which ended in a traceback."""
    other = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(tmp_path / "made")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"\n"
    told = "made is being written by another process: wait until that has ended, or choose another folder"
    with pytest.raises(DataError, match=told), whole_folder(tmp_path / "made"):
        pass
    assert contents(tmp_path) == {".made.partial/theirs": b""}
    other.kill()
    other.communicate()
    with whole_folder(tmp_path / "made") as draft:
        (draft / "ours").touch()
    assert contents(tmp_path) == {"made/ours": b""}


def test_a_link_to_a_folder_stays_and_what_it_stands_for_is_replaced(tmp_path):
    (tmp_path / "disk" / "made").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/made")
    with whole_folder(tmp_path / "link") as draft:
        (draft / "file").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "made").iterdir()] == ["file"]


@pytest.mark.parametrize("path", ["/proc/made", "link", "file/made"])
def test_a_folder_that_cannot_be_created_is_one_error(tmp_path, path):
    """The command tried it again and again, without end."""
    (tmp_path / "link").symlink_to("/proc/nowhere/made")
    (tmp_path / "file").touch()
    told = r"cannot be created \(.*\): choose another folder"
    with pytest.raises(DataError, match=told), whole_folder(tmp_path / path):
        pass
    with pytest.raises(DataError, match=told), sole_writer(tmp_path / path):
        pass


def test_what_fails_within_leaves_no_empty_folder_and_who_is_refused_no_other_s(tmp_path):
    folder = tmp_path / "made"

    def fail() -> None:
        with sole_writer(folder):
            with pytest.raises(DataError, match="is being written by another process"), sole_writer(folder):
                pass
            assert folder.is_dir()
            raise DataError("no such row")

    with pytest.raises(DataError, match="no such row"):
        fail()
    assert not folder.exists()


def test_writers_of_a_folder_that_meet_again_and_again_leave_one_of_theirs(tmp_path):
    others = [subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path / "made")]) for _ in range(3)]
    assert [each.wait(timeout=60) for each in others] == [0] * 3
    assert contents(tmp_path).keys() == {"made/file"}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


MANY = """
import os, pathlib, sys
from meap.errors import DataError
from meap.places.whole import whole_folder
made = 0
while made < 50:
    try:
        with whole_folder(pathlib.Path(sys.argv[1])) as draft:
            (draft / "file").write_text(str(os.getpid()))
            assert (draft / "file").read_text() == str(os.getpid())
    except DataError:
        continue
    made += 1
"""


def test_a_file_that_the_user_named_may_lie_in_a_new_folder(tmp_path):
    with named_file("html", tmp_path / "a/new/folder/page.html") as draft:
        draft.write_text("all")
    assert (tmp_path / "a/new/folder/page.html").read_text() == "all"


@pytest.mark.parametrize("name", ["folder/file/page.html", "folder", "n" * 300])
def test_a_file_that_the_user_named_is_one_error_with_the_option(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    with (
        pytest.raises(DataError, match=rf"^html=.*{name} cannot be written \(.*\): choose another path$"),
        named_file("html", tmp_path / name) as draft,
    ):
        draft.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]

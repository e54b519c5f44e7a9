"""A local file or folder appears whole or not at all: it is written beside its name, then renamed. So do lines."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from meap.errors import DataError
from meap.places.locks import sole_writer
from meap.processes import is_alive, visible_processes

__all__ = [
    "append_whole",
    "named_file",
    "remove_drafts",
    "temporary_folder",
    "whole_file",
    "whole_files",
    "whole_folder",
    "write_named",
    "write_whole",
]

_DRAFT = ".partial"
_FILES_TO_REMOVE = 4
"""Open at once while a folder is removed."""
_spare: list[int] = []
"""Files kept open for that: a process that may open no more of them must not leave its folders behind."""
_num_to_remove = 0
"""Folders that are going to be removed, one within the block of another."""
_BLOCK = 1 << 16
"""Bytes read at a time in search of the last whole line."""


@contextmanager
def whole_file(path: Path, *, durable: bool = False, one_writer: bool = False) -> Iterator[Path]:
    """Yield the path of a draft, which becomes `path` at the end of the block; an error removes it.

    Args:
        path: The file to write; its folder is created if needed.
        durable: Whether the file must survive a power cut: content and name are on the disk before this returns.
        one_writer: Whether no other process writes the same file at the same time. The draft then has one name, which
            the next writer overwrites; otherwise each has its own, and removes those of killed ones on this machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not one_writer:
        _remove_abandoned(path)
        # Not by tempfile, which lets the owner alone read: the user's umask decides that.
        draft = path.with_name(f".{path.name}.{visible_processes()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{_DRAFT}")
    else:
        draft = path.with_name(f".{path.name}{_DRAFT}")
    try:
        yield draft
        _move(draft, path, durable)
    except BaseException as error:
        with suppress(OSError):
            _remove_draft(draft)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a failed write does not say of which file
        raise


def write_whole(path: Path, content: bytes | str, *, durable: bool = False, one_writer: bool = False) -> None:
    """Write a file, all of it or nothing; text as UTF-8. See `whole_file` for the other arguments."""
    with whole_file(path, durable=durable, one_writer=one_writer) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def append_whole(path: Path, lines: str) -> None:
    """Append whole lines to a file, all of them or none; its folder is created if needed.

    A last line without its end, which a killed process has left, is cut off first: whoever reads the file meets whole
    lines only. One process at a time may append.

    Raises:
        OSError: The file cannot be written, or the disk is full; the file is as long as before, in whole lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = memoryview(lines.encode())
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        end = _end_of_whole_lines(file, size)
        try:
            if end < size:  # or lines would be lost that a second run in this folder writes now, until it is refused
                file.truncate(end)
            while content:
                content = content[file.write(content) :]
        except OSError as error:
            file.truncate(end)
            if error.filename is None:
                error.filename = str(path)  # a failed write does not say of which file
            raise


def _end_of_whole_lines(file: FileIO, end: int) -> int:
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        if (newline := file.read(end - start).rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0


@contextmanager
def whole_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to write files in, which are moved to `folder` in order at the end of the block.

    Args:
        folder: Folder of the files, created if needed.
        names: Names of all files; the one that vouches for the others comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".drafts-", within=folder) as drafts:
        yield drafts
        for name in names:
            Path(drafts, name).replace(folder / name)


@contextmanager
def temporary_folder(
    prefix: str, *, within: Path | None = None, shared: str | None = None, removes: bool = True
) -> Iterator[Path]:
    """Yield a new folder that is gone after the block, also if a signal comes while it is made or removed.

    `tempfile.TemporaryDirectory` leaves it in either case.

    Args:
        prefix: How its name begins.
        within: The folder to make it in; unset, that for temporary files.
        shared: How its name ends, where several processes share it.
        removes: Whether this process removes it, of those that do.
    """
    path = Path(within or tempfile.gettempdir(), prefix + (shared or uuid.uuid4().hex[:16]))
    with _room_to_remove():
        try:
            path.mkdir(mode=0o700, exist_ok=shared is not None)
            yield path
        finally:
            if removes:
                _remove_folder(path)


@contextmanager
def _room_to_remove() -> Iterator[None]:
    """Keep files open within, in whose place `_remove_folder` opens its own; also after a block within this one."""
    global _num_to_remove  # noqa: PLW0603
    _num_to_remove += 1
    try:
        _fill_spare()
        yield
    finally:
        _num_to_remove -= 1
        if _num_to_remove:
            with suppress(OSError):
                _fill_spare()
        else:
            _close_spare()


def _fill_spare() -> None:
    while len(_spare) < _FILES_TO_REMOVE:
        _spare.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _close_spare() -> None:
    while _spare:
        os.close(_spare.pop())


def _remove_folder(path: Path) -> None:
    _close_spare()
    try:
        shutil.rmtree(path, ignore_errors=True)
    except BaseException:  # by a signal
        shutil.rmtree(path, ignore_errors=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write in, which becomes `path` at the end of the block; an error leaves `path` as it was.

    Raises:
        DataError: Another process writes it now, or it cannot be created.
    """
    shown, path = path, path.resolve()  # what a link stands for is replaced, not the link
    draft, previous = path.with_name(f".{path.name}{_DRAFT}"), path.with_name(f".{path.name}.previous")
    with sole_writer(draft, of=shown), _room_to_remove():
        try:
            _empty(draft)  # of what a killed writer left
            yield draft
            shutil.rmtree(previous, ignore_errors=True)
            if path.exists():
                path.rename(previous)
            draft.rename(path)
        except BaseException:  # also by a signal between the two
            if previous.exists() and not path.exists():
                previous.rename(path)
            _remove_folder(draft)
            _remove_folder(previous)
            raise
        _remove_folder(previous)


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


@contextmanager
def named_file(key: str, path: Path) -> Iterator[Path]:
    """`whole_file` for a file that the user has named.

    Args:
        key: The key that names it, such as ``html``.
        path: The file; its folder is created if needed.

    Raises:
        DataError: It cannot be written.
    """
    try:
        with whole_file(path) as draft:
            yield draft
    except OSError as error:
        raise DataError(f"{key}={path} cannot be written ({error}): choose another path") from error


def remove_drafts(folder: Path) -> None:
    """Remove the drafts of killed writers from a folder that no process writes to."""
    for draft in folder.glob(f".*{_DRAFT}*"):
        draft.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of one file whose writers are gone; not those of writers that cannot be seen from here."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.{visible_processes()}-*{_DRAFT}"):
        writer = draft.name.removeprefix(f".{path.name}.").split("-")[1]
        if not is_alive(int(writer)):
            draft.unlink(missing_ok=True)


def _move(draft: Path, path: Path, durable: bool) -> None:
    if durable:
        _sync(draft)
    draft.replace(path)
    if durable:
        with suppress(OSError):  # some network file systems sync files only
            _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_draft(draft: Path) -> None:
    """Remove the draft, and files of longer names that libraries write while they download it."""
    for each in draft.parent.glob(f"{glob.escape(draft.name)}*"):
        each.unlink(missing_ok=True)


def write_named(key: str, path: Path, text: str) -> None:
    """`write_whole` for a file that the user has named, see `named_file`; what UTF-8 cannot encode is escaped."""
    with named_file(key, path) as draft:
        draft.write_bytes(text.encode(errors="backslashreplace"))

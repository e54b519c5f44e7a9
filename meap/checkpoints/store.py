"""A folder of checkpoints, local or behind a URL: list, verify, fetch, publish and delete them.

Nothing is trusted without its record, and nothing is taken for damaged because a store does not answer: the first would
continue from garbage, the second would throw work away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from meap.checkpoints.record import CheckpointFile, CheckpointRecord, describe_content, matches
from meap.errors import CheckpointError
from meap.storage import describe_error, is_url

__all__ = ["CheckpointStore", "DamagedError", "checkpoint_name", "full_disk_errors", "newest_record"]

ResultT = TypeVar("ResultT")

_RECORD = re.compile(r"ba(\d+)\.json")
_ANY = re.compile(r"ba(\d+)(\.pt|\.json)?")
_ATTEMPTS = 3
_WAIT_SECONDS = 0.5
"""Before the second attempt, doubled before the third; the libraries below have tried several times by then."""
_PARTIAL = ".partial"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedError(Exception):
    """A checkpoint, or its record, is not what was written; says what is wrong with it."""


def checkpoint_name(step: int) -> str:
    """What the names of a checkpoint's files begin with."""
    return f"ba{step}"


class CheckpointStore:
    """Checkpoints below a local folder or a URL.

    Args:
        location: ``checkpoint.folder``.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/") or location
        self.is_remote = is_url(location)

    def steps(self) -> list[int]:
        """Steps that have a record, newest first; empty where the folder does not exist.

        Raises:
            CheckpointError: The folder or store cannot be read.
        """
        return sorted((int(found[1]) for found in map(_RECORD.fullmatch, self._names()) if found), reverse=True)

    def record(self, step: int) -> CheckpointRecord:
        """The record of a step.

        Raises:
            DamagedError: It is missing or not whole.
            CheckpointError: The store cannot be read.
        """
        name = f"{checkpoint_name(step)}.json"
        try:
            record = CheckpointRecord.from_json(self._read(name))
        except FileNotFoundError as error:
            raise DamagedError(f"{name} is missing") from error
        except ValueError as error:
            raise DamagedError(f"{name} is damaged: {error}") from error
        if record.step != step:
            raise DamagedError(f"{name} is the record of step {record.step}")
        return record

    def fetch(self, record: CheckpointRecord, into: Path) -> Path:
        """Verify every byte of a checkpoint, downloading to `into` what is not there yet; returns its local path.

        Raises:
            DamagedError: A file is missing, or has another size or hash even after a second download.
            CheckpointError: The store cannot be read, or the disk is full.
        """
        if not self.is_remote:
            for file in record.files:
                _require_match(Path(self.location, file.name), file)
            return Path(self.location, record.name)
        for file in record.files:
            self._download(file, into / file.name)
        return into / record.name

    def require_sizes(self, record: CheckpointRecord) -> None:
        """Compare the sizes of a checkpoint's files, without reading them.

        Raises:
            DamagedError: A file is missing or has another size.
            CheckpointError: The store cannot be read.
        """
        for file in record.files:
            try:
                size = self._size(file.name)
            except FileNotFoundError as error:
                raise DamagedError(f"{file.name} is missing") from error
            if size != file.size:
                raise DamagedError(f"{file.name} has {size:,} bytes instead of {file.size:,}")

    def upload(self, names: Sequence[str], local: Path) -> None:
        """Copy files from `local`, whose names are as in a record, to the URL.

        Raises:
            CheckpointError: One could not be uploaded, after several attempts.
        """
        for name in names:
            self._try(lambda name=name: self._put(local / name, name), f"upload {name} to")

    def read(self, file: CheckpointFile) -> bytes:
        """A small file that checkpoints share.

        Raises:
            DamagedError: It is missing, or has another size or hash.
            CheckpointError: The store cannot be read.
        """
        try:
            content = self._read(file.name)
        except FileNotFoundError as error:
            raise DamagedError(f"{file.name} is missing") from error
        if describe_content(content, file.name) != file:
            raise DamagedError(f"{file.name} does not have the size and hash that were recorded")
        return content

    def share(self, contents: Mapping[CheckpointFile, bytes]) -> None:
        """Write small files that checkpoints share, unless they are there already.

        Raises:
            CheckpointError: One cannot be written.
        """
        for file, content in contents.items():
            if not self._has(file):
                self._write(file.name, content)

    def withdraw(self, step: int) -> None:
        """Remove a step's record, so that its files can be written anew."""
        self._remove(f"{checkpoint_name(step)}.json")

    def publish(self, record: CheckpointRecord) -> None:
        """Write the record: from now on the checkpoint counts."""
        self._write(f"{checkpoint_name(record.step)}.json", record.to_json())

    def _has(self, file: CheckpointFile) -> bool:
        try:
            self.read(file)
        except DamagedError:
            return False
        return True

    def _write(self, name: str, content: bytes) -> None:
        if self.is_remote:
            filesystem, root = self._open()
            self._try(lambda: filesystem.pipe_file(f"{root}/{name}", content), f"write {name} to")
            return
        path = Path(self.location, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}{_PARTIAL}")
        try:
            with full_disk_errors(self.location, needed=len(content)), partial.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)

    def prune(self, keep: int, *, newest: int) -> None:
        """Delete checkpoints before the last `keep` up to step `newest`, and what never got a record; -1 deletes none.

        A record goes first: a half-deleted checkpoint does not count.
        """
        if keep == -1:
            return
        names = self._names()
        recorded = sorted((step for step in self.steps() if step <= newest), reverse=True)
        self._delete(names, kept=recorded[:keep], newest=newest)

    def prune_copies(self, keep: int, *, newest: int) -> None:
        """Delete local copies, which need no record, before the last `keep` up to step `newest`; -1 deletes none."""
        if keep == -1:
            return
        names = self._names()
        steps = {int(found[1]) for found in map(_ANY.fullmatch, names) if found}
        self._delete(names, kept=sorted((step for step in steps if step <= newest), reverse=True)[:keep], newest=newest)

    def _delete(self, names: Sequence[str], *, kept: Sequence[int], newest: int) -> None:
        old = [found for found in map(_ANY.fullmatch, names) if found and int(found[1]) not in kept]
        for found in sorted(old, key=lambda each: each[2] != ".json"):
            if int(found[1]) <= newest:
                self._remove(found[0])

    def _names(self) -> list[str]:
        """Names directly below the folder; empty where it does not exist."""
        if not self.is_remote:
            folder = Path(self.location)
            if folder.exists() and not folder.is_dir():
                raise CheckpointError(f"checkpoint.folder={self.location} is a file: choose a folder or a URL")
            try:
                return [path.name for path in folder.iterdir()]
            except FileNotFoundError:
                return []
            except OSError as error:
                raise self._unreadable(error) from error

        def listed() -> list[str]:
            filesystem, root = self._open()
            filesystem.invalidate_cache()
            try:
                found = cast("list[str]", filesystem.ls(root, detail=False))
            except FileNotFoundError:
                # A store has no empty folders: what is not there may begin, but its bucket must be there.
                filesystem.info(root.split("/", 1)[0])
                return []
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in found]

        try:
            return self._try(listed, "look into")
        except FileNotFoundError as error:
            raise self._unreadable(error) from error

    def _read(self, name: str) -> bytes:
        if not self.is_remote:
            try:
                return Path(self.location, name).read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                raise self._unreadable(error) from error
        filesystem, root = self._open()
        return self._try(lambda: cast("bytes", filesystem.cat_file(f"{root}/{name}")), f"read {name} from")

    def _size(self, name: str) -> int:
        if not self.is_remote:
            return Path(self.location, name).stat().st_size
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        return self._try(lambda: int(filesystem.info(f"{root}/{name}")["size"]), f"look for {name} in")

    def _download(self, file: CheckpointFile, path: Path) -> None:
        if matches(path, file):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}{_PARTIAL}")
        filesystem, root = self._open()

        def get() -> None:
            with full_disk_errors(str(path.parent), needed=file.size):
                filesystem.get_file(f"{root}/{file.name}", str(partial))

        try:
            for _ in range(2):  # a transfer that went wrong heals, what is stored wrongly does not
                self._try(get, f"read {file.name} from")
                if matches(partial, file):
                    partial.replace(path)
                    return
            _require_match(partial, file)
        except FileNotFoundError as error:
            raise DamagedError(f"{file.name} is missing") from error
        finally:
            partial.unlink(missing_ok=True)

    def _put(self, path: Path, name: str) -> None:
        filesystem, root = self._open()
        filesystem.put_file(str(path), f"{root}/{name}")
        filesystem.invalidate_cache()
        stored, size = int(filesystem.info(f"{root}/{name}")["size"]), path.stat().st_size
        if stored != size:
            raise OSError(f"{stored} bytes arrived of {size}")

    def _remove(self, name: str) -> None:
        if not self.is_remote:
            path = Path(self.location, name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            return

        def remove() -> None:
            filesystem, root = self._open()
            filesystem.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm(f"{root}/{name}", recursive=True)

        self._try(remove, f"delete {name} in")

    def _try(self, act: Callable[[], ResultT], doing: str, *, attempt: int = 1) -> ResultT:
        """Do it, up to three times; what is not there stays a FileNotFoundError."""
        try:
            return act()
        except (CheckpointError, FileNotFoundError):
            raise
        except Exception as error:
            # Every library has its own errors. Some never heal.
            is_final = isinstance(error, (PermissionError, ImportError)) or "Credentials" in type(error).__name__
            if is_final or attempt == _ATTEMPTS:
                raise self._unreadable(error, doing, attempt=attempt) from error
        time.sleep(_WAIT_SECONDS * 2 ** (attempt - 1))
        return self._try(act, doing, attempt=attempt + 1)

    def _open(self) -> tuple[Any, str]:
        import fsspec

        try:
            filesystem, root = fsspec.core.url_to_fs(self.location)
        except Exception as error:
            raise self._unreadable(error) from error
        return filesystem, str(root).rstrip("/")

    def _unreadable(self, error: BaseException, doing: str = "look into", *, attempt: int = 1) -> CheckpointError:
        tried = f" after {attempt} attempts" if attempt > 1 else ""
        return CheckpointError(
            f"cannot {doing} checkpoint.folder={self.location}{tried} ({describe_error(error)}): "
            "check the address, the credentials and the network, then run the same command again"
        )


def _require_match(path: Path, file: CheckpointFile) -> None:
    if not path.is_file():
        raise DamagedError(f"{file.name} is missing")
    if (size := path.stat().st_size) != file.size:
        raise DamagedError(f"{file.name} has {size:,} bytes instead of {file.size:,}")
    if not matches(path, file):
        raise DamagedError(f"{file.name} does not have the hash that was recorded")


@contextlib.contextmanager
def full_disk_errors(place: str, *, needed: int) -> Iterator[None]:
    """Turn a full disk into one `CheckpointError` that names the place.

    Args:
        place: A folder, which another rank may still have to make.
        needed: Bytes that are about to be written there.
    """
    there = next(each for each in (Path(place), *Path(place).absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    try:
        yield
    except Exception as error:
        # torch answers a failed write with another of its own, about positions in its file.
        chain = (error, error.__cause__, error.__context__)
        full = next((each for each in chain if isinstance(each, OSError) and each.errno in _DISK_FULL), None)
        if full is None:
            raise
        raise CheckpointError(
            f"cannot write {needed:,} bytes to {place} ({full.strerror}; {free:,} were free): free space or choose "
            "another disk"
        ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def newest_record(folder: str) -> CheckpointRecord | None:
    """The newest record that can be read, whether or not its files are whole.

    Raises:
        CheckpointError: The folder or store cannot be read.
    """
    store = CheckpointStore(folder)
    for step in store.steps():
        with contextlib.suppress(DamagedError):
            return store.record(step)
    return None

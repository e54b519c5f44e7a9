"""Files below a folder, here or in a store: read, list, write whole, delete; one error for each way this can fail."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from meap.back_off import BackOff, GaveUpError
from meap.errors import DataError, MeapError
from meap.extras import require_filesystem
from meap.json_text import MOST_BYTES, RESTORE, too_large
from meap.places.problems import (
    code_of,
    full_disk_errors,
    is_permanent,
    is_refused,
    is_stale,
    place_errors,
)
from meap.places.whole import whole_file, write_whole

__all__ = ["Folder", "open_filesystem"]

ResultT = TypeVar("ResultT")

_EXISTS = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_NOT_CONDITIONAL = {"501", "NotImplemented"}
_EMPTY = {"416", "InvalidRange"}
_BACK_OFF = BackOff(attempts=3, first_wait=0.5)
"""Few attempts, since s3fs and botocore retry, too."""


def open_filesystem(location: str, *, shown: str = "", kind: type[MeapError] = DataError) -> tuple[Any, str]:
    """The file system behind `location` and the path in it.

    Args:
        location: Path or URL.
        shown: Name for errors, if not `location`.
        kind: The class of errors.
    """
    require_filesystem(location)
    with place_errors(shown or location, kind=kind):
        return cast("tuple[AbstractFileSystem, str]", url_to_fs(location))


class Folder:
    """Files below a folder or URL. Names are relative and use ``/``; every write appears whole or not at all.

    Operations on a store are retried for a while; an error of a local disk is raised at once, but for a stale handle of
    a network file system.

    Args:
        url: Path or URL.
        key: Key of the configuration that names it, for errors.
        kind: The class of errors.
    """

    def __init__(self, url: str, *, key: str = "", kind: type[MeapError] = DataError) -> None:
        self.url = url.rstrip("/") or url
        self._key = key
        self._kind = kind

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file systems."""
        return isinstance(self._open()[0], LocalFileSystem)

    def local_path(self, name: str = "") -> Path:
        """Path of `name`; only for a local folder."""
        filesystem, root = self._open()
        assert isinstance(filesystem, LocalFileSystem)
        return Path(root) / name

    def url_of(self, name: str) -> str:
        """`name` as stored and shown to users."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    def require_bucket(self) -> None:
        """Raise unless a remote folder's bucket exists, which a write might create."""
        if not self.is_local:
            self._do(lambda filesystem, root: filesystem.info(root.split("/", 1)[0]), cannot_be="listed")

    def require_writable(self) -> None:
        """Write and remove a tiny file, creating the folder if needed; raise if that fails."""
        name = f".meap-can-write-{uuid.uuid4().hex[:8]}"

        def write(filesystem: AbstractFileSystem, root: str) -> None:
            if isinstance(filesystem, LocalFileSystem):
                Path(root).mkdir(parents=True, exist_ok=True)
            try:
                filesystem.pipe_file(f"{root}/{name}", b"meap")
                filesystem.rm_file(f"{root}/{name}")
            except BaseException as error:
                if not isinstance(error, Exception):  # a signal: the store has it, perhaps, and has not answered yet
                    with suppress(Exception):
                        filesystem.rm_file(f"{root}/{name}")
                raise

        self._do(write, cannot_be="written")

    def entries(self) -> list[str]:
        """Names directly below the folder; empty where it does not exist."""
        return sorted(self._listed())

    def subfolders(self) -> list[str]:
        """Names of the folders directly below the folder; empty where it does not exist."""
        return sorted(name for name, is_folder in self._listed().items() if is_folder)

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Bytes of each file directly below `subfolder`, by name."""
        found = self._do(
            lambda filesystem, root: cast(
                "dict[str, Any]", filesystem.find(f"{root}/{subfolder}", maxdepth=1, detail=True)
            ),
            subfolder,
            cannot_be="listed",
        )
        return {path.rsplit("/", 1)[-1]: int(info["size"]) for path, info in found.items()}

    def matching(self, pattern: str) -> dict[str, int]:
        """Bytes of each file that a glob below the folder matches, by name."""

        def match(filesystem: AbstractFileSystem, root: str) -> dict[str, int]:
            found = cast("dict[str, Any]", filesystem.glob(f"{glob.escape(root)}/{pattern}", detail=True))
            return {path[len(root) + 1 :]: int(info["size"]) for path, info in found.items() if info["type"] == "file"}

        return self._do(match, pattern, cannot_be="listed")

    def exists(self, name: str = "") -> bool:
        """Whether a file, or the folder itself, exists."""

        def look(filesystem: AbstractFileSystem, root: str) -> bool:
            path = f"{root}/{name}" if name else root
            if not isinstance(filesystem, LocalFileSystem):
                return bool(filesystem.exists(path))
            try:
                Path(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

        return self._do(look, name, cannot_be="read")

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it does not exist."""

        def look(filesystem: AbstractFileSystem, root: str) -> int | None:
            with suppress(FileNotFoundError):
                return int(filesystem.info(f"{root}/{name}")["size"])
            return None

        return self._do(look, name, cannot_be="read")

    def read(self, name: str, *, most: int = MOST_BYTES) -> bytes | None:
        """Content of a file of at most `most` bytes, of which no more are read; None if it does not exist."""

        def read(filesystem: AbstractFileSystem, root: str) -> bytes | None:
            return self._read(filesystem, root, name, most)

        return self._do(read, name, cannot_be="read")

    def read_all(self, names: Sequence[str], *, most: int = MOST_BYTES) -> dict[str, bytes]:
        """Content of those of `names` that exist, as `read` gives it; remote files are fetched concurrently."""

        def read(filesystem: AbstractFileSystem, root: str) -> dict[str, bytes]:
            if isinstance(filesystem, LocalFileSystem):
                contents = [self._read(filesystem, root, name, most) for name in names]
            else:
                paths = [f"{root}/{name}" for name in names]
                answers = cast("list[Any]", filesystem.cat_ranges(paths, 0, most + 1)) if paths else []
                contents = [
                    self._within(filesystem, root, name, answer, most)
                    for name, answer in zip(names, answers, strict=True)
                ]
            return {name: content for name, content in zip(names, contents, strict=True) if content is not None}

        return self._do(read, cannot_be="read")

    def download(self, name: str, path: Path, *, num_bytes: int) -> bool:
        """Copy a file to a local path; False if it does not exist."""

        def get(filesystem: AbstractFileSystem, root: str) -> bool:
            try:
                with full_disk_errors(path.parent, num_bytes=num_bytes, kind=self._kind):
                    filesystem.get_file(f"{root}/{name}", str(path))
            except FileNotFoundError:
                return False
            return True

        return self._do(get, name, cannot_be="read")

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file here; its size is checked."""
        size = path.stat().st_size
        if self.is_local:
            with (
                place_errors(self._shown(name), cannot_be="written", kind=self._kind, num_bytes=size),
                whole_file(self.local_path(name), durable=True, one_writer=True) as draft,
            ):
                shutil.copyfile(path, draft)
            return

        def put(filesystem: AbstractFileSystem, root: str) -> None:
            filesystem.put_file(str(path), f"{root}/{name}")
            _require_size(filesystem, f"{root}/{name}", size)

        self._do(put, name, cannot_be="written")

    def write(self, name: str, content: bytes) -> None:
        """Write a file; the size of a remote one is checked."""

        def write(filesystem: AbstractFileSystem, root: str) -> None:
            if isinstance(filesystem, LocalFileSystem):
                write_whole(Path(root, name), content, durable=True, one_writer=True)
                return
            filesystem.pipe_file(f"{root}/{name}", content)
            _require_size(filesystem, f"{root}/{name}", len(content))

        self._do(write, name, cannot_be="written", num_bytes=len(content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless it exists; False if it does. Some stores write it all the same."""

        def create(filesystem: AbstractFileSystem, root: str) -> bool:
            if isinstance(filesystem, LocalFileSystem):
                with suppress(FileExistsError), Path(root, name).open("xb") as file:
                    file.write(content)
                    return True
                return False
            if "s3" not in filesystem.protocol:
                filesystem.pipe_file(f"{root}/{name}", content)
                return True
            try:
                filesystem.pipe_file(f"{root}/{name}", content, mode="create")
            except (FileExistsError, OSError) as error:
                code = code_of(error)
                if isinstance(error, FileExistsError) or code in _EXISTS:
                    return False
                if code not in _NOT_CONDITIONAL:
                    raise
                filesystem.pipe_file(f"{root}/{name}", content)
            return True

        return self._do(create, name, cannot_be="written")

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with its contents, if it exists."""

        def remove(filesystem: AbstractFileSystem, root: str) -> None:
            path = f"{root}/{name}".rstrip("/")
            if not isinstance(filesystem, LocalFileSystem):
                with suppress(FileNotFoundError):
                    filesystem.rm(path, recursive=True)
            while isinstance(filesystem, LocalFileSystem) and os.path.lexists(path):
                with suppress(FileNotFoundError):  # another process removes it, too
                    filesystem.rm(path, recursive=True)

        self._do(remove, name, cannot_be="removed")

    def _read(self, filesystem: AbstractFileSystem, root: str, name: str, most: int) -> bytes | None:
        path = f"{root}/{name}"
        if (size := _size_here(filesystem, path)) > most:
            raise self._too_large(name, size, most)
        try:
            answer: Any = filesystem.cat_file(path, start=0, end=most + 1)
        except Exception as error:  # noqa: BLE001 - `_within` raises it
            answer = error
        return self._within(filesystem, root, name, answer, most)

    def _within(self, filesystem: AbstractFileSystem, root: str, name: str, answer: Any, most: int) -> bytes | None:
        """The content of a file, of which a store was asked for one byte more than allowed, whatever it has declared.

        Args:
            filesystem: The file system.
            root: The folder's path in it.
            name: The file.
            answer: What was read, or an error.
            most: Bytes that are allowed.
        """
        if isinstance(answer, FileNotFoundError):
            return None
        if isinstance(answer, BaseException):
            if code_of(answer) in _EMPTY:
                return b""
            raise answer
        if len(answer) > most:
            raise self._too_large(name, max(len(answer), int(filesystem.info(f"{root}/{name}")["size"])), most)
        return cast("bytes", answer)

    def _too_large(self, name: str, size: int, most: int) -> MeapError:
        return self._kind(f"{self._shown(name)} is refused, since {too_large(size, most)}: {RESTORE}")

    def _listed(self) -> dict[str, bool]:
        """Names directly below the folder, and whether each is a folder."""

        def listed(filesystem: AbstractFileSystem, root: str) -> dict[str, bool]:
            try:
                if isinstance(filesystem, LocalFileSystem):
                    with os.scandir(root) as found:
                        return {each.name: each.is_dir() for each in found}
                infos = cast("list[dict[str, Any]]", filesystem.ls(root, detail=True))
            except FileNotFoundError:
                return {}
            except NotADirectoryError as error:
                raise self._kind(f"{self._shown()} is a file: choose a folder or a URL") from error
            below = [each for each in infos if each["name"].strip("/") != root.strip("/")]
            return {each["name"].rstrip("/").rsplit("/", 1)[-1]: each["type"] == "directory" for each in below}

        return self._do(listed, cannot_be="listed")

    def _do(
        self,
        act: Callable[[AbstractFileSystem, str], ResultT],
        name: str = "",
        *,
        cannot_be: str,
        num_bytes: int | None = None,
    ) -> ResultT:
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with place_errors(self._shown(name), cannot_be=cannot_be, kind=self._kind, num_bytes=num_bytes):
            if isinstance(filesystem, LocalFileSystem):
                return _BACK_OFF.run(lambda: act(filesystem, root), is_final=lambda error: not is_stale(error))
            try:
                return _BACK_OFF.run(lambda: act(filesystem, root), is_final=is_permanent)
            except GaveUpError as gave_up:
                if not is_refused(gave_up.error):
                    raise
            # Those that hold for an hour may have been renewed, and only a new client reads them.
            type(filesystem).clear_instance_cache()
            again, _ = self._open()
            return _BACK_OFF.run(lambda: act(again, root), is_final=is_permanent)

    def _shown(self, name: str = "") -> str:
        return f"{self._key}={self.url_of(name)}" if self._key else self.url_of(name)

    def _open(self) -> tuple[AbstractFileSystem, str]:
        # fsspec caches file systems per process: holding none keeps this object picklable.
        filesystem, root = open_filesystem(self.url, shown=self._shown(), kind=self._kind)
        return filesystem, root.rstrip("/") or root


def _size_here(filesystem: AbstractFileSystem, path: str) -> int:
    """Bytes of a local file; 0 where there is none. In a store this would take a request more."""
    with suppress(OSError):  # reading it says what is wrong
        if isinstance(filesystem, LocalFileSystem):
            return Path(path).stat().st_size
    return 0


def _require_size(filesystem: AbstractFileSystem, path: str, size: int) -> None:
    filesystem.invalidate_cache()
    stored = int(filesystem.info(path)["size"])
    if stored != size:
        raise OSError(f"{stored} bytes arrived of {size}")

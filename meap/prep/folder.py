"""The folder that preparation writes to, local or remote, with atomic writes and one error for each way it can fail."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from meap.errors import DataError, MeapError
from meap.extras import require_filesystem
from meap.storage import describe_error, describe_full_disk, is_full_disk

__all__ = ["OutputFolder", "open_filesystem", "storage_errors"]

_UPLOAD_ATTEMPTS = 3
_UPLOAD_WAIT_SECONDS = 0.5
"""Before the second attempt, doubled before each further one; s3fs and botocore have tried several times by then."""
_OUR_MISTAKES = (AssertionError, AttributeError, LookupError, NameError, TypeError)
"""No file system raises these unless the program is wrong; they keep their traceback."""


@contextmanager
def storage_errors(location: str, *, num_bytes: int | None = None) -> Iterator[None]:
    """Turn whatever a file system raises into one `DataError` that names `location` and the remedy, without secrets.

    Args:
        location: Path or URL.
        num_bytes: What is to be written there, for the message that there is no space for it.
    """
    try:
        yield
    except (MeapError, *_OUR_MISTAKES):
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{location} does not exist, or its bucket does not: check the spelling or create it"
        ) from error
    except PermissionError as error:
        raise DataError(
            f"{location}: access denied ({describe_error(error)}): check the permissions, or the credentials in the "
            "environment"
        ) from error
    except Exception as error:
        if is_full_disk(error):
            place = cast("str | None", getattr(error, "filename", None)) or location
            raise DataError(
                f"{describe_full_disk(place, num_bytes=num_bytes)}: free space and run the same command again"
            ) from error
        if "Credentials" in type(error).__name__:
            raise DataError(
                f"{location}: no credentials found ({describe_error(error)}): set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        if isinstance(error, ImportError):
            raise DataError(
                f"{location}: a package for this kind of URL is missing ({describe_error(error)})"
            ) from error
        raise DataError(
            f"{location} cannot be used ({describe_error(error)}): run the same command again to retry"
        ) from error


def open_filesystem(location: str) -> tuple[AbstractFileSystem, str]:
    """The file system behind `location` and the path in it."""
    require_filesystem(location)
    with storage_errors(location):
        return cast("tuple[AbstractFileSystem, str]", url_to_fs(location))


class OutputFolder:
    """Files below a folder or URL. Names are relative and use ``/``; every write appears whole or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or url

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
        """`name` as shown to users."""
        return f"{self.url}/{name}"

    def require_bucket(self) -> None:
        """Raise `DataError` unless a remote folder's bucket is there: a mere write may otherwise create it."""
        filesystem, root = self._open()
        if not isinstance(filesystem, LocalFileSystem):
            with storage_errors(self.url):
                filesystem.info(root.split("/", 1)[0])

    def entries(self) -> list[str]:
        """Names directly below the folder; empty where it does not exist."""
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with storage_errors(self.url):
            try:
                listed = cast("list[str]", filesystem.ls(root, detail=False))
            except FileNotFoundError:
                return []
            except NotADirectoryError as error:
                raise DataError(f"{self.url} is a file: choose a folder as remote") from error
            if isinstance(filesystem, LocalFileSystem) and Path(root).is_file():
                raise DataError(f"{self.url} is a file: choose a folder as remote")
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in listed if path.strip("/") != root.strip("/")})

    def subfolders(self) -> list[str]:
        """Names of the folders directly below the folder; empty where it does not exist."""
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with storage_errors(self.url):
            try:
                listed = cast("list[dict[str, Any]]", filesystem.ls(root, detail=True))
            except FileNotFoundError:
                return []
        return sorted(each["name"].rstrip("/").rsplit("/", 1)[-1] for each in listed if each["type"] == "directory")

    def sizes(self, subfolder: str) -> dict[str, int]:
        """Bytes of each file directly below `subfolder`, by name."""
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with storage_errors(self.url_of(subfolder)):
            found = cast("dict[str, Any]", filesystem.find(f"{root}/{subfolder}", maxdepth=1, detail=True))
        return {path.rsplit("/", 1)[-1]: int(info["size"]) for path, info in found.items()}

    def matching(self, pattern: str) -> dict[str, int]:
        """Bytes of each file that a glob below the folder matches, by name."""
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with storage_errors(self.url_of(pattern)):
            found = cast("dict[str, Any]", filesystem.glob(f"{glob.escape(root)}/{pattern}", detail=True))
        return {path[len(root) + 1 :]: int(info["size"]) for path, info in found.items() if info["type"] == "file"}

    def read(self, name: str) -> bytes | None:
        """Content of a file, or None where there is none."""
        return self.read_all([name]).get(name)

    def read_all(self, names: list[str]) -> dict[str, bytes]:
        """Content of those of `names` that exist; remote ones are fetched at the same time."""
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with storage_errors(self.url):
            paths = [f"{root}/{name}" for name in names]
            found = cast("dict[str, Any]", filesystem.cat(paths, on_error="return")) if paths else {}
            for content in found.values():
                if isinstance(content, BaseException) and not isinstance(content, FileNotFoundError):
                    raise content
        by_name = {path[len(root) + 1 :]: content for path, content in found.items()}
        return {name: content for name, content in by_name.items() if isinstance(content, bytes)}

    def write(self, name: str, content: bytes) -> None:
        """Write a file; a remote one is tried again for a while, and its size is checked."""
        filesystem, root = self._open()
        with storage_errors(self.url_of(name), num_bytes=len(content)):
            if not isinstance(filesystem, LocalFileSystem):
                self._upload(name, content)
                return
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Always the same name: what a killed command has left, the next one overwrites and moves.
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(content)
            _move(partial, path)

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        filesystem, root = self._open()
        filesystem.invalidate_cache()
        with storage_errors(self.url_of(name)), suppress(FileNotFoundError):
            filesystem.rm(f"{root}/{name}".rstrip("/"), recursive=True)

    def _upload(self, name: str, content: bytes) -> None:
        attempt = 1
        while (error := self._try_to_upload(name, content)) is not None:
            is_final = isinstance(error, (FileNotFoundError, PermissionError)) or "Credentials" in type(error).__name__
            if is_final:
                raise error
            if attempt == _UPLOAD_ATTEMPTS:
                raise OSError(f"{attempt} attempts; {type(error).__name__}: {error}") from error
            time.sleep(_UPLOAD_WAIT_SECONDS * 2 ** (attempt - 1))
            attempt += 1

    def _try_to_upload(self, name: str, content: bytes) -> Exception | None:
        filesystem, root = self._open()
        try:
            filesystem.pipe_file(f"{root}/{name}", content)
            filesystem.invalidate_cache()
            stored = int(filesystem.info(f"{root}/{name}")["size"])
        except Exception as error:  # noqa: BLE001 (each library has its own)
            return error
        return None if stored == len(content) else OSError(f"{stored} bytes arrived of {len(content)}")

    def _open(self) -> tuple[AbstractFileSystem, str]:
        # fsspec keeps its file systems, one per process: nothing to hold, nothing to pickle.
        filesystem, root = open_filesystem(self.url)
        return filesystem, root.rstrip("/") or root


def _move(file: Path, path: Path) -> None:
    """Rename within a file system, so that `path` holds the whole content even after a power cut."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    file.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

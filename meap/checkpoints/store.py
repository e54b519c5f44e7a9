"""A folder of checkpoints, local or behind a URL: list, verify, fetch, publish and delete them.

A checkpoint without its record is never used: a run could resume from garbage. A store that does not answer never makes
a checkpoint count as damaged: work would be thrown away.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from meap.checkpoints.record import CheckpointFile, CheckpointRecord, describe_content, matches
from meap.errors import CheckpointError
from meap.places.addresses import is_url
from meap.places.folder import Folder
from meap.places.whole import whole_file

__all__ = ["CheckpointStore", "DamagedError", "MissingError", "checkpoint_name", "newest_record"]

_RECORD = re.compile(r"ba(\d+)\.json")
_ANY = re.compile(r"ba(\d+)(\.pt|\.json)?")


class DamagedError(Exception):
    """A checkpoint or its record is missing or differs from what was written; the message says how."""


class MissingError(DamagedError):
    """A checkpoint's file, or its record, is not there."""


def checkpoint_name(step: int) -> str:
    """The prefix of the names of a checkpoint's files."""
    return f"ba{step}"


class CheckpointStore:
    """Checkpoints below a local folder or a URL.

    Args:
        location: ``checkpoint.folder``, or another folder of checkpoints.
        key: Key of the configuration that names it, for errors.
    """

    def __init__(self, location: str, *, key: str = "checkpoint.folder") -> None:
        self.is_remote = is_url(location)
        expanded = str(Path(location).expanduser()) if location.startswith("~") else location
        self.location = expanded.rstrip("/") or expanded
        self._folder = Folder(self.location, key=key, kind=CheckpointError)

    def require_writable(self) -> None:
        """Write a tiny file where checkpoints will go, and remove it again.

        Raises:
            CheckpointError: That fails.
        """
        self._folder.require_writable()

    def steps(self) -> list[int]:
        """Steps that have a record, newest first; empty where the folder does not exist.

        Raises:
            CheckpointError: The folder or store cannot be read.
        """
        return sorted((int(found[1]) for found in map(_RECORD.fullmatch, self._names()) if found), reverse=True)

    def holds(self, step: int) -> bool:
        """Whether anything of a step is there, be it without its record.

        Raises:
            CheckpointError: The folder or store cannot be read.
        """
        return any(int(found[1]) == step for found in map(_ANY.fullmatch, self._names()) if found)

    def record(self, step: int) -> CheckpointRecord:
        """The record of a step.

        Raises:
            DamagedError: It is missing or damaged.
            CheckpointError: The store cannot be read.
        """
        name = f"{checkpoint_name(step)}.json"
        content = self._folder.read(name)
        if content is None:
            raise MissingError(f"{name} is missing")
        try:
            record = CheckpointRecord.from_json(content)
        except ValueError as error:
            raise DamagedError(f"{name} is damaged: {error}") from error
        if record.step != step:
            raise DamagedError(f"{name} is the record of step {record.step}")
        return record

    def fetch(self, record: CheckpointRecord, into: Path) -> Path:
        """Verify every byte of a checkpoint, downloading missing files to `into`; return its local path.

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
            size = self._folder.size(file.name)
            if size is None:
                raise MissingError(f"{file.name} is missing")
            if size != file.size:
                raise DamagedError(f"{file.name} has {size:,} bytes instead of {file.size:,}")

    def upload(self, names: Sequence[str], local: Path) -> None:
        """Upload files from `local` under their names in the record.

        Raises:
            CheckpointError: One could not be uploaded, after several attempts.
        """
        for name in names:
            self._folder.upload(local / name, name)

    def read(self, file: CheckpointFile) -> bytes:
        """Content of a small file that checkpoints share.

        Raises:
            DamagedError: It is missing, or has another size or hash.
            CheckpointError: The store cannot be read.
        """
        content = self._folder.read(file.name)
        if content is None:
            raise MissingError(f"{file.name} is missing")
        if describe_content(content, file.name) != file:
            raise DamagedError(f"{file.name} does not have the size and hash that were recorded")
        return content

    def share(self, contents: Mapping[CheckpointFile, bytes]) -> None:
        """Write small files that checkpoints share, unless they exist.

        Raises:
            CheckpointError: One cannot be written.
        """
        for file, content in contents.items():
            if not self._has(file):
                self._folder.write(file.name, content)

    def withdraw(self, step: int) -> None:
        """Remove a step's record, so that its files can be written again."""
        self._folder.remove(f"{checkpoint_name(step)}.json")

    def publish(self, record: CheckpointRecord) -> None:
        """Write the record: from now on the checkpoint counts."""
        self._folder.write(f"{checkpoint_name(record.step)}.json", record.to_json())

    def _has(self, file: CheckpointFile) -> bool:
        try:
            self.read(file)
        except DamagedError:
            return False
        return True

    def prune(self, keep: int, *, newest: int) -> None:
        """Delete all up to step `newest` but the last `keep` checkpoints, also files without a record; -1 deletes none.

        The record is deleted first: a half-deleted checkpoint does not count.
        """
        if keep == -1:
            return
        names = self._names()
        recorded = sorted((step for step in self.steps() if step <= newest), reverse=True)
        self._delete(names, kept=recorded[:keep], newest=newest)

    def prune_copies(self, keep: int, *, newest: int) -> None:
        """Delete all up to step `newest` but the last `keep` local copies, which need no record; -1 deletes none."""
        if keep == -1:
            return
        names = self._names()
        steps = {int(found[1]) for found in map(_ANY.fullmatch, names) if found}
        self._delete(names, kept=sorted((step for step in steps if step <= newest), reverse=True)[:keep], newest=newest)

    def _delete(self, names: Sequence[str], *, kept: Sequence[int], newest: int) -> None:
        old = [found for found in map(_ANY.fullmatch, names) if found and int(found[1]) not in kept]
        for found in sorted(old, key=lambda each: each[2] != ".json"):
            if int(found[1]) <= newest:
                self._folder.remove(found[0])

    def _names(self) -> list[str]:
        """Names directly below the folder; empty where it does not exist."""
        names = self._folder.entries()
        if not names:
            # A store has no empty folders: a missing one may be new, but its bucket must exist.
            self._folder.require_bucket()
        return names

    def _download(self, file: CheckpointFile, path: Path) -> None:
        if matches(path, file):
            return
        with whole_file(path) as draft:  # nodes may share the disk, and fetch at the same time
            for _ in range(2):  # a second transfer may repair a failed one, but no damaged file
                if not self._folder.download(file.name, draft, num_bytes=file.size):
                    raise MissingError(f"{file.name} is missing")
                if matches(draft, file):
                    break
            _require_match(draft, file)


def _require_match(path: Path, file: CheckpointFile) -> None:
    if not path.is_file():
        raise MissingError(f"{file.name} is missing")
    if (size := path.stat().st_size) != file.size:
        raise DamagedError(f"{file.name} has {size:,} bytes instead of {file.size:,}")
    if not matches(path, file):
        raise DamagedError(f"{file.name} does not have the hash that was recorded")


def newest_record(folder: str, *, key: str = "checkpoint.folder") -> CheckpointRecord | None:
    """The newest record that can be read, whether or not its files are whole.

    Raises:
        CheckpointError: The folder or store cannot be read.
    """
    store = CheckpointStore(folder, key=key)
    for step in store.steps():
        with contextlib.suppress(DamagedError):
            return store.record(step)
    return None

"""One checkpoint on its way: written, moved into place, uploaded where it goes to a URL, and published last of all.

All of it happens in a thread beside training: a process would need a minute to start, and could outlive the run.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch.distributed
from composer.utils import dist

from meap.checkpoints import CheckpointFile, CheckpointRecord, CheckpointStore
from meap.config import RecipeConfig
from meap.errors import CheckpointError, MeapError, first_line
from meap.train.checkpoints.writing import STAGING_NAME

__all__ = ["ConflictingRunError", "Destination", "Save"]

ResultT = TypeVar("ResultT")


class ConflictingRunError(CheckpointError):
    """Another run saves in the same place."""


@dataclass
class Destination:
    """Where the checkpoints of a run go, and what its saves share."""

    config: RecipeConfig
    folder: Path
    """Folder on this machine: `checkpoint.folder`, or copies of what is behind a URL."""
    unstored: dict[CheckpointFile, bytes]
    """Files that all checkpoints share and that are not known to be stored yet, with their contents."""
    known: set[int] = dataclasses.field(default_factory=set[int])
    """Steps of checkpoints that were there before, or are this run's own."""
    group: Any = None
    """The ranks that save, connected over CPUs; None where rank 0 saves alone."""


class Save:
    """One checkpoint on its way.

    Args:
        destination: Where it goes.
        record: What it is; its files are added here.
        write: Writes this rank's files; None where they are on the disk already.
        unpublished: Checkpoints that could not be uploaded before, oldest first.
    """

    def __init__(
        self,
        destination: Destination,
        record: CheckpointRecord,
        write: Callable[[], list[CheckpointFile]] | None,
        unpublished: list[CheckpointRecord],
    ) -> None:
        self.failure = ""
        """Why the checkpoint is not on this machine's disk."""
        self.warning = ""
        """Why it is not in the store."""
        self.unpublished = unpublished
        """Whole on the local disk, but not in the store, oldest first."""
        self._destination = destination
        self._record = record
        self._write = write
        self._store = CheckpointStore(destination.config.checkpoint.folder)
        self._folder = destination.folder
        self._local = CheckpointStore(str(destination.folder))
        # Where the process fails, nobody waits for this thread.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Return when it is done, with or without success, or when the time is over."""
        self._thread.join(seconds)

    def again(self) -> Save:
        """Another attempt to upload what is on the disk already."""
        return Save(self._destination, self._record, None, self.unpublished)

    def _run(self) -> None:
        try:
            if self._write is not None:
                self._put_in_place(self._write)
        except BaseException as error:  # noqa: BLE001 (any failure must reach the training thread)
            shutil.rmtree(self._folder / STAGING_NAME, ignore_errors=True)
            is_conflict = isinstance(error, ConflictingRunError)
            self.failure = str(error) if is_conflict else self._not_written(error)
            return
        try:
            if self._store.is_remote:
                self._require_alone()
                for record in reversed(self.unpublished):  # the newest first: it is what a run resumes from
                    self._upload(record)
                    self.unpublished = [each for each in self.unpublished if each is not record]
            self._delete_old()
        except ConflictingRunError as error:
            self.failure = str(error)
        except BaseException as error:  # noqa: BLE001 (a store may fail in any way, and training continues)
            self._warn(_describe(error))

    def _not_written(self, error: BaseException) -> str:
        return (
            f"checkpoint {self._record.name} could not be written to {self._folder}: {_describe(error)}; "
            "earlier ones are intact. Free space or choose another checkpoint.folder, then run the same command again "
            "to resume"
        )

    def _put_in_place(self, write: Callable[[], list[CheckpointFile]]) -> None:
        """Write, move, and publish where the local disk is all there is."""
        record, rank = self._record, dist.get_global_rank()
        files = [file for own in self._together(write) for file in own]
        record = dataclasses.replace(record, files=tuple(files))
        if not self._store.is_remote:
            self._require_alone()

        def move() -> None:
            if rank == 0 and not self._store.is_remote:
                self._store.withdraw(record.step)
            if rank == 0:
                _move(self._folder / STAGING_NAME / record.name, self._folder / record.name)

        def move_copy() -> None:
            # Of another node; in a folder that nodes share rank 0 has moved it.
            if rank != 0 and dist.get_local_rank() == 0:
                with suppress(FileNotFoundError):
                    _move(self._folder / STAGING_NAME / record.name, self._folder / record.name)

        self._together(move)
        if self._store.is_remote:
            self._together(move_copy)
        with suppress(OSError):  # of another rank, or of none any more
            (self._folder / STAGING_NAME).rmdir()
        if self._store.is_remote:
            self.unpublished = [*self.unpublished, record]
        elif rank == 0:
            self._publish(record)

    def _publish(self, record: CheckpointRecord) -> None:
        """Write the record, last: the files it names are stored by now."""
        self._store.share(self._destination.unstored)
        self._destination.unstored.clear()
        self._store.publish(record)

    def _require_alone(self) -> None:
        """Raise if another run saves here too: the two would overwrite and delete each other's checkpoints."""

        def find_others() -> set[int]:
            if dist.get_global_rank() != 0:
                return set()
            found = set(self._store.steps()) - self._destination.known
            self._destination.known.add(self._record.step)
            return found

        if steps := self._together(find_others)[0]:
            raise ConflictingRunError(
                f"checkpoint.folder={self._store.location} holds ba{max(steps)}, which another process has written "
                "since this one began: give one of the two runs a checkpoint.folder of its own; if it was an earlier "
                "start of this run that had not ended yet, run the same command again"
            )

    def _upload(self, record: CheckpointRecord) -> None:
        rank = dist.get_global_rank()
        prefix = f"{record.name}/__{rank}_"
        own = [
            file.name for file in record.files if file.name.startswith(prefix) or (rank == 0 and "/__" not in file.name)
        ]

        def withdraw() -> None:
            if rank == 0:
                self._store.withdraw(record.step)

        self._together(withdraw)
        self._together(lambda: self._store.upload(own, self._folder))
        if rank == 0:
            self._publish(record)

    def _delete_old(self) -> None:
        keep, step = self._destination.config.checkpoint.keep, self._record.step
        if self._store.is_remote and dist.get_local_rank() == 0:
            self._local.prune_copies(keep, newest=step)
        if dist.get_global_rank() == 0:
            self._store.prune(keep, newest=step)

    def _warn(self, problem: str) -> None:
        keep = self._destination.config.checkpoint.keep
        if keep != -1:  # or an outage of the store would fill the disk
            self.unpublished = self.unpublished[-keep:]
            if dist.get_local_rank() == 0:
                self._local.prune_copies(keep, newest=self._record.step)
        names = ", ".join(record.name for record in self.unpublished)
        self.warning = f"{names or 'an old checkpoint'}: {problem}"
        if dist.get_global_rank() == 0:
            remedy = f"it is in {self._folder} and tried again with the next one" if names else "training goes on"
            print(f"warning: checkpoint {self.warning}; {remedy}", file=sys.stderr, flush=True)

    def _together(self, act: Callable[[], ResultT]) -> list[ResultT]:
        """Call `act` on every rank that saves; if it fails on one, all fail with that message."""
        if self._destination.group is None:
            return [act()]
        result, problem = cast("ResultT", None), ""
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 (the other ranks wait for the outcome)
            problem = _describe(error)
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, (result, problem), group=self._destination.group)
        for _, told in everyone:
            if told:
                raise CheckpointError(told)
        return [each for each, _ in everyone]


def _move(source: Path, target: Path) -> None:
    # Who can rename it has it: what `exists` says of a network's folder may be old, and the target may be new.
    source = source.rename(source.with_name(f"{source.name}.moving"))
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def _describe(error: BaseException) -> str:
    return first_line(error) if isinstance(error, MeapError) else f"{type(error).__name__}: {first_line(error)}"

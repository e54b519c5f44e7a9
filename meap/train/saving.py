"""Checkpoints while training, and a checkpoint when asked to stop.

Composer's own saver is not used (``save_folder=None``): it makes training wait for the disk, uploads from a process
that needs a minute to start and outlives its run, never checks what it wrote, replaces its pointer to the newest
checkpoint in steps that a crash can fall between, and never deletes anything from a store.

Here training waits for a copy of the state in memory. A thread of each rank that has something to write then writes it
to a temporary place, hashes it, moves it into place, uploads it where `checkpoint.folder` is a URL, and last of all
publishes the record, without which nothing counts. One save is under way at a time: the next one waits for it. A
failed upload is a warning, and is tried again with the next save; at the end of training it is an error, as a full disk
is at once.
"""

from __future__ import annotations

import dataclasses
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch.distributed
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from meap.checkpoints import CheckpointFile, CheckpointRecord, CheckpointStore, ModelRecord
from meap.config import TrainingConfig, to_values
from meap.errors import CheckpointError, MeapError, StoppedError, first_line
from meap.train.stopping import NOTHING, Agreement, StopSignals
from meap.train.writing import copy_state

__all__ = ["STAGING_NAME", "CheckpointSaving", "local_folder"]

ResultT = TypeVar("ResultT")

STAGING_NAME = ".saving"
"""Folder beside the checkpoints in which one is written; what a killed run leaves there goes at the next start."""

_FAILED = 1 << 10
"""Told to the other ranks where a checkpoint cannot be written; larger than any signal."""
_PATIENCE = 10.0
"""Seconds that a save under way still has when somebody at a terminal wants to leave."""
_PACKAGES = ("torch", "mosaicml", "mosaicml-streaming", "transformers")


def local_folder(config: TrainingConfig, run_dir: Path) -> Path:
    """Where checkpoints are on this machine: `checkpoint.folder` itself, or the copies of what is behind a URL."""
    store = CheckpointStore(config.checkpoint.folder)
    return run_dir / "checkpoints" if store.is_remote else Path(store.location)


class CheckpointSaving(Callback):
    """Save every `checkpoint.interval`, at the end, and when a signal asks to stop.

    Args:
        config: The whole configuration; its section `checkpoint` says how, the record keeps all of it.
        run_dir: The run's folder.
        data: The rows of training, as `meap.data.Shards.identity` has them, for the record.
        model: The model and its tokenizer, for the record.
        shared: Files that `model` names, with their contents, stored before the first record.
        interval: Batches between checkpoints: `checkpoint.interval`.

    Raises:
        StoppedError: A signal asked to stop, and a checkpoint is saved.
        CheckpointError: A checkpoint cannot be written, or the last one not be uploaded, or another run saves its own
            in the same place.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        run_dir: Path,
        data: Mapping[str, str],
        interval: int,
        model: ModelRecord,
        shared: Mapping[CheckpointFile, bytes],
    ) -> None:
        self._config = config
        self._data = dict(data)
        self._model = model
        self._unshared = dict(shared)
        """What is not known to be stored yet."""
        self._kind: Literal["full", "sharded"] = "sharded" if config.checkpoint.state_dict == "sharded" else "full"
        self._interval = interval
        self._folder = local_folder(config, run_dir)
        self._signals = StopSignals()
        self._saved_at = (-1, -1)
        """Epoch and step."""
        self._known: set[int] = set()
        """Steps of checkpoints that were there before, or are this run's own."""
        self._save: _Save | None = None
        self._agreement: Agreement | None = None
        self._group: Any = None
        self._patience: float | None = None

    @property
    def place(self) -> str:
        """`checkpoint.folder`."""
        return self._config.checkpoint.folder

    @property
    def newest(self) -> int | None:
        """Step of the newest checkpoint there; None where there is none."""
        return next(iter(CheckpointStore(self.place).steps()), None)

    @property
    def newest_path(self) -> str:
        """File or folder of the newest checkpoint; `place` where there is none."""
        store = CheckpointStore(self.place)
        return next((f"{self.place}/{store.record(step).name}" for step in store.steps()), self.place)

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self._config.run.dir)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Listen for signals, and connect the ranks."""
        if state.fsdp_config is not None:
            state.fsdp_config.state_dict_type = self._kind  # what was loaded may have been of the other kind
        self._agreement = Agreement()
        if self._kind == "sharded":
            self._group = Agreement().group  # of the saving threads alone
        self._saved_at = _moment(state)
        if dist.get_global_rank() == 0:
            self._known = set(CheckpointStore(self.place).steps())
        if threading.current_thread() is threading.main_thread():
            self._signals.install()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save where the interval ends, and save and leave where a rank was asked to stop."""
        elapsed = state.get_elapsed_duration()
        is_last = elapsed is not None and elapsed.value >= 1.0
        assert self._agreement is not None
        heard = self._agreement.exchange(self._news())
        if heard == _FAILED:
            self._raise_failure()
        if is_last:  # saved when all that belongs to the end is done
            return
        if heard != NOTHING or state.timestamp.batch.value % self._interval == 0:
            self._start(state)
        if heard != NOTHING:
            self._leave(state, heard)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Save the end of training, and wait until it is stored."""
        if self._saved_at != _moment(state):
            self._start(state)
        self._settle()

    def hurry(self) -> None:
        """From now on wait for no save for long: what it has not published does not count."""
        self._patience = _PATIENCE

    def close(self, state: State, logger: Logger) -> None:
        """Let a save that is under way finish, whatever has ended the training."""
        self._signals.release()
        if self._save is not None:
            self._save.wait(self._patience)

    def _news(self) -> int:
        return _FAILED if self._save is not None and self._save.failure else self._signals.received

    def _start(self, state: State) -> None:
        unpublished = self._finish_last()
        timestamp = state.timestamp
        record = CheckpointRecord(
            step=timestamp.batch.value,
            epoch=timestamp.epoch.value,
            tokens=timestamp.token.value,
            run=self._config.run.name,
            kind=self._kind,
            world_size=dist.get_world_size(),
            config=to_values(self._config),
            model=self._model,
            data=self._data,
            versions={name: version(name) for name in _PACKAGES},
        )
        staging = self._folder / STAGING_NAME
        write = copy_state(state, kind=self._kind, name=record.name, folder=staging, group=self._group)
        self._saved_at = _moment(state)
        if self._save is not None and self._save.failure:
            return  # told to all at the next step; those who do not know yet have copied together with this rank
        if self._kind == "sharded" or dist.get_global_rank() == 0:
            self._save = _Save(
                self._config, record, write, self._folder, self._group, unpublished, self._known, self._unshared
            )
            self._save.start()

    def _finish_last(self) -> list[CheckpointRecord]:
        """Wait for the save before; returns what could not be uploaded."""
        if self._save is None:
            return []
        self._save.wait()
        return self._save.unpublished

    def _leave(self, state: State, heard: int) -> None:
        self._settle()
        step, name = state.timestamp.batch.value, signal.Signals(heard).name
        line = f"stopped by {name} at step {step:,}: everything is saved, the same command continues"
        raise StoppedError(line if dist.get_global_rank() == 0 else "")

    def _settle(self) -> None:
        """Wait for the last save on all ranks, trying a failed upload once more."""
        unpublished = self._finish_last()
        if unpublished and self._save is not None and not self._save.failure:
            self._save = self._save.again()
            self._save.start()
            unpublished = self._finish_last()
        is_failed = bool(unpublished) or (self._save is not None and bool(self._save.failure))
        assert self._agreement is not None
        if self._agreement.settle(_FAILED if is_failed else NOTHING):
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._save is not None and (problem := self._save.failure or self._save.warning):
            raise CheckpointError(problem)
        raise CheckpointError("another rank could not save a checkpoint: see what it says")


class _NeighbourError(CheckpointError):
    """Another run saves in the same place."""


class _Save:
    """One checkpoint on its way, in a thread: a process would need a minute to start, and could outlive the run."""

    def __init__(
        self,
        config: TrainingConfig,
        record: CheckpointRecord,
        write: Callable[[], list[CheckpointFile]] | None,
        folder: Path,
        group: Any,
        unpublished: list[CheckpointRecord],
        known: set[int],
        unshared: dict[CheckpointFile, bytes],
    ) -> None:
        self.failure = ""
        """Why the checkpoint is not on this machine's disk."""
        self.warning = ""
        """Why it is not in the store."""
        self.unpublished = unpublished
        """Whole on the local disk, but not in the store, oldest first."""
        self._config = config
        self._record = record
        self._write = write
        self._folder = folder
        self._group = group
        self._known = known
        self._unshared = unshared
        self._store = CheckpointStore(config.checkpoint.folder)
        self._local = CheckpointStore(str(folder))
        # At the end of a process that fails, nobody waits for this one.
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Return when it is done, with or without success, or when the time is over."""
        self._thread.join(seconds)

    def again(self) -> _Save:
        """Another attempt to upload what is on the disk already."""
        return _Save(
            self._config, self._record, None, self._folder, self._group, self.unpublished, self._known, self._unshared
        )

    def _run(self) -> None:
        try:
            if self._write is not None:
                self._put_in_place(self._write)
        except Exception as error:  # noqa: BLE001 (whatever it is, training must hear of it)
            shutil.rmtree(self._folder / STAGING_NAME, ignore_errors=True)
            self.failure = (
                str(error)
                if isinstance(error, _NeighbourError)
                else f"checkpoint {self._record.name} could not be written to {self._folder}: {_describe(error)}; the "
                "ones before are as they were. Make room or choose another checkpoint.folder, then run the same "
                "command again to continue"
            )
            return
        try:
            if self._store.is_remote:
                self._require_alone()
                for record in reversed(self.unpublished):  # the newest first: it is what a run continues from
                    self._upload(record)
                    self.unpublished = [each for each in self.unpublished if each is not record]
            self._delete_old()
        except _NeighbourError as error:
            self.failure = str(error)
        except Exception as error:  # noqa: BLE001 (a store may fail in any way, and training goes on)
            self._warn(_describe(error))

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
            if rank == 0 or (self._store.is_remote and dist.get_local_rank() == 0):
                _move(self._folder / STAGING_NAME / record.name, self._folder / record.name)

        self._together(move)
        with suppress(OSError):  # of another rank, or of none any more
            (self._folder / STAGING_NAME).rmdir()
        if self._store.is_remote:
            self.unpublished = [*self.unpublished, record]
        elif rank == 0:
            self._publish(record)

    def _publish(self, record: CheckpointRecord) -> None:
        """The record last: what it names is there."""
        self._store.share(self._unshared)
        self._unshared.clear()
        self._store.publish(record)

    def _require_alone(self) -> None:
        """Raise where somebody else saves here, too: two runs would overwrite and delete each other's checkpoints."""

        def find_others() -> set[int]:
            if dist.get_global_rank() != 0:
                return set()
            found = set(self._store.steps()) - self._known
            self._known.add(self._record.step)
            return found

        if steps := self._together(find_others)[0]:
            raise _NeighbourError(
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
        keep, step = self._config.checkpoint.keep, self._record.step
        if self._store.is_remote and dist.get_local_rank() == 0:
            self._local.prune_copies(keep, newest=step)
        if dist.get_global_rank() == 0:
            self._store.prune(keep, newest=step)

    def _warn(self, problem: str) -> None:
        keep = self._config.checkpoint.keep
        if keep != -1:  # or a store that is away for long would fill the disk
            self.unpublished = self.unpublished[-keep:]
            if dist.get_local_rank() == 0:
                self._local.prune_copies(keep, newest=self._record.step)
        names = ", ".join(record.name for record in self.unpublished)
        self.warning = f"{names or 'an old checkpoint'}: {problem}"
        if dist.get_global_rank() == 0:
            remedy = f"it is in {self._folder} and tried again with the next one" if names else "training goes on"
            print(f"warning: checkpoint {self.warning}; {remedy}", file=sys.stderr, flush=True)

    def _together(self, act: Callable[[], ResultT]) -> list[ResultT]:
        """Do it on every rank that saves; if one fails, all fail with what it says."""
        if self._group is None:
            return [act()]
        result, problem = cast("ResultT", None), ""
        try:
            result = act()
        except Exception as error:  # noqa: BLE001 (the others wait to hear of it)
            problem = _describe(error)
        everyone: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, (result, problem), group=self._group)
        for _, told in everyone:
            if told:
                raise CheckpointError(told)
        return [each for each, _ in everyone]


def _moment(state: State) -> tuple[int, int]:
    return state.timestamp.epoch.value, state.timestamp.batch.value


def _move(source: Path, target: Path) -> None:
    if not source.exists() and target.exists():
        return  # another node's leader, in a folder that nodes share
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)


def _describe(error: BaseException) -> str:
    return first_line(error) if isinstance(error, MeapError) else f"{type(error).__name__}: {first_line(error)}"

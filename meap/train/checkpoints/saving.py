"""Checkpoints at intervals, at the end of training, and on a signal to stop.

Composer's own saver is not used (``save_folder=None``): it makes training wait for the disk, uploads from a process
that needs a minute to start and outlives its run, never checks what it wrote, replaces its pointer to the newest
checkpoint in steps that a crash can fall between, and never deletes anything from a store.

Here training waits for a copy of the state in memory only. A thread of each rank with something to write then writes it
to a temporary folder, hashes it, moves it into place, uploads it where `checkpoint.folder` is a URL, and publishes the
record last, without which a checkpoint does not count. One save runs at a time: the next one waits for it. A failed
upload is a warning, and is retried with the next save; at the end of training it is an error, as a full disk always is.
"""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from meap.checkpoints import CheckpointFile, CheckpointRecord, CheckpointStore, ModelRecord
from meap.config import RecipeConfig, to_values
from meap.data.ranks import neighbour_watch
from meap.errors import CheckpointError, LostRankError, StoppedError
from meap.processes import wait_with_ranks
from meap.train.checkpoints.publishing import Destination, Save
from meap.train.checkpoints.stopping import NO_SIGNAL, Agreement, StopSignals
from meap.train.checkpoints.writing import STAGING_NAME, copy_state, local_folder
from meap.train.loggers.stepwise import StepwiseLogger

__all__ = ["CheckpointSaving"]

_FAILED = 1 << 10
"""Tells the other ranks that a checkpoint cannot be written; larger than any signal."""
_HURRIED_SECONDS = 10.0
"""For which Ctrl-C lets a save under way go on."""
_PACKAGES = ("torch", "mosaicml", "mosaicml-streaming", "transformers")


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
        CheckpointError: A checkpoint cannot be written, the last one cannot be uploaded, or another run saves in the
            same place.
    """

    def __init__(
        self,
        config: RecipeConfig,
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
        self._kind: Literal["full", "sharded"] = "sharded" if config.checkpoint.state_dict == "sharded" else "full"
        self._interval = interval
        self._destination = Destination(config, local_folder(config, run_dir), unstored=dict(shared))
        self._signals = StopSignals()
        self._saved_at = (-1, -1)
        """Epoch and step."""
        self._save: Save | None = None
        self._agreement: Agreement | None = None
        self._seconds_to_finish: float | None = None

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
        """Install signal handlers, and connect the ranks over CPUs."""
        if state.fsdp_config is not None:
            state.fsdp_config.state_dict_type = self._kind  # what was loaded may have been of the other kind
        self._agreement = Agreement(self._config.train.dist_timeout)
        if self._kind == "sharded":
            self._destination.group = Agreement().group  # of the saving threads alone
        self._saved_at = _moment(state)
        if dist.get_global_rank() == 0:
            self._destination.known = set(CheckpointStore(self.place).steps())
        if threading.current_thread() is threading.main_thread():
            self._signals.install()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Save at the end of an interval; save and stop if any rank got a signal."""
        elapsed = state.get_elapsed_duration()
        is_last = elapsed is not None and elapsed.value >= 1.0
        assert self._agreement is not None
        heard = self._agreement.exchange(self._news())
        if heard == _FAILED:
            self._raise_failure()
        if is_last:  # saved when all that belongs to the end is done
            return
        if heard != NO_SIGNAL or state.timestamp.batch.value % self._interval == 0:
            self._start(state, logger)
        if heard != NO_SIGNAL:
            self._leave(state, heard)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Save the final state, and wait until it is stored."""
        if self._saved_at != _moment(state):
            self._start(state, logger)
        self._settle()

    def hurry(self) -> None:
        """Limit the wait for a running save: an unpublished checkpoint does not count."""
        self._seconds_to_finish = _HURRIED_SECONDS

    def close(self, state: State, logger: Logger) -> None:
        """Let a running save finish, whatever has ended training."""
        self._signals.release()
        with suppress(LostRankError):
            self._wait_for_save(self._seconds_to_finish)

    def _news(self) -> int:
        return _FAILED if self._save is not None and self._save.failure else self._signals.received

    def _start(self, state: State, logger: Logger) -> None:
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
        staging = self._destination.folder / STAGING_NAME
        write = copy_state(state, kind=self._kind, name=record.name, folder=staging, group=self._destination.group)
        self._saved_at = _moment(state)
        for destination in logger.destinations:  # what a run that resumes here does not log again, whatever comes now
            if isinstance(destination, StepwiseLogger) and destination.is_local:  # a server may keep a save waiting
                destination.batch_checkpoint(state, logger)
        if self._save is not None and self._save.failure:
            # Told to all at the next step; those who do not know yet have copied together with this rank.
            if self._kind == "sharded":
                _discard(write, staging)
            return
        if self._kind == "sharded" or dist.get_global_rank() == 0:
            self._save = Save(self._destination, record, write, unpublished)
            self._save.start()

    def _finish_last(self) -> list[CheckpointRecord]:
        """Wait for the previous save; returns what could not be uploaded."""
        self._wait_for_save()
        return self._save.unpublished if self._save is not None else []

    def _wait_for_save(self, seconds: float | None = None) -> None:
        if (save := self._save) is None:
            return
        if self._kind == "sharded":  # ranks save together: without one of them it would not end
            wait_with_ranks(lambda: save.wait(seconds), look=neighbour_watch())
        else:
            save.wait(seconds)

    def _leave(self, state: State, heard: int) -> None:
        self._settle()
        step, name = state.timestamp.batch.value, signal.Signals(heard).name
        line = f"stopped by {name} at step {step:,}: everything is saved; run the same command again to resume"
        raise StoppedError(line if dist.get_global_rank() == 0 else "")

    def _settle(self) -> None:
        """Wait for the last save on all ranks, with one retry of a failed upload."""
        unpublished = self._finish_last()
        if unpublished and self._save is not None and not self._save.failure:
            self._save = self._save.again()
            self._save.start()
            unpublished = self._finish_last()
        is_failed = bool(unpublished) or (self._save is not None and bool(self._save.failure))
        assert self._agreement is not None
        if self._agreement.settle(_FAILED if is_failed else NO_SIGNAL):
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._save is not None and (problem := self._save.failure or self._save.warning):
            raise CheckpointError(problem)
        raise CheckpointError(
            f"rank {dist.get_global_rank()} ends, since another one could not save a checkpoint: look for the reason "
            "among the messages of that rank"
        )


def _discard(write: Callable[[], object], staging: Path) -> None:
    """Remove the parts of a checkpoint that is not to be, once torch's threads have written them."""
    with suppress(Exception):  # for the reason that has made the one before fail
        wait_with_ranks(write, look=neighbour_watch())
    shutil.rmtree(staging, ignore_errors=True)


def _moment(state: State) -> tuple[int, int]:
    return state.timestamp.epoch.value, state.timestamp.batch.value

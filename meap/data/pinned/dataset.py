"""streaming's dataset with files checked, failures named and repetitions counted; no worker waits forever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from time import time_ns
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from streaming import StreamingDataset
from streaming.base.constant import EPOCH_DATA
from streaming.base.dataset import _Iterator, _ShardState
from streaming.base.format.mds.reader import MDSReader
from streaming.base.shared import SharedMemory
from streaming.base.shared.prefix import _get_path
from streaming.base.util import bytes_to_int
from streaming.base.world import World
from torch.utils.data import get_worker_info

from meap.data.pinned.isolation import isolated_names, wait_for_shared_memory
from meap.data.pinned.order import draw_units, fill_sequence, is_regular, row_dtype, sequence_length
from meap.data.pinned.stream import CheckedStream
from meap.data.pinned.waits import WatchedLock, watched
from meap.data.rows import RowReader
from meap.data.unusable import UnusableFileError
from meap.errors import ConfigError, DataError, LostRankError, MeapError
from meap.places.redaction import describe_error

__all__ = ["CheckedDataset", "UnreadableShardError"]

_OF_A_STREAM = {
    "remote",
    "local",
    "split",
    "download_retry",
    "download_timeout",
    "download_patience",
    "validate_hash",
    "keep_zip",
}
_LOOK_AHEAD = 16
"""Samples per block of ids: with more, drawing masks for a block leaves the processor's cache."""
_UNCHECKED = 0
"""Instead of the last access time of a shard that an earlier run left: it is also the first to be evicted."""
_OF_ITS_PROCESS = ("_executor", "_event", "_set_at_exit", "_iterator", "_cache_filelock")
"""State of streaming's iteration that a fork breaks: it copies the objects, but neither the threads nor the lock."""


class UnreadableShardError(DataError):
    """The rows of a shard cannot be read."""


class CheckedDataset(StreamingDataset):
    """streaming's dataset over checked streams; it raises an error where streaming stops or waits forever.

    A stream that is drawn for more rows than it stores repeats rows within an epoch. The place of a row in the epoch
    decides which repetition it is, not when it is read: `take_ids` says which.

    Args:
        cache_limit: As streaming's; refused if it is too small for every shard into which workers may read ahead, or
            if evicting would delete the only copy of a shard.
        num_workers: As given to the loader; only `cache_limit` is checked against it.
        streaming_arguments: Everything else that `streaming.StreamingDataset` takes. ``num_canonical_nodes`` and
            ``batch_size`` must be given: without the first the sample order depends on the number of nodes.

    Raises:
        ConfigError: ``num_canonical_nodes`` or ``batch_size`` is unset, or ``cache_limit`` is not safe.
        DataError: A shard could not be read while iterating.
    """

    def __init__(
        self, *, cache_limit: int | str | None = None, num_workers: int = 0, **streaming_arguments: Any
    ) -> None:
        for required in ("num_canonical_nodes", "batch_size"):
            if not streaming_arguments.get(required):
                raise ConfigError(f"{required} must be set: the sample order would depend on the machines otherwise")
        if streaming_arguments.get("streams") is None:
            of_stream = {key: streaming_arguments.pop(key) for key in _OF_A_STREAM & streaming_arguments.keys()}
            streaming_arguments["streams"] = [CheckedStream(**of_stream)]
        with isolated_names():
            super().__init__(**streaming_arguments)
        # By every rank, so that none reads before they are marked.
        self._shard_access_times.numpy()[self._shard_states.numpy() == _ShardState.LOCAL] = _UNCHECKED
        if cache_limit is not None:
            self.cache_limit = self._allowed_cache_limit(bytes_to_int(cache_limit), num_workers)
        self.epoch = 0
        """The epoch being iterated, in this process."""
        self._readers = [RowReader(cast("MDSReader", shard)) for shard in self.shards]
        self._epoch_ids: NDArray[np.signedinteger] = np.empty(0, np.int64)
        """Sample ids of this worker's share of the epoch; negative ones are padding."""
        self._place: int | None = None
        """Position of the iteration in it, until `take_ids` is called."""
        self._background_error: BaseException = RuntimeError("no cause known")
        self._process = os.getpid()

    @property
    def ranks_per_node(self) -> int:
        """Ranks on this machine."""
        return self._unique_rank_world.ranks_per_node

    @property
    def rank(self) -> int:
        """This process among all ranks of the run."""
        return self._unique_rank_world.rank

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; every rank calls."""
        with wait_for_shared_memory():
            super().load_state_dict(obj)

    def stored_at(self, row: int, retry: int = 7) -> Mapping[str, NDArray[Any]]:
        """The columns of a row as data preparation stored them.

        Replaces streaming's `get_item`, which costs several times as much.
        """
        if failure := self._background_failure():
            raise failure
        shard_id, number = self.spanner[row]
        try:
            return self._read(shard_id, number, retry)
        except MeapError:
            raise
        except Exception as error:
            raise (self._background_failure() or self._unreadable(shard_id, error)) from error

    def _read(self, shard_id: int, number: int, retry: int) -> Mapping[str, NDArray[Any]]:
        for _ in range(1 + retry):
            while self._shard_access_times[shard_id] == _UNCHECKED:
                self.prepare_shard(shard_id)
            try:
                columns = self._readers[shard_id].read(number)
            except FileNotFoundError:  # not fetched yet, or evicted meanwhile
                self.prepare_shard(shard_id)
            else:
                self._shard_access_times[shard_id] = time_ns()
                return columns
        raise FileNotFoundError(f"evicted {1 + retry} times before it was read: raise data.cache_limit")

    def take_ids(self, row: int) -> NDArray[np.int64]:
        """The id of the sample that `row` is read for; while iterating, followed by those of the next samples."""
        place, self._place = self._place, None
        if place is None:  # random access
            return np.array([row])
        return self._epoch_ids[place : place + _LOOK_AHEAD].astype(np.int64)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over this worker's share of the epoch."""
        if self._process != os.getpid():
            self._forget_other_process()
        if get_worker_info() is not None:
            self.forget_connections()
        yield from super().__iter__()
        # When a download fails, streaming's iterator just stops, as if the epoch were over.
        if failure := self._background_failure():
            raise failure

    def forget_connections(self) -> None:
        """Drop connections to stores, in a loader worker.

        Forked workers would share the connection of their parent, and receive each other's responses.
        """
        for stream in self.streams:
            stream._downloader.clean_up()

    def __getstate__(self) -> dict[str, Any]:
        """State for workers that are spawned instead of forked."""
        self._shared_barrier.__dict__.pop("lock", None)  # streaming recreates it if missing
        return {name: value for name, value in self.__dict__.items() if name not in _OF_ITS_PROCESS}

    def _forget_other_process(self) -> None:
        """Drop the parent's iteration after a fork, whose threads would be waited for."""
        if (iterator := self.__dict__.get("_iterator")) is not None:
            # It is stopped when this process ends, and a thread may have held its lock at the fork.
            iterator._lock = threading.Lock()
        for name in _OF_ITS_PROCESS:
            self.__dict__.pop(name, None)
        self._shared_barrier.__dict__.pop("lock", None)
        self._process = os.getpid()

    def _prepare_thread(self, it: _Iterator) -> None:
        with _counted(it):
            super()._prepare_thread(it)

    def _ready_thread(self, it: _Iterator) -> None:
        with _counted(it):
            super()._ready_thread(it)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetch or check a shard that this run has not used yet; on failure, let no worker wait for it."""
        try:
            if self._shard_access_times[shard_id] == _UNCHECKED:
                with watched(), WatchedLock(self._cache_filelock_path):
                    is_still = self._shard_access_times[shard_id] == _UNCHECKED
                    if is_still and self._shard_states[shard_id] == _ShardState.LOCAL:
                        # Otherwise streaming uses the file unchecked.
                        self._shard_states[shard_id] = _ShardState.REMOTE
            with watched():
                super().prepare_shard(shard_id, blocking)
        except BaseException as error:
            # streaming would leave it "in preparation", and other workers waiting forever. Each worker that needs the
            # shard now checks or fetches it again, and succeeds or fails by itself.
            self._shard_access_times[shard_id] = _UNCHECKED
            self._shard_states[shard_id] = _ShardState.LOCAL
            if not isinstance(error, Exception):
                raise
            raise self._unreadable(shard_id, error) from error

    def resample_streams(self, epoch: int, stream_id: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sizes of the units that are shuffled, and the sample id at each place of the epoch before shuffling."""
        streams = range(self.num_streams) if stream_id is None else [stream_id]
        units = draw_units(self, epoch, streams)
        sizes = np.array([unit.size for unit in units], np.int64)
        ids = np.empty(int(sizes.sum()), np.int64)
        for unit, end in zip(units, sizes.cumsum().tolist(), strict=True):
            unit.write(ids[end - unit.size : end], 0)
        return sizes, ids

    def _get_work(self, epoch: int, sample_in_epoch: int) -> NDArray[Any]:
        # Called in every worker when an epoch starts, also after resuming: the only place that knows its number.
        self.epoch = epoch
        # Threads that read ahead begin after this. They are joined at the exit, when one may be waiting for a shard.
        if self.__dict__.get("_set_at_exit") is not self._event:
            with suppress(RuntimeError):  # the interpreter ends: no thread begins any more
                threading._register_atexit(self._event.set)  # pyright: ignore[reportAttributeAccessIssue]
            self._set_at_exit = self._event
        world = self._parallel_worker_world
        try:
            with wait_for_shared_memory():
                if is_regular(self, world, sample_in_epoch):
                    self._epoch_ids = self._share_sequence(world, epoch, sample_in_epoch)
                else:
                    self._epoch_ids = super()._get_work(epoch, sample_in_epoch)
        except ConfigError as error:  # it was free when the data set was opened
            raise DataError(f"{error}; then run the same command again") from error
        # streaming finds shards by row, without the repetition.
        if not len(self._epoch_ids) or self._epoch_ids.max() < self.num_samples:
            return self._epoch_ids
        return np.where(self._epoch_ids < 0, self._epoch_ids, self._epoch_ids % self.num_samples)

    def _share_sequence(self, world: World, epoch: int, drop: int) -> NDArray[np.signedinteger]:
        """This worker's share of what its node reads, which one worker orders for all."""
        if not hasattr(self._shared_barrier, "lock"):
            self._shared_barrier.lock = WatchedLock(self._shared_barrier.filelock_path)
        unique = self._unique_worker_world
        dtype, length = row_dtype(self), sequence_length(self, world, drop)
        name, size = _get_path(self._shm_prefix_int, EPOCH_DATA), length * np.dtype(dtype).itemsize
        if not unique.is_local_leader:
            self._shared_barrier(unique.workers_per_node)
        memory = SharedMemory(name=name, create=unique.is_local_leader, size=size, auto_cleanup=False)
        sequence = np.ndarray(length, dtype, memory.buf)
        if unique.is_local_leader:
            fill_sequence(sequence, self, world, epoch, drop)
            self._shared_barrier(unique.workers_per_node)
        assert self.batch_size is not None
        by_rank = sequence.reshape(-1, world.workers_per_rank, self.batch_size, world.ranks_per_node)
        own = by_rank[:, world.worker_of_rank, :, world.rank_of_node].flatten()
        del sequence, by_rank
        self._shared_barrier(unique.workers_per_node)
        memory.cleanup()
        return own

    def _each_sample_id(self, it: _Iterator) -> Iterator[int]:
        rows = super()._each_sample_id(it)
        while True:
            with watched():
                row = next(rows, None)
            if row is None:
                return
            self._place = it.yield_index
            yield row

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Where this epoch stands after `num_samples` rows, for a checkpoint."""
        state = super().state_dict(num_samples, from_beginning)
        if from_beginning and num_samples == 0:
            # At the end of an epoch the trainer is in the next one already, but streaming still names the finished one:
            # a resumed run would replay it, and stay one epoch behind.
            state["epoch"] = max(state["epoch"], self.next_epoch)
        return state

    def on_exception(self, future: Future[Any]) -> None:
        """Keep the cause of a background failure for `__iter__` to raise; streaming's own method also prints it."""
        if error := future.exception():
            self._background_error = error
            self._event.set()

    def _background_failure(self) -> MeapError | None:
        """Why reading ahead has ended; None while it has not failed."""
        if not hasattr(self, "_event") or not self._event.is_set():
            return None
        error = self._background_error
        if isinstance(error, MeapError):
            return error
        return DataError(f"reading ahead failed ({describe_error(error)}): run the same command again")

    def _unreadable(self, shard_id: int, cause: Exception) -> UnreadableShardError | LostRankError:
        if isinstance(cause, (UnreadableShardError, LostRankError)):
            return cause
        first = int(self.sample_offset_per_shard[shard_id])
        rows = f"(rows {first:,} to {first + int(self.samples_per_shard[shard_id]) - 1:,})"
        if isinstance(cause, UnusableFileError):
            return UnreadableShardError(f"{cause.file} {rows} {cause.what}: {cause.remedy}")
        if isinstance(cause, DataError):
            return UnreadableShardError(str(cause))
        stream = self.streams[self.stream_per_shard[shard_id]]
        return UnreadableShardError(
            f"a shard of {stream.remote or stream.local} {rows} could not be read ({describe_error(cause)}): check the "
            "storage, then run the same command again"
        )

    def _allowed_cache_limit(self, limit: int, num_workers: int) -> int:
        """The limit to give to streaming, in bytes, so that the disk never holds more than `limit`.

        It must hold every shard into which workers may read ahead at once, and four more. With less, workers evict
        shards that others wait for: streaming then downloads them repeatedly, fails, or waits forever. streaming counts
        a shard only once it has arrived, so the shards that each reader's two threads are fetching come on top.
        """
        for stream in self.streams:
            if stream.remote in {None, stream.local}:
                raise ConfigError(
                    f"cache_limit={limit} would delete shards of {stream.local}, which is their only copy: "
                    "leave it unset, or give a remote and another folder as the cache"
                )
        sizes = np.array([shard.get_max_size() for shard in self.shards])
        readers = self.ranks_per_node * max(1, num_workers)
        assert self.predownload is not None  # streaming has set it
        needed, uncounted = readers * (self.predownload + 1) + 4, 2 * readers - 1
        num_shards = min(len(sizes), needed + uncounted)
        largest = np.sort(sizes)[::-1]
        least = sum(stream.get_index_size() for stream in self.streams) + int(largest[:num_shards].sum())
        if limit < least:
            raise ConfigError(
                f"data.cache_limit of {limit:,} bytes is too small: {readers} readers on this machine, each "
                f"{self.predownload} rows ahead, may need {num_shards} shards at once, which take {least:,} bytes with "
                "their compressed form; raise it to that, lower data.predownload or data.num_workers, or leave it unset"
            )
        # Where all shards fit, nothing is ever evicted.
        return limit if num_shards == len(sizes) else limit - int(largest[:uncounted].sum())


@contextmanager
def _counted(it: _Iterator) -> Iterator[None]:
    """Count a failed thread as ended: streaming waits forever if both threads of an epoch fail."""
    try:
        yield
    except BaseException:
        it.on_exit()
        raise

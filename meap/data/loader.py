"""Builds the torch DataLoader of a split; everything that decides the order of samples is set explicitly."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from streaming import Stream
from streaming.base.storage.download import DOWNLOADER_MAPPINGS
from torch._C import _remove_worker_pids
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torch.utils.data._utils import MP_STATUS_CHECK_INTERVAL
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from meap.config import DataConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.mixture import is_stratified, plan_epoch
from meap.data.pinned.stream import CheckedStream
from meap.data.shards import Shards
from meap.data.shared_memory import require_shared_memory
from meap.errors import ConfigError
from meap.manifest import CONVERSATIONS
from meap.masking import MaskRule
from meap.places.problems import require_room_for_sockets
from meap.processes import end_processes, obey_parent_alone, signals_wait

__all__ = [
    "BATCHES_AHEAD",
    "RowLoader",
    "build_loader",
    "build_streams",
    "close_loaders",
    "shared_memory_bytes",
    "start_worker",
]

BATCHES_AHEAD = 2
"""Of each worker; torch's own default."""
_INT64 = 8
"""Bytes of a row number in an epoch's order, and of a token, a label or a position in a batch."""
_SECONDS_TO_SHUT_DOWN = 2.0
"""Enough for workers between two batches; others may be waiting for a store."""


class RowLoader(DataLoader[Any]):
    """torch's DataLoader, whose workers end when it is closed, and at the latest with the process.

    torch ends persistent workers when the loader is garbage-collected, which may never happen, by a signal that ours
    ignore; multiprocessing then joins them without a timeout.

    Raises:
        ConfigError: With workers: the path of the folder for temporary files is too long for their sockets.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if self.num_workers:
            # Workers would fail to send batches, silently, and the loader would wait forever.
            require_room_for_sockets("data.num_workers=0")
        self._owner = os.getpid()
        _open_loaders.add(self)

    def __iter__(self) -> Any:
        """Iterate over an epoch, in the workers of the previous one if there are any."""
        if self.num_workers:
            get_temp_dir()  # this process removes it when it exits; a killed worker would leave its own behind
        try:
            iterator = super().__iter__()
        except BaseException as error:  # a signal, too
            _end_what_began(error)
            raise
        _keep_queues(iterator)
        return iterator

    def _get_iterator(self) -> Any:
        if not self.num_workers:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        with signals_wait():  # a worker that has just been forked has the handlers of this process
            return _RowIterator(self)

    def close(self) -> None:
        """End the workers; another iteration starts new ones."""
        iterator: Any = self._iterator
        self._iterator = None
        if not (workers := getattr(iterator, "_workers", [])):
            return
        _stop_watching(iterator)
        # torch waits five seconds for each of them.
        shutdown = threading.Thread(target=iterator._shutdown_workers, name="shutdown", daemon=True)
        try:
            shutdown.start()
        except RuntimeError:  # from Python 3.12 on, no thread starts once the interpreter ends
            end_processes(workers)
            iterator._shutdown_workers()
            return
        shutdown.join(_SECONDS_TO_SHUT_DOWN)
        end_processes(workers)
        shutdown.join()


class _RowIterator(_MultiProcessingDataLoaderIter):
    """torch's, which keeps an error until the batch's turn comes.

    It may never come: a worker that fails as an epoch begins leaves the others waiting for it in streaming's barrier.
    """

    def _try_get_data(self, timeout: float = MP_STATUS_CHECK_INTERVAL) -> Any:
        is_there, batch = super()._try_get_data(timeout)
        if not is_there:
            for _, *found in self._task_info.values():
                if found and isinstance(found[0], ExceptionWrapper):
                    found[0].reraise()
        return is_there, batch

    def _shutdown_workers(self) -> None:
        _stop_watching(self)  # how a worker ends that is no longer needed is no error
        super()._shutdown_workers()


def _end_what_began(error: BaseException) -> None:
    """End the workers of an iterator that failed while it was built: torch would stumble over what it lacks."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        iterator = frame.f_locals.get("self")
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown = True
            end_processes(getattr(iterator, "_workers", []))


_open_loaders: weakref.WeakSet[RowLoader] = weakref.WeakSet()
_kept: list[tuple[int, list[BaseProcess], list[Any], weakref.ref[Any]]] = []
"""The process that started workers, the workers, the queues through which torch stops them, and their iterator."""


def _keep_queues(iterator: Any) -> None:
    """Keep an iterator's queues until its workers have ended.

    If it is collected in a reference cycle, such as that of an error and its traceback, its queues are finalised before
    torch can stop the workers through them. torch would then wait for each worker, and the process forever at exit.
    """
    _kept[:] = [each for each in _kept if each[0] == os.getpid() and any(worker.is_alive() for worker in each[1])]
    workers = getattr(iterator, "_workers", [])
    if workers and not any(each[1] is workers for each in _kept):
        _kept.append((os.getpid(), workers, iterator._index_queues, weakref.ref(iterator)))


def _stop_watching(iterator: Any) -> None:
    """Have torch no longer raise, wherever this process is, when a signal tells it of a worker's end."""
    if getattr(iterator, "_worker_pids_set", False):  # one that could not be built has none
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


@atexit.register  # runs before what multiprocessing has registered earlier
def close_loaders() -> None:
    """End the workers of all loaders of this process."""
    for loader in list(_open_loaders):
        if loader._owner == os.getpid():  # one that was forked has inherited the loader, not the workers
            loader.close()
    for owner, workers, _, iterator in _kept:
        if owner == os.getpid():
            _stop_watching(iterator())
            end_processes(workers)
    _kept.clear()


def build_loader(
    data: DataConfig,
    shards: Shards,
    *,
    rule: MaskRule | None,
    seed: int,
    global_batch_size: int,
    world_size: int,
    cache_dir: Path,
    shuffle: bool,
    make_dataset: Callable[..., StreamingMaskedDataset] = StreamingMaskedDataset,
    collate: Callable[[list[Any]], Any] | None = None,
) -> RowLoader:
    """A loader of this rank's share of each global batch.

    Args:
        data: Section `data` of the configuration.
        shards: The split to read.
        rule: How the dataset masks; None yields clean rows.
        seed: Seed of the sample order.
        global_batch_size: Rows per step over all ranks.
        world_size: Number of ranks.
        cache_dir: Local folder for downloaded shards.
        shuffle: Whether rows are shuffled, anew in each epoch.
        make_dataset: Makes samples from rows.
        collate: Makes a batch from samples; torch's own if unset.

    Raises:
        ConfigError: The batch does not divide by the ranks, the split is smaller than a batch, a stream gets no row,
            the cache is too small or the data itself, or there is too little shared memory.
    """
    if global_batch_size % world_size:
        raise ConfigError(
            f"train.global_batch_size={global_batch_size} does not divide by {world_size} ranks: choose a multiple"
        )
    batch_size = global_batch_size // world_size
    epoch = plan_epoch(data, shards, global_batch_size)
    dataset = make_dataset(
        rule=rule,
        labels="shifted",
        streams=build_streams(data, shards, cache_dir, counts=epoch.counts),
        batch_size=batch_size,
        num_canonical_nodes=epoch.canonical_nodes,
        # Rows left out of an epoch are chosen in blocks of this size; single rows take a minute per epoch at 50 M rows.
        sampling_granularity=64,
        shuffle=shuffle,
        shuffle_algo=data.shuffle_algo,
        shuffle_seed=seed,
        shuffle_block_size=data.shuffle_block_size,
        sampling_method=data.sampling_method,
        batching_method=data.batching_method if is_stratified(data, shards) else "random",
        predownload=data.predownload,
        cache_limit=data.cache_limit,
        num_workers=data.num_workers,
    )
    ranks = dataset.ranks_per_node
    require_shared_memory(
        shared_memory_bytes(data, shards, batch_rows=ranks * batch_size, epoch_rows=epoch.rows),
        f"reading the {shards.split} split (the order of {epoch.rows:,} rows, and batches of {batch_size} rows "
        f"in flight from {ranks * data.num_workers} loader workers)",
    )
    return RowLoader(
        dataset,
        batch_size=batch_size,
        num_workers=data.num_workers,
        # Workers watch the ranks that this process has met. Python 3.14 would make them anew, as macOS does.
        multiprocessing_context="fork" if data.num_workers and sys.platform == "linux" else None,
        prefetch_factor=BATCHES_AHEAD if data.num_workers else None,
        persistent_workers=data.num_workers > 0,
        drop_last=True,
        collate_fn=collate,
        worker_init_fn=start_worker,
    )


def start_worker(_: int) -> None:
    """Set up a loader worker."""
    obey_parent_alone()
    Queue._on_queue_feeder_error = _send_error_instead  # pyright: ignore[reportAttributeAccessIssue]
    sys.excepthook = _end_for_a_reason


def _end_for_a_reason(_: type[BaseException], error: BaseException, __: Any) -> NoReturn:
    """End: the thread that hands over what batches share would otherwise print tracebacks without end, in vain."""
    remedy = "raise the number of open files with `ulimit -n 4096`, or set data.num_workers=0"
    print(f"error: a loader worker cannot hand over its batches ({error}): {remedy}", file=sys.stderr, flush=True)
    os._exit(1)


def _send_error_instead(queue: Any, error: Exception, batch: Any) -> None:
    """Pass on why a batch cannot be sent, for example that no more files may be opened.

    A thread sends it: multiprocessing would print a traceback, drop the batch, and leave the loader waiting forever.
    """
    if not isinstance(batch, tuple):  # it is bytes already: what has failed is the pipe
        os._exit(1)
    number, *_ = batch
    queue.put((number, ExceptionWrapper(where=f"in the loader worker with pid {os.getpid()} ({error})")))


def shared_memory_bytes(data: DataConfig, shards: Shards, *, batch_rows: int, epoch_rows: int = 0) -> int:
    """Largest shared memory of a split's readers on a node, in bytes: an epoch's order and the batches in flight.

    Args:
        data: Section `data` of the configuration.
        shards: The split.
        batch_rows: Rows of a global batch on this node; each worker holds its rank's part.
        epoch_rows: Rows of an epoch.
    """
    columns = 3 if shards.streams[0].manifest.kind == CONVERSATIONS else 2  # tokens, labels, positions
    row = _INT64 * columns * shards.seq_len
    return _INT64 * epoch_rows + data.num_workers * BATCHES_AHEAD * batch_rows * row


def build_streams(
    data: DataConfig, shards: Shards, cache_dir: Path, *, counts: Sequence[int] | None = None
) -> list[Stream]:
    """Streams of `streaming`: one per data set, each with its own folder in the cache.

    Args:
        data: Section `data` of the configuration.
        shards: The split to read.
        cache_dir: Local folder for downloaded shards.
        counts: Rows of an epoch from each stream; every row once where unset.

    Raises:
        ConfigError: The cache of a stream is the stream itself, or streaming does not support its URL scheme.
    """
    streams: list[Stream] = []
    for stream, count in zip(shards.streams, counts or [None] * len(shards.streams), strict=True):
        local = cache_dir / stream.name if stream.name else cache_dir
        _require_streamable(stream.key, stream.remote)
        if Path(stream.remote).resolve() == local.resolve():
            raise ConfigError(
                f"data.cache_dir={cache_dir}: the cache {local} is {stream.key} itself: choose another folder, or "
                "evicting a shard from the cache would delete the only copy of it"
            )
        streams.append(
            CheckedStream(
                records=stream.manifest.shards,
                remote=stream.remote,
                local=str(local),
                split=shards.split,
                choose=count,
                download_retry=data.download_retry + 1,  # streaming counts attempts, not repetitions
                download_timeout=data.download_timeout,
                download_patience=data.download_patience,
                validate_hash=stream.manifest.hash_algorithm if data.validate_hash else None,
                keep_zip=data.keep_zip,
            )
        )
    return streams


def _require_streamable(key: str, remote: str) -> None:
    scheme, known = urlsplit(remote).scheme, sorted({*DOWNLOADER_MAPPINGS} - {""})
    if scheme and scheme not in known:
        raise ConfigError(
            f"{key}={remote} cannot be streamed: its URL may begin with {', '.join(known)}, not {scheme}; copy the "
            "shards to such a store, or mount theirs as a folder"
        )

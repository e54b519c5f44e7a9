"""Build the torch DataLoader of a split, with everything pinned that decides the order of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from streaming import Stream
from torch.utils.data import DataLoader

from meap.config import DataConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.machine_wide import require_shared_memory
from meap.data.mixture import is_stratified, rows_per_epoch
from meap.data.shards import Shards
from meap.data.stream import CheckedStream
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.processes import outlive_first_sigterm

__all__ = ["build_loader", "build_streams"]

_BATCHES_AHEAD = 2
"""Of each worker; torch's own default."""
_ID_BYTES, _TOKEN_BYTES = 8, 16
"""In shared memory: of a row in an epoch's order, and of a token on its way to a rank, with its label."""


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
) -> DataLoader[Any]:
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
        make_dataset: What makes samples of rows.
        collate: What makes a batch of samples; torch's own where unset.

    Raises:
        ConfigError: The batch does not divide by the ranks, the split is smaller than one round of batches, a stream
            gets no row, the cache is too small or the data itself, or there is too little shared memory.
    """
    if global_batch_size % world_size:
        raise ConfigError(
            f"train.global_batch_size={global_batch_size} does not divide by {world_size} ranks: choose a multiple"
        )
    batch_size = global_batch_size // world_size
    dataset = make_dataset(
        rule=rule,
        labels="shifted",
        streams=build_streams(data, shards, cache_dir, counts=rows_per_epoch(data, shards, global_batch_size)),
        batch_size=batch_size,
        num_canonical_nodes=data.num_canonical_nodes,
        # Rows left out of an epoch are chosen in runs of this length; one by one takes a minute per epoch at 50 M rows.
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
        dataset.epoch_size * _ID_BYTES
        + ranks * data.num_workers * _BATCHES_AHEAD * batch_size * shards.seq_len * _TOKEN_BYTES,
        f"reading the {shards.split} split (the order of {dataset.epoch_size:,} rows, and batches of {batch_size} rows "
        f"under way from {ranks * data.num_workers} loader processes)",
    )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=data.num_workers,
        prefetch_factor=_BATCHES_AHEAD if data.num_workers else None,
        persistent_workers=data.num_workers > 0,
        drop_last=True,
        collate_fn=collate,
        worker_init_fn=_start_worker,
    )


def _start_worker(_: int) -> None:
    outlive_first_sigterm()


def build_streams(
    data: DataConfig, shards: Shards, cache_dir: Path, *, counts: Sequence[int] | None = None
) -> list[Stream]:
    """Streaming's own streams: one per data set, each with its folder in the cache and its hash.

    Args:
        data: Section `data` of the configuration.
        shards: The split to read.
        cache_dir: Local folder for downloaded shards.
        counts: Rows of an epoch from each stream; every row once where unset.

    Raises:
        ConfigError: The cache of a stream is the stream itself.
    """
    streams: list[Stream] = []
    for stream, count in zip(shards.streams, counts or [None] * len(shards.streams), strict=True):
        key = f"data.streams.{stream.name}.remote" if stream.name else "data.remote"
        local = cache_dir / stream.name if stream.name else cache_dir
        if Path(stream.remote).resolve() == local.resolve():
            raise ConfigError(
                f"data.cache_dir={cache_dir}: the cache {local} is {key} itself: choose another folder, or evicting a "
                "shard from the cache would delete the only copy of it"
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
                validate_hash=stream.manifest.hash_algorithm if data.validate_hash else None,
                keep_zip=data.keep_zip,
            )
        )
    return streams

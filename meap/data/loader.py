"""Build the torch DataLoader of a split, with everything pinned that decides the order of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from meap.config import DataConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.shards import Shards
from meap.errors import ConfigError
from meap.masking import MaskRule

__all__ = ["build_loader"]


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
        ConfigError: The batch does not divide by the ranks, or the split is smaller than one round of batches.
    """
    if global_batch_size % world_size:
        raise ConfigError(
            f"train.global_batch_size={global_batch_size} does not divide by {world_size} ranks: choose a multiple"
        )
    batch_size = global_batch_size // world_size
    if Path(shards.remote).resolve() == cache_dir.resolve():
        raise ConfigError(
            f"data.cache_dir={cache_dir} is data.remote itself: choose another folder, or evicting a shard "
            "from the cache would delete the only copy of it"
        )
    dataset = make_dataset(
        rule=rule,
        remote=shards.remote,
        local=str(cache_dir),
        split=shards.split,
        batch_size=batch_size,
        epoch_size=_rows_per_epoch(data, shards, global_batch_size),
        num_canonical_nodes=data.num_canonical_nodes,
        # Rows left out of an epoch are chosen in runs of this length; one by one takes a minute per epoch at 50 M rows.
        sampling_granularity=64,
        shuffle=shuffle,
        shuffle_algo="py1e",
        shuffle_seed=seed,
        shuffle_block_size=data.shuffle_block_size,
        predownload=data.predownload,
        cache_limit=data.cache_limit,
        download_retry=data.download_retry + 1,  # streaming counts attempts, not repetitions
        download_timeout=data.download_timeout,
        validate_hash=shards.manifest.hash_algorithm,
    )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=data.num_workers,
        persistent_workers=data.num_workers > 0,
        drop_last=True,
        collate_fn=collate,
    )


def _rows_per_epoch(data: DataConfig, shards: Shards, global_batch_size: int) -> int:
    """Rows of an epoch: a multiple of the batch and of the canonical nodes, so that no world size repeats a row."""
    unit = math.lcm(global_batch_size, data.num_canonical_nodes)
    rows = shards.manifest.rows // unit * unit
    if rows == 0:
        raise ConfigError(
            f"{shards.remote}/{shards.split} has {shards.manifest.rows} rows, fewer than one round of {unit} "
            f"(least common multiple of the global batch size {global_batch_size} and "
            f"data.num_canonical_nodes={data.num_canonical_nodes}): lower either, or prepare more data"
        )
    return rows

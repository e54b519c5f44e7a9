"""Held-out rows without masks: each row once, so that the mean loss does not depend on the number of ranks.

Training's loader cannot do this: its epoch is a multiple of the batch and of the canonical nodes, and drops the rest.
Here the last batch may be smaller, and its rows are dealt to the ranks in turn. Sharded ranks must run the same steps,
so a rank that is one row short reads a row that another rank scores, with all labels ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from meap.config import DataConfig, SftConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.loader import BATCHES_AHEAD, RowLoader, build_streams, shared_memory_bytes, start_worker
from meap.data.sft import StreamingSFTDataset, collate_rows
from meap.data.shards import Shards
from meap.data.shared_memory import require_shared_memory
from meap.manifest import CONVERSATIONS
from meap.schema import IGNORE_INDEX

__all__ = ["HeldoutBatches", "build_heldout_loader", "deal_rows"]


def deal_rows(
    num_rows: int, *, num_batches: int, global_batch_size: int, world_size: int, rank: int
) -> list[list[tuple[int, bool]]]:
    """The batches of one rank: rows by number, and whether each is scored; pure.

    All ranks have batches of the same sizes, and together score the same rows in each, whatever their number.

    Args:
        num_rows: Rows of the split. If the batches hold fewer, evenly spaced rows are taken.
        num_batches: Largest number of batches.
        global_batch_size: Rows of a batch over all ranks; the last may have fewer.
        world_size: Number of ranks.
        rank: Whose batches.
    """
    count = min(num_rows, num_batches * global_batch_size)
    rows = [place * num_rows // count for place in range(count)]
    batches: list[list[tuple[int, bool]]] = []
    for start in range(0, count, global_batch_size):
        batch = rows[start : start + global_batch_size]
        own = [(row, True) for row in batch[rank::world_size]]
        batches.append(own + [(batch[0], False)] * (-(-len(batch) // world_size) - len(own)))
    return batches


def build_heldout_loader(
    data: DataConfig,
    shards: Shards,
    *,
    num_batches: int,
    global_batch_size: int,
    world_size: int,
    cache_dir: Path,
    sft: SftConfig | None = None,
) -> RowLoader:
    """A loader of this rank's share of the rows that `deal_rows` chooses, clean and the same every time.

    Args:
        data: Section `data` of the configuration.
        shards: The split to read.
        num_batches: Largest number of batches.
        global_batch_size: Rows per batch over all ranks.
        world_size: Number of ranks.
        cache_dir: Local folder for downloaded shards.
        sft: Layout and loss, where rows hold conversations; held-out loss is a mean over tokens in any case.

    Raises:
        ConfigError: The cache is too small or the data itself, or there is too little shared memory.
    """
    is_sft = shards.streams[0].manifest.kind == CONVERSATIONS
    make: Any = (
        partial(StreamingSFTDataset, sft=replace(sft or SftConfig(), weighting="tokens"), seq_len=shards.seq_len)
        if is_sft
        else StreamingMaskedDataset
    )
    dataset = make(
        rule=None,
        labels="shifted",
        streams=build_streams(data, shards, cache_dir),
        batch_size=1,  # rows are read by number
        num_canonical_nodes=1,
        shuffle=False,
        predownload=1,
        cache_limit=data.cache_limit,
        num_workers=data.num_workers,
    )
    batches = deal_rows(
        shards.rows,
        num_batches=num_batches,
        global_batch_size=global_batch_size,
        world_size=world_size,
        rank=dataset.rank,
    )
    num_workers = min(data.num_workers, len(batches))
    batch_rows = -(-global_batch_size // world_size) * dataset.ranks_per_node
    require_shared_memory(
        2 * shared_memory_bytes(data, shards, batch_rows=batch_rows),  # those of training wait meanwhile
        f"reading the {shards.split} split beside that of training",
    )
    return RowLoader(
        HeldoutBatches(dataset, batches, collate_rows if is_sft else default_collate),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=BATCHES_AHEAD if num_workers else None,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
    )


class HeldoutBatches(IterableDataset[Any]):
    """Batches of rows by number; loader workers take turns, so the order does not depend on how many there are.

    Iterable, as Composer demands torch's sampler for map-style data sets, which repeats rows to even out ranks.
    """

    def __init__(
        self,
        rows: StreamingMaskedDataset,
        batches: list[list[tuple[int, bool]]],
        collate: Callable[[list[dict[str, Any]]], Any],
    ) -> None:
        self.rows = rows
        """All rows of the split, by number."""
        self._batches, self._collate = batches, collate

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        first, step = 0, 1
        if (worker := get_worker_info()) is not None:
            first, step = worker.id, worker.num_workers
            self.rows.forget_connections()
        for batch in self._batches[first::step]:
            yield self._collate([self._sample(row, is_scored=is_scored) for row, is_scored in batch])

    def _sample(self, row: int, *, is_scored: bool) -> dict[str, Any]:
        sample = self.rows[row]
        if is_scored:
            return sample
        sample["labels"] = torch.full_like(sample["labels"], IGNORE_INDEX)
        return sample | ({"num_targets": 0, "num_maskable": 0} if "num_targets" in sample else {})

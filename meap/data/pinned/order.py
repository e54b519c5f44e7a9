"""The order of an epoch, as streaming 0.13 gives it, in a fraction of its memory and time.

streaming orders the rows of all nodes at once, in int64, in about nine passes that each copy them. Here one canonical
node is ordered at a time, in int32 where row numbers allow, and written to its places in the sequence that this node
reads; canonical nodes that other nodes read only advance the generator.

No draw can be skipped, made out of turn, or left to another node: one generator makes them all, and shuffling a span
rejects as many draws as only drawing tells.

Only what the recipes use by default is ordered so: `py1e` or no shuffling, rows that fill whole rounds of canonical
nodes and ranks. `is_regular` tells; streaming itself orders the rest.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from streaming.base.sampling import get_sampling
from streaming.base.shuffle.py1s import divide_spans
from streaming.base.world import World

if TYPE_CHECKING:
    from streaming import StreamingDataset

__all__ = ["RowLocator", "Unit", "draw_units", "fill_sequence", "is_regular", "row_dtype", "sequence_length"]


_PART = 1 << 16
"""Positions that are sorted at once."""


@dataclass(frozen=True)
class Unit:
    """Rows of a shard that an epoch reads, each once: all of them, or some."""

    size: int
    first: int
    """Id of the shard's first row, of this repetition of it."""
    chosen: NDArray[np.int64] | None = None
    """Which rows of the shard, ascending; None for all."""

    def write(self, ids: NDArray[np.signedinteger], begin: int) -> None:
        """Write the sample ids from the unit's row `begin` on."""
        if self.chosen is None:
            ids[:] = np.arange(self.first + begin, self.first + begin + len(ids))
        else:
            ids[:] = self.chosen[begin : begin + len(ids)]
            ids += self.first


class RowLocator:
    """Replaces streaming's `Spanner`, which takes 8 bytes per row in every process while it is built."""

    def __init__(self, shard_sizes: NDArray[np.int64]) -> None:
        self.num_samples = int(shard_sizes.sum())
        self._firsts = (shard_sizes.cumsum() - shard_sizes).tolist()

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The shard of a row, and the row's number in it."""
        index = int(index)
        if not 0 <= index < self.num_samples:
            raise IndexError(f"row {index} is not among {self.num_samples:,}")
        shard = bisect_right(self._firsts, index) - 1
        return shard, index - self._firsts[shard]


def draw_units(dataset: StreamingDataset, epoch: int, streams: Sequence[int]) -> list[Unit]:
    """The units of an epoch, in order of shards; one is read again with ids raised by the number of rows."""
    is_fixed = dataset.sampling_method != "balanced"
    rng = np.random.default_rng(dataset.shuffle_seed + (0 if is_fixed else epoch))
    units = []
    for stream in streams:
        shards = dataset.shard_offset_per_stream[stream] + np.arange(dataset.shards_per_stream[stream])
        sizes = dataset.samples_per_shard[shards]
        counts = get_sampling(
            sizes,
            dataset.streams[stream].choose,
            dataset.sampling_granularity,
            dataset.shuffle_seed,
            epoch,
            dataset.epoch_seed_change,
        )
        firsts = dataset.sample_offset_per_shard[shards]
        for size, count, first in zip(sizes.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            repetitions, rest = divmod(count, size)
            units += [Unit(size, first + number * dataset.num_samples) for number in range(repetitions)]
            if rest:
                chosen = rng.choice(size, rest, replace=False)
                chosen.sort()
                units.append(Unit(rest, first + repetitions * dataset.num_samples, chosen))
    return units


def is_regular(dataset: StreamingDataset, world: World, drop: int) -> bool:
    """Whether `fill_sequence` orders this epoch; every worker comes to the same answer."""
    rows, canonical = dataset.epoch_size, dataset.num_canonical_nodes
    assert canonical is not None
    return (
        dataset.batching_method == "random"
        and dataset.replication in {None, 1}
        and (not dataset.shuffle or dataset.shuffle_algo == "py1e")
        and canonical % world.num_nodes == 0
        and rows % canonical == 0
        and 0 <= drop < rows
        and drop % world.num_nodes == 0
        and (rows - drop) % world.num_ranks == 0
    )


def row_dtype(dataset: StreamingDataset) -> type[np.signedinteger]:
    """Type of sample ids, whose largest is that of the last repetition."""
    most = max(
        -(-stream.choose // size) for stream, size in zip(dataset.streams, dataset.samples_per_stream, strict=True)
    )
    return np.int32 if (int(most) + 1) * dataset.num_samples < np.iinfo(np.int32).max else np.int64


def sequence_length(dataset: StreamingDataset, world: World, drop: int) -> int:
    """Rows that a node reads from row `drop` of the epoch on, with padding to whole batches of every worker."""
    batch_size = dataset.batch_size
    assert batch_size is not None
    whole = world.ranks_per_node * world.workers_per_rank * batch_size
    return -(-(dataset.epoch_size - drop) // world.num_nodes // whole) * whole


def fill_sequence(
    sequence: NDArray[np.signedinteger], dataset: StreamingDataset, world: World, epoch: int, drop: int
) -> None:
    """Write the ids of the samples that a node reads, in time: batch, worker, place in the batch, rank.

    Args:
        sequence: To write to, of `sequence_length`; -1 is written as padding.
        dataset: Whose epoch.
        world: The node, and how many there are.
        epoch: Number of the epoch.
        drop: Rows of the epoch that all nodes together have read.
    """
    canonical, nodes = dataset.num_canonical_nodes, world.num_nodes
    assert canonical is not None
    sequence[(dataset.epoch_size - drop) // nodes :] = -1
    units = draw_units(dataset, epoch, range(dataset.num_streams))
    is_own = [number % nodes == world.node for number in range(canonical)]
    parts = _shuffled_parts(dataset, units, epoch, is_own, sequence.dtype.type)
    for number, ids in enumerate(parts):
        if ids is None:
            continue
        # Canonical nodes take turns in the epoch, and nodes take turns in what is left of it.
        skipped = max(0, -(-(drop - number) // canonical))
        first = (skipped * canonical + number - drop) // nodes
        sequence[first :: canonical // nodes][: len(ids) - skipped] = ids[skipped:]


def _shuffled_parts(
    dataset: StreamingDataset, units: Sequence[Unit], epoch: int, is_own: Sequence[bool], dtype: type[np.signedinteger]
) -> Iterator[NDArray[np.signedinteger] | None]:
    """The sample ids of each canonical node in turn, as `py1e` shuffles them; None for another node's."""
    ends = np.cumsum([unit.size for unit in units]).tolist()
    spans = list(pairwise([0, *ends]))
    if dataset.shuffle:
        np.random.default_rng(dataset.shuffle_seed).shuffle(spans)
    spans, parts = divide_spans(spans, ends[-1], len(is_own))
    epoch_rng = np.random.default_rng(dataset.shuffle_seed + epoch)
    if dataset.shuffle:
        for begin, end in parts:
            part = spans[begin:end]
            epoch_rng.shuffle(part)
            spans[begin:end] = part
    scratch = np.empty(max(unit.size for unit in units), np.int64)  # numpy shuffles 8 bytes fastest
    for (begin, end), wanted in zip(parts, is_own, strict=True):
        ids = np.empty(ends[-1] // len(is_own) if wanted else 0, dtype)
        sizes, at = [], 0
        for first, last in spans[begin:end]:
            span = scratch[: last - first]
            if wanted:
                number = bisect_right(ends, first)
                units[number].write(span, first - (ends[number] - units[number].size))
            if dataset.shuffle:
                epoch_rng.shuffle(span)
            if wanted:
                ids[at : at + len(span)] = span
            sizes.append(len(span))
            at += len(span)
        if dataset.shuffle:
            assert dataset.shuffle_block_size is not None
            positions = _shifted_positions(epoch_rng, sizes, dataset.shuffle_block_size, wanted)
            if positions is not None:
                ids = ids[_sorting_order(positions, reach=int(0.625 * dataset.shuffle_block_size) + 2)]
        yield ids if wanted else None


def _shifted_positions(
    rng: np.random.Generator, sizes: Sequence[int], block_size: int, wanted: bool
) -> NDArray[np.float64] | None:
    """Where each row of a canonical node moves to, span by span, within a block of random size."""
    rows, offset = sum(sizes), 0
    positions = np.arange(rows, dtype=np.float64) if wanted else None
    for size in sizes:
        cutoff = (rng.integers(int(0.75 * block_size), int(1.25 * block_size)) - size) / 2
        if cutoff < 0:
            cutoff = 0
            warnings.warn(
                f"data.shuffle_block_size={block_size} is smaller than some shards, whose rows are not mixed with "
                "those of others: raise it",
                stacklevel=2,
            )
        low, high = max(-cutoff, -offset), min(cutoff, rows - offset - size)
        if positions is None:
            rng.random(size)
        else:
            positions[offset : offset + size] += rng.uniform(low, high, size)
        offset += size
    return positions


def _sorting_order(positions: NDArray[np.float64], *, reach: int) -> NDArray[np.signedinteger]:
    """What `np.argsort` gives for positions that are at least 0 and less than `reach` away from their index.

    Parts are sorted that stay in the processor's cache, as integers of position and index: half the time. Where two
    positions are too close for that, or even equal, `argsort` decides.
    """
    rows, order = len(positions), np.empty(len(positions), np.int32)
    if not _PART <= rows < 1 << 31 or reach > _PART:
        return np.argsort(positions)
    filled = 0
    for begin in range(0, rows, _PART):
        end = begin + _PART if begin + _PART < rows else rows + reach
        first = max(0, begin - reach)
        near = positions[first : end + reach]
        index = np.flatnonzero((near >= begin) & (near < end))
        index_bits = len(near).bit_length()
        keys = near[index] - (begin - 1)
        keys *= 2.0 ** (62 - (end - begin + 1).bit_length() - index_bits)
        keys = keys.astype(np.int64)
        keys <<= index_bits
        keys |= index
        keys.sort()
        places = keys >> index_bits
        if (places[1:] == places[:-1]).any():
            index = index[np.argsort(near[index])]
            if not (np.diff(near[index]) > 0).all():
                return np.argsort(positions)
        else:
            keys &= (1 << index_bits) - 1
            index = keys
        order[filled : filled + len(index)] = index + first
        filled += len(index)
    assert filled == rows
    return order

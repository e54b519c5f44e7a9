"""Which rows make an epoch: how many of each stream, and how many canonical nodes.

Their sum is the largest multiple of the batch and of the canonical nodes that the streams have together, so that no
world size repeats a row. A stream's share of it is its proportion or, without proportions, its share of the rows, to
the nearest whole row: a stream drawn for more rows than it has repeats them, the others leave some out.

Canonical nodes only spread the order over nodes. Data with fewer rows than one round of them and of the batch are read
as by a single one: that divides any number of nodes, and the choice depends on data and configuration alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from meap.config import DataConfig
from meap.data.shards import Shards
from meap.errors import ConfigError

__all__ = ["Epoch", "describe_epoch", "is_stratified", "plan_epoch"]


@dataclass(frozen=True)
class Epoch:
    """What an epoch reads."""

    counts: tuple[int, ...]
    """Rows from each stream."""
    canonical_nodes: int
    """`data.num_canonical_nodes`, or 1 where the data are too small for it."""

    @property
    def rows(self) -> int:
        """Rows from all streams."""
        return sum(self.counts)


def is_stratified(data: DataConfig, shards: Shards) -> bool:
    """Whether each batch is to hold the same number of rows of each stream; only a split with proportions can."""
    return data.batching_method == "stratified" and shards.streams[0].proportion is not None


def plan_epoch(data: DataConfig, shards: Shards, global_batch_size: int) -> Epoch:
    """What an epoch of a split reads.

    Raises:
        ConfigError: There are fewer rows than a batch, or a proportion is too small for a row.
    """
    if shards.rows < global_batch_size:
        fitting = next(size for size in range(shards.rows, 0, -1) if global_batch_size % size == 0)
        raise ConfigError(
            f"the {shards.split} split of {shards.origin} has {shards.rows} rows, fewer than one batch of "
            f"train.global_batch_size={global_batch_size}: set train.global_batch_size={fitting}, or prepare more data"
        )
    weights = [
        Fraction(stream.manifest.rows if stream.proportion is None else stream.proportion) for stream in shards.streams
    ]
    if not is_stratified(data, shards):
        rows, nodes = _whole_rounds(data, shards, global_batch_size, [1])
        counts = _apportion(rows, weights)
        _require_rows(shards, counts, f"an epoch of {rows} rows", "prepare more data")
        return Epoch(tuple(counts), nodes)

    portions = _apportion(global_batch_size, weights)
    _require_rows(shards, portions, f"a stratified batch of {global_batch_size} rows", "raise train.global_batch_size")
    if data.shuffle_block_size * min(portions) < global_batch_size:
        raise ConfigError(
            f"data.shuffle_block_size={data.shuffle_block_size} leaves nothing to a stream that has {min(portions)} "
            f"of the {global_batch_size} rows of a batch: raise it to {-(-global_batch_size // min(portions))} at least"
        )
    rows, nodes = _whole_rounds(data, shards, global_batch_size, portions)
    return Epoch(tuple(portion * (rows // global_batch_size) for portion in portions), nodes)


def describe_epoch(data: DataConfig, shards: Shards, global_batch_size: int) -> str:
    """How many rows an epoch has, of which streams, and why some are left out."""
    epoch = plan_epoch(data, shards, global_batch_size)
    text = f"{epoch.rows:,} rows = {epoch.rows // global_batch_size:,} steps"
    if shards.streams[0].proportion is not None:
        shares = zip(shards.streams, epoch.counts, strict=True)
        return f"{text}: " + ", ".join(f"{each.name} {count:,} of {each.manifest.rows:,}" for each, count in shares)
    if left_out := shards.rows - epoch.rows:
        unit = f"train.global_batch_size={global_batch_size}"
        if epoch.canonical_nodes > 1:
            unit += f" and data.num_canonical_nodes={epoch.canonical_nodes}"
        which = "others in each epoch" if data.sampling_method == "balanced" else "the same in each epoch"
        text += f", a multiple of {unit}; {left_out:,} rows are left out, {which}"
        if (fewer := shards.rows % global_batch_size) < left_out:
            nodes = math.gcd(global_batch_size, data.num_canonical_nodes)
            text += f" ({fewer:,} with data.num_canonical_nodes={nodes})"
    return text


def _whole_rounds(data: DataConfig, shards: Shards, global_batch_size: int, portions: Sequence[int]) -> tuple[int, int]:
    """Rows of an epoch, and the canonical nodes that they divide by.

    Streaming shares out each stream by itself, and repeats rows where they do not divide by the canonical nodes:
    `portions` are the rows of a batch that must.
    """
    for nodes in (data.num_canonical_nodes, 1):
        unit = math.lcm(global_batch_size, nodes)
        if len(portions) > 1:
            steps = math.lcm(*(nodes // math.gcd(nodes, portion) for portion in portions))
            unit = math.lcm(unit, steps * global_batch_size)
        if rows := shards.rows // unit * unit:
            return rows, nodes
    raise AssertionError("a split of at least one batch has a round with one canonical node")


def _apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Whole numbers that add up to `total`, each within one of its share; the largest remainders are rounded up.

    Exact, so that weights that are row counts never ask a stream for more rows than it has.
    """
    shares = [total * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: counts[index] - shares[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _require_rows(shards: Shards, counts: Sequence[int], whole: str, remedy: str) -> None:
    for stream, count in zip(shards.streams, counts, strict=True):
        if stream.proportion is not None and count == 0:
            raise ConfigError(
                f"data.streams.{stream.name}.proportion={stream.proportion:g} is too small: {whole} would hold none "
                f"of it; raise it, {remedy}, or leave the stream out"
            )

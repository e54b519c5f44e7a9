"""How many rows of each stream make an epoch.

Their sum is the largest multiple of the batch and of the canonical nodes that the streams have together, so that no
world size repeats a row. A stream's share of it is its proportion or, without proportions, its share of the rows, to
the nearest whole row: a stream drawn for more rows than it has repeats them, the others leave some out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from meap.config import DataConfig
from meap.data.shards import Shards
from meap.errors import ConfigError

__all__ = ["is_stratified", "rows_per_epoch"]


def is_stratified(data: DataConfig, shards: Shards) -> bool:
    """Whether each batch is to hold the same number of rows of each stream; only a split with proportions can."""
    return data.batching_method == "stratified" and shards.streams[0].proportion is not None


def rows_per_epoch(data: DataConfig, shards: Shards, global_batch_size: int) -> list[int]:
    """Rows of an epoch from each stream.

    Raises:
        ConfigError: There are fewer rows than one round of batches, or a proportion is too small for a row.
    """
    weights = [
        Fraction(stream.manifest.rows if stream.proportion is None else stream.proportion) for stream in shards.streams
    ]
    unit = math.lcm(global_batch_size, data.num_canonical_nodes)
    if not is_stratified(data, shards):
        rows = _whole_rounds(data, shards, global_batch_size, unit)
        counts = _apportion(rows, weights)
        _require_rows(shards, counts, f"an epoch of {rows} rows", "prepare more data")
        return counts

    portions = _apportion(global_batch_size, weights)
    _require_rows(shards, portions, f"a stratified batch of {global_batch_size} rows", "raise train.global_batch_size")
    if data.shuffle_block_size * min(portions) < global_batch_size:
        raise ConfigError(
            f"data.shuffle_block_size={data.shuffle_block_size} leaves nothing to a stream that has {min(portions)} "
            f"of the {global_batch_size} rows of a batch: raise it to {-(-global_batch_size // min(portions))} at least"
        )
    # Streaming shares out each stream by itself, and repeats rows where they do not divide by the canonical nodes.
    nodes = data.num_canonical_nodes
    steps = math.lcm(*(nodes // math.gcd(nodes, portion) for portion in portions))
    rows = _whole_rounds(data, shards, global_batch_size, math.lcm(unit, steps * global_batch_size))
    return [portion * (rows // global_batch_size) for portion in portions]


def _whole_rounds(data: DataConfig, shards: Shards, global_batch_size: int, unit: int) -> int:
    rows = shards.rows // unit * unit
    if rows == 0:
        raise ConfigError(
            f"the {shards.split} split of {shards.origin} has {shards.rows} rows, fewer than one round of {unit} "
            f"(a common multiple of the global batch size {global_batch_size} and "
            f"data.num_canonical_nodes={data.num_canonical_nodes}): lower either, or prepare more data"
        )
    return rows


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

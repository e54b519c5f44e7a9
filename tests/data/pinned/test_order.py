"""The order of an epoch is streaming's own, bit for bit, whatever the shards, the world and the point of resumption."""

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from streaming import StreamingDataset
from streaming.base.batching import generate_work
from streaming.base.world import World

from meap.data.pinned.order import (
    RowLocator,
    _shifted_positions,
    _sorting_order,
    draw_units,
    fill_sequence,
    is_regular,
    row_dtype,
    sequence_length,
)


class Described:
    """What streaming's functions read of a data set, from sizes of shards alone."""

    def __init__(self, sizes: list[list[int]], chosen: list[int], **settings: Any) -> None:
        self.__dict__ |= settings
        self.num_streams = len(sizes)
        self.samples_per_shard = np.concatenate(sizes)
        self.sample_offset_per_shard = self.samples_per_shard.cumsum() - self.samples_per_shard
        self.samples_per_stream = np.array([sum(each) for each in sizes])
        self.shards_per_stream = np.array([len(each) for each in sizes])
        self.shard_offset_per_stream = self.shards_per_stream.cumsum() - self.shards_per_stream
        self.num_samples = int(self.samples_per_shard.sum())
        self.streams = [SimpleNamespace(choose=each) for each in chosen]
        self.epoch_size = sum(chosen)
        self.epoch_seed_change = settings["shuffle"] and settings["sampling_method"] == "balanced"

    def resample_streams(self, epoch: int, stream_id: int | None = None) -> Any:
        return StreamingDataset.resample_streams(self, epoch, stream_id)  # pyright: ignore[reportArgumentType]


@st.composite
def epochs(draw: st.DrawFn) -> tuple[Any, int, int, int, int, int]:
    nodes, ranks, workers, batch = (draw(st.integers(1, most)) for most in (3, 3, 3, 4))
    canonical = nodes * draw(st.integers(1, 4))
    unit = int(np.lcm(canonical, nodes * ranks * batch))
    sizes = draw(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), min_size=1, max_size=3))
    weights = [draw(st.sampled_from([0.3, 1, 1, 2.6])) * sum(each) for each in sizes]
    chosen = [int(weight) + 1 for weight in weights]
    chosen[0] += -sum(chosen) % unit
    dataset = Described(
        sizes,
        chosen,
        num_canonical_nodes=canonical,
        batch_size=batch,
        shuffle=draw(st.booleans()),
        shuffle_algo="py1e",
        shuffle_seed=draw(st.integers(0, 5)),
        shuffle_block_size=draw(st.integers(4, 200)),
        sampling_method=draw(st.sampled_from(["balanced", "fixed"])),
        sampling_granularity=draw(st.sampled_from([1, 64])),
        batching_method="random",
        partition_algo=draw(st.sampled_from(["relaxed", "orig"])),
        replication=None,
        initial_physical_nodes=draw(st.sampled_from([None, 1, 2])),
    )
    step = draw(st.integers(0, sum(chosen) // (nodes * ranks * batch) - 1))
    return dataset, nodes, ranks, workers, draw(st.integers(0, 3)), step * nodes * ranks * batch


@settings(max_examples=300, deadline=None)
@given(epochs())
def test_every_worker_reads_what_streaming_would_give_it(given_epoch):
    dataset, nodes, ranks, workers, epoch, drop = given_epoch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        world = World(nodes, ranks, workers, 0)
        assume(is_regular(dataset, world, drop))
        expected = generate_work("random", dataset, world, epoch, drop)
        for node in range(nodes):
            world = World(nodes, ranks, workers, node * ranks * workers)
            sequence = np.empty(sequence_length(dataset, world, drop), row_dtype(dataset))
            fill_sequence(sequence, dataset, world, epoch, drop)
            shares = sequence.reshape(-1, workers, dataset.batch_size, ranks).transpose(3, 1, 0, 2)
            rows = np.where(shares < 0, -1, shares % dataset.num_samples)
            np.testing.assert_array_equal(rows, expected[node])
            real = sequence[sequence >= 0]
            assert len(set(real.tolist())) == len(real), "an id was given twice"


@settings(max_examples=100, deadline=None)
@given(epochs())
def test_repetitions_have_ids_of_their_own_and_the_rows_of_streaming(given_epoch):
    dataset, *_, epoch, _ = given_epoch
    sizes, rows = dataset.resample_streams(epoch)
    units = draw_units(dataset, epoch, range(dataset.num_streams))
    ids = np.empty(len(rows), np.int64)
    for unit, end in zip(units, np.cumsum(sizes), strict=True):
        unit.write(ids[end - unit.size : end], 0)
    assert [unit.size for unit in units] == sizes.tolist()
    np.testing.assert_array_equal(ids % dataset.num_samples, rows)
    assert len(set(ids.tolist())) == len(ids)


def test_the_largest_corpora_need_wider_ids():
    def dtype_of(rows: int, chosen: int) -> type:
        return row_dtype(
            SimpleNamespace(streams=[SimpleNamespace(choose=chosen)], samples_per_stream=[rows], num_samples=rows)  # pyright: ignore[reportArgumentType]
        )

    assert dtype_of(153_000_000, 153_000_000) is np.int32
    assert dtype_of(153_000_000, 40 * 153_000_000) is np.int64
    assert dtype_of(2**31, 2**31) is np.int64


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_rows_are_found_in_their_shards(sizes):
    locator = RowLocator(np.array(sizes))
    found = [locator[row] for row in range(sum(sizes))]
    assert found == [(shard, number) for shard, size in enumerate(sizes) for number in range(size)]


@pytest.mark.parametrize("places", [None, 1 << 12, 1 << 8], ids=["all", "close", "equal"])
@pytest.mark.parametrize(("size", "block"), [(8192, 65_536), (100, 2_000), (30_000, 60_000), (3_000, 1_000_000)])
def test_positions_are_sorted_as_numpy_sorts_them(places, size, block):
    rows = 150_000 // size * size
    positions = _shifted_positions(np.random.default_rng(size), [size] * (rows // size), block, wanted=True)
    if places is not None:
        positions = np.floor(positions * places) / places
    found = _sorting_order(positions, reach=int(0.625 * block) + 2)
    np.testing.assert_array_equal(found, np.argsort(positions))

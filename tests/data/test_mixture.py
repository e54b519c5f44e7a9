"""What an epoch reads, as a function of data and configuration alone, and what is said of it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meap.config import DataConfig, StreamConfig
from meap.data import Shards, describe_epoch, plan_epoch, shared_memory_bytes
from meap.errors import ConfigError
from meap.manifest import CONVERSATIONS, ROWS


def shards(*rows: int, proportions: list[float] | None = None, kind: str = ROWS) -> Shards:
    streams = tuple(
        SimpleNamespace(
            name=f"s{number}",
            remote=f"r{number}",
            proportion=proportions[number] if proportions else None,
            manifest=SimpleNamespace(rows=count, seq_len=16, kind=kind),
        )
        for number, count in enumerate(rows)
    )
    return Shards("train", streams)  # type: ignore[arg-type]


@given(rows=st.integers(1, 3000), batch=st.integers(1, 64), nodes=st.integers(1, 48))
def test_whatever_holds_a_batch_has_an_epoch_of_whole_rounds(rows, batch, nodes):
    data = DataConfig(num_canonical_nodes=nodes)
    if rows < batch:
        with pytest.raises(
            ConfigError, match=rf"has {rows} rows, fewer than one batch .*: set train.global_batch_size="
        ):
            plan_epoch(data, shards(rows), batch)
        return
    epoch = plan_epoch(data, shards(rows), batch)
    assert 0 < epoch.rows <= rows
    assert epoch.rows % batch == epoch.rows % epoch.canonical_nodes == 0
    assert epoch.canonical_nodes in {nodes, 1}


def test_the_batch_that_an_error_names_works():
    data = DataConfig()
    with pytest.raises(ConfigError, match=r"has 5 rows, .*=256: set train.global_batch_size=4, or prepare more data"):
        plan_epoch(data, shards(5), 256)
    assert plan_epoch(data, shards(5), 4).rows == 4


def test_data_too_small_for_the_canonical_nodes_are_read_as_by_one():
    data = DataConfig(num_canonical_nodes=24)
    assert plan_epoch(data, shards(768), 256).canonical_nodes == 24
    assert plan_epoch(data, shards(767), 256) == plan_epoch(DataConfig(num_canonical_nodes=1), shards(767), 256)
    streams = {f"s{number}": StreamConfig(f"r{number}", share) for number, share in enumerate((6, 1, 1))}
    mixed = DataConfig(streams=streams, batching_method="stratified", num_canonical_nodes=64)
    epoch = plan_epoch(mixed, shards(64, 20, 40, proportions=[6, 1, 1]), 8)
    assert (epoch.counts, epoch.canonical_nodes) == ((90, 15, 15), 1)


def test_what_an_epoch_leaves_out_is_said_with_the_reason_and_a_way_out():
    data = DataConfig(num_canonical_nodes=24)
    unit = "a multiple of train.global_batch_size=8 and data.num_canonical_nodes=24"
    assert describe_epoch(data, shards(96), 8) == "96 rows = 12 steps"
    told = f"72 rows = 9 steps, {unit}; 7 rows are left out, others in each epoch"
    assert describe_epoch(data, shards(79), 8) == told
    told = "16 rows = 2 steps, a multiple of train.global_batch_size=8; 7 rows are left out, others in each epoch"
    assert describe_epoch(data, shards(23), 8) == told
    told = (
        f"24 rows = 3 steps, {unit}; 20 rows are left out, the same in each epoch (4 with data.num_canonical_nodes=8)"
    )
    assert describe_epoch(replace(data, sampling_method="fixed"), shards(44), 8) == told
    assert plan_epoch(replace(data, num_canonical_nodes=8), shards(44), 8).rows == 44 - 4


def test_a_mixture_is_said_by_stream():
    told = describe_epoch(DataConfig(num_canonical_nodes=4), shards(64, 20, proportions=[1, 1]), 8)
    assert told == "80 rows = 10 steps: s0 40 of 64, s1 40 of 20"


def test_shared_memory_holds_the_order_of_an_epoch_and_the_batches_on_their_way():
    data = DataConfig(num_workers=2)
    assert shared_memory_bytes(data, shards(64), batch_rows=8, epoch_rows=64) == 64 * 8 + 2 * 2 * 8 * 16 * 2 * 8
    assert shared_memory_bytes(data, shards(64, kind=CONVERSATIONS), batch_rows=8) == 2 * 2 * 8 * 16 * 3 * 8

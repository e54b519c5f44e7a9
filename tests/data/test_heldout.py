"""Held-out rows: each once, the same on any number of ranks, none left out but by the bound."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meap.config import DataConfig
from meap.data import build_heldout_loader, open_heldout, open_shards
from meap.data.heldout import deal_rows
from meap.errors import IncompleteError
from meap.schema import IGNORE_INDEX

SEQ_LEN = 16
SIZES = {"num_rows": st.integers(1, 70), "num_batches": st.integers(1, 5), "per_rank": st.integers(1, 4)}


@given(**SIZES)
def test_ranks_together_score_every_row_once_in_the_same_batches(num_rows, num_batches, per_rank):
    batch = 4 * per_rank  # of 1, 2 or 4 ranks
    sizes = {"num_batches": num_batches, "global_batch_size": batch}
    whole = [{row for row, _ in each} for each in deal_rows(num_rows, **sizes, world_size=1, rank=0)]
    assert sum(map(len, whole)) == len(set().union(*whole)) == min(num_rows, num_batches * batch)
    assert all(len(each) == batch for each in whole[:-1])
    for world_size in (2, 4):
        ranks = [deal_rows(num_rows, **sizes, world_size=world_size, rank=rank) for rank in range(world_size)]
        for expected, *parts in zip(whole, *ranks, strict=True):
            assert len({len(part) for part in parts}) == 1, "sharded ranks do the same work"
            scored = [row for part in parts for row, is_scored in part if is_scored]
            assert sorted(scored) == sorted(expected)
            assert {row for part in parts for row, _ in part} == expected, "what is read besides is at hand"


@given(**SIZES)
def test_what_a_bound_leaves_is_spread_over_the_split(num_rows, num_batches, per_rank):
    sizes = {"num_batches": num_batches, "global_batch_size": per_rank, "world_size": 1, "rank": 0}
    rows = [row for each in deal_rows(num_rows, **sizes) for row, _ in each]
    steps = {after - before for before, after in zip(rows, [*rows[1:], num_rows], strict=True)}
    assert rows[0] == 0
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_read_as_they_are_again_and_again(tmp_path, write_shards, workers):
    remote = write_shards(tmp_path / "remote", rows=8, seq_len=SEQ_LEN, validation_rows=19)
    data = DataConfig(remote=str(remote), seq_len=SEQ_LEN, num_workers=workers)
    heldout = open_heldout(data)
    assert heldout is not None
    loader = build_heldout_loader(
        data, heldout, num_batches=16, global_batch_size=8, world_size=1, cache_dir=tmp_path / "cache"
    )
    for _ in range(2):
        batches = list(loader)
        assert [len(batch["sample_id"]) for batch in batches] == [8, 8, 3]
        assert torch.cat([batch["sample_id"] for batch in batches]).tolist() == list(range(19))
        for batch in batches:
            torch.testing.assert_close(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
            assert not (batch["labels"] == IGNORE_INDEX).any()


def test_none_held_out_is_no_error_and_no_data_is(tmp_path: Path, write_shards):
    remote = write_shards(tmp_path / "remote", rows=8, seq_len=SEQ_LEN, validation_rows=0)
    data = DataConfig(remote=str(remote), seq_len=SEQ_LEN)
    assert open_heldout(data) is None
    with pytest.raises(IncompleteError, match="holds no finished 'train' split"):
        open_shards(DataConfig(remote=str(tmp_path), seq_len=SEQ_LEN), "train")

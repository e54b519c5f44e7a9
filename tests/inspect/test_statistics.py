"""The numbers are those of the data: counted once more, another way."""

import numpy as np

from meap.inspect.statistics import group_sources, measure
from meap.manifest import CONVERSATIONS, ShardRecord


def test_documents_are_measured_across_rows_and_the_cut_ones_left_out(rows_remote, open_split, documents):
    data = open_split(rows_remote)
    number_of_shards = len(data.manifest.shards)
    everything = measure(data, [], extra_shards=number_of_shards + 5)
    assert everything.rows == data.manifest.rows
    assert everything.shards == number_of_shards
    # Each shard holds the documents that begin and end in it.
    stream = [(number, 2 + len(tokens)) for number, tokens in enumerate(documents)]
    ends = np.cumsum([size for _, size in stream])
    starts = ends - [size for _, size in stream]
    edges = np.array(data.shard_starts) * 65
    whole = [
        len(documents[number])
        for number in range(len(documents))
        if np.searchsorted(edges, starts[number], "right") == np.searchsorted(edges, ends[number], "left")
        and ends[number] <= edges[-1]
    ]
    # A document whose border tokens alone lie beyond the edge of a shard may or may not be seen whole.
    assert abs(len(everything.lengths) - len(whole)) <= number_of_shards
    assert set(whole) >= set(everything.lengths) - set(map(len, documents)) == set()
    assert everything.num_cut <= 2 * number_of_shards


def test_masks_are_counted_where_they_are(rows_remote, open_split):
    data = open_split(rows_remote, "ratio=0.25", "epoch=2")
    measured = measure(data, [data.sample(0)], extra_shards=2)
    assert measured.shards == 3
    assert measured.num_maskable == 64 * measured.rows
    assert measured.num_masked == 16 * measured.rows
    assert measured.realised_ratio == 0.25
    assert measured.masked_by_place.sum() == measured.num_masked
    assert measured.maskable_by_place.tolist() == [2 * measured.rows] * 32


def test_conversations_are_counted(sft_remote, open_split):
    data = open_split(sft_remote)
    measured = measure(data, [], extra_shards=99)
    manifest = data.manifest
    assert len(measured.lengths) == len(measured.answer_lengths) == manifest.documents
    assert sum(measured.lengths) == manifest.tokens
    assert measured.num_copies == manifest.counts["conversations_copied"] > 0
    labels = [data.dataset.sample_at(number, epoch=0)["labels"] for number in range(manifest.rows)]
    assert measured.num_scored == sum(measured.answer_lengths) == sum(int((each != -100).sum()) for each in labels)
    assert measured.num_used == sum(
        int(((columns := data.dataset.stored_at(number))["lengths"] * (1 + columns["copied"])).sum())
        for number in range(manifest.rows)
    )
    assert 0 < measured.masked_by_place.sum() == measured.num_masked


def test_rows_are_told_apart_by_the_task_that_wrote_them(rows_remote, open_split, with_manifest):
    shards = tuple(ShardRecord(f"shard.{task:05d}.{number:05d}.mds", 1, "", 10) for task in (0, 2) for number in (0, 1))
    data = with_manifest(
        open_split(rows_remote), shards=shards, sources=tuple("abcdefg"), config={"tasks": 3}, rows=40, seq_len=9
    )
    groups = group_sources(data.manifest)
    assert [("".join(group.files), group.rows, group.tokens) for group in groups] == [
        ("ab", 20, 200),
        ("cd", 0, 0),
        ("efg", 20, 200),
    ]
    assert [group.tokens for group in group_sources(with_manifest(data, kind=CONVERSATIONS).manifest)] == [None] * 3

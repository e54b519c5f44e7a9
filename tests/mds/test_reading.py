"""Shard files are parsed from their bytes: any bytes give rows or a finding, never anything else."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meap.mds.findings import ShardError
from meap.mds.index import Column, ShardEntry, StoredFile, parse_entry
from meap.mds.reading import decode_conversations, decode_rows, decompress

_ROWS = (Column("tokens", "uint16", 4),)
_PARTS = (Column("answer", "uint8", None), Column("lengths", "uint32", None))


def entry(samples, columns, *, zipped=False, raw_bytes=0):
    file = StoredFile("shard.00000.00000.mds", raw_bytes, {})
    return ShardEntry(samples, columns, file, file if zipped else None)


def shard_of(samples: list[bytes]) -> bytes:
    head = 4 * (len(samples) + 2)
    offsets = np.cumsum([head, *map(len, samples)]).astype(np.uint32)
    return np.uint32(len(samples)).tobytes() + offsets.tobytes() + b"".join(samples)


def part(values: list[int], dtype: str) -> bytes:
    return bytes([4, len(values)]) + np.array(values, dtype).tobytes()


def sample_of(answer: list[int], lengths: list[int]) -> bytes:
    parts = part(answer, "u1"), part(lengths, "<u4")
    return np.array([len(each) for each in parts], np.uint32).tobytes() + b"".join(parts)


_TEXTS = ("", "mds", "zstd:3", "a", "../a", "ndarray:uint8", "ndarray:uint16:4", "pkl", "basename", "bytes", "hashes")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.sampled_from(_TEXTS),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(_TEXTS), children, max_size=3),
    max_leaves=8,
)
_KEYS = ("format", "version", "compression", "raw_data", "zip_data", "column_names", "column_encodings", "samples")
_GOOD = {
    "format": "mds", "version": 2, "compression": None, "samples": 1, "zip_data": None,
    "raw_data": {"basename": "a", "bytes": 1, "hashes": {}},
    "column_names": ["t"], "column_encodings": ["ndarray:uint8"],
}  # fmt: skip


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=3))
def test_any_entry_is_parsed_or_found(changes):
    with suppress(ShardError):
        assert parse_entry(_GOOD | changes, "index.json").stored


@pytest.mark.parametrize("name", ["../a", "a/b", "/a", "a\\b", ".hidden", "..", "", "a..b", "C:a", "a\nb", "a b"])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(ShardError, match="a plain file name, without / or"):
        parse_entry(_GOOD | {"raw_data": {"basename": name, "bytes": 1, "hashes": {}}}, "index.json")


@pytest.mark.parametrize(
    "encoding",
    ["pkl", "json", "str", "bytes", "ndarray", "ndarray:float32:4", "ndarray:uint16:0", "ndarray:uint16:2,2"],
)
def test_encodings_other_than_integer_arrays_are_refused(encoding):
    with pytest.raises(ShardError, match="encoding of column 't'"):
        parse_entry(_GOOD | {"column_encodings": [encoding]}, "index.json")


@settings(max_examples=300)
@given(content=st.binary(max_size=120), samples=st.integers(0, 5))
def test_any_bytes_are_rows_or_found(content, samples):
    with suppress(ShardError):
        assert decode_rows(content, entry(samples, _ROWS), "x").shape == (samples, 4)
    with suppress(ShardError):
        assert len(list(decode_conversations(content, entry(samples, _PARTS), "x"))) == samples


@settings(max_examples=300)
@given(data=st.data())
def test_any_change_of_conversations_is_decoded_or_found(data):
    good = shard_of([sample_of([0, 1, 1], [3]), sample_of([0, 1] * 4, [4, 4])])
    rows = list(decode_conversations(good, entry(2, _PARTS), "x"))
    assert [row["answer"].tolist() for row in rows] == [[0, 1, 1], [0, 1] * 4]
    assert [row["lengths"].tolist() for row in rows] == [[3], [4, 4]]
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ShardError):
        assert len(list(decode_conversations(bytes(changed), entry(2, _PARTS), "x"))) == 2


@given(st.binary(max_size=200))
def test_any_bytes_are_decompressed_or_found(content):
    with pytest.raises(ShardError, match="x: (compression|bytes after decompression): expected "):
        decompress(content, entry(1, _ROWS, zipped=True, raw_bytes=5000), "x")


def test_a_shard_that_unpacks_to_gigabytes_is_read_no_further_than_the_index_states():
    import tracemalloc

    import zstandard

    from meap.mds.reading import unpack

    hostile = zstandard.ZstdCompressor().compress(bytes(1 << 28)) * 16  # 4 GB in 128 kB, over several frames
    tracemalloc.start()
    try:
        assert len(unpack(hostile, 1 << 16)) == (1 << 16) + 1
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()

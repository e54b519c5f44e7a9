"""Shards are the bytes that streaming's own writer makes, and its reader reads them."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import zstandard

from meap.mds.index import INDEX_NAME, index_json
from meap.mds.writing import MdsWriter, Shard
from meap.schema import conversation_columns, mds_columns
from tests.prep.plain_streaming import open_plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from streaming import MDSWriter


def _rows(count: int, length: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 60_000, (count, length)).astype(dtype)


def _conversations(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    rows = []
    for length in [1, 255, 256, 65_535, 65_536, *random.integers(1, 900, count)]:
        rows.append(
            {
                "tokens": random.integers(0, 60_000, length).astype(np.uint16),
                "answer": random.integers(0, 2, length).astype(np.uint8),
                "lengths": np.array([length], np.uint32),
                "copied": np.array([1], np.uint8),
            }
        )
    return rows


def _theirs(folder: Path, columns: dict[str, str], samples: list[dict[str, np.ndarray]], size: str) -> list[bytes]:
    with MDSWriter(out=str(folder), columns=columns, hashes=["xxh3_64"], size_limit=size) as writer:
        for sample in samples:
            writer.write(sample)
    return [path.read_bytes() for path in sorted(folder.glob("*.mds"))]


def _publish(folder: Path, shards: list[Shard]) -> list[bytes]:
    folder.mkdir()
    files = [shard.to_file(f"shard.{number:05d}.mds") for number, shard in enumerate(shards)]
    for file in files:
        (folder / file.name).write_bytes(file.content)
    (folder / INDEX_NAME).write_bytes(index_json([file.entry for file in files]))
    return [file.content for file in files]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_rows_of_fixed_length_give_their_bytes(tmp_path, dtype, batch):
    columns = mds_columns(32, 1 << (16 if dtype == "uint16" else 17))
    rows = _rows(100, 33, dtype)
    writer = MdsWriter(columns, compression=None, shard_bytes=2 << 10)
    shards = [shard for start in range(0, 100, batch) for shard in writer.add_rows(rows[start : start + batch])]
    ours = _publish(tmp_path / "ours", [*shards, *writer.finish()])
    theirs = _theirs(tmp_path / "theirs", columns, [{"tokens": row} for row in rows], "2kb")
    assert ours == theirs
    assert len(ours) > 3
    index = [json.loads((tmp_path / name / "index.json").read_text()) for name in ("ours", "theirs")]
    assert index[0] == index[1]


def test_rows_of_any_length_give_their_bytes(tmp_path):
    columns = conversation_columns(60_000)
    samples = _conversations(60)
    writer = MdsWriter(columns, compression=None, shard_bytes=256 << 10)
    shards = [shard for sample in samples for shard in writer.add(sample)]
    ours = _publish(tmp_path / "ours", [*shards, *writer.finish()])
    assert ours == _theirs(tmp_path / "theirs", columns, samples, "256kb")
    assert len(ours) > 1


@pytest.mark.parametrize("compression", [None, "zstd", "zstd:1"])
def test_streaming_reads_them_back(tmp_path, compression):
    rows = _rows(100, 33, "uint16")
    writer = MdsWriter(mds_columns(32, 1000), compression=compression, shard_bytes=2 << 10)
    _publish(tmp_path / "set", [*writer.add_rows(rows), *writer.finish()])
    dataset = open_plain(
        remote=str(tmp_path / "set"), local=str(tmp_path / "cache"), batch_size=1, validate_hash="xxh3_64"
    )
    assert np.array_equal(np.stack([dataset[number]["tokens"] for number in range(100)]), rows)


def test_compressed_shards_carry_a_checksum():
    writer = MdsWriter(mds_columns(32, 1000), compression="zstd:1", shard_bytes=1 << 20)
    assert not list(writer.add_rows(_rows(50, 33, "uint16")))
    (shard,) = writer.finish()
    content = bytearray(shard.to_file("shard.00000.mds").content)
    assert zstandard.get_frame_parameters(bytes(content)).has_checksum
    assert zstandard.ZstdDecompressor().decompress(bytes(content)) == shard.raw
    for position in range(len(content) // 2, len(content), 97):
        damaged = content.copy()
        damaged[position] ^= 1
        with pytest.raises(zstandard.ZstdError):
            zstandard.ZstdDecompressor().decompress(bytes(damaged))


def test_nothing_written_is_no_shard():
    assert not list(MdsWriter(mds_columns(32, 1000), compression=None, shard_bytes=1 << 20).finish())

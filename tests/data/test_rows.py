"""Rows by number are those that streaming's own reader gives, and damage that no hash was asked for is an error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter
from streaming.base.format.mds.reader import MDSReader

from meap.data.rows import RowReader
from meap.mds.index import INDEX_NAME, parse_index

_KINDS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "fixed": ({"tokens": "ndarray:uint16:5"}, {"tokens": np.arange(5, dtype=np.uint16)}),
    "varying": (
        {"a": "ndarray:uint8", "b": "ndarray:uint32"},
        {"a": np.ones(3, np.uint8), "b": np.arange(7, dtype=np.uint32)},
    ),
    "of no rows of ours": ({"pair": "ndarray:int64:2,3"}, {"pair": np.ones((2, 3), np.int64)}),
}


def _shard(folder: Path, kind: str) -> MDSReader:
    columns, row = _KINDS[kind]
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for number in range(4):
            writer.write({name: value + value.dtype.type(number) for name, value in row.items()})
    (entry,) = parse_index((folder / INDEX_NAME).read_bytes())[1]
    return MDSReader.from_json(str(folder), "", entry)


@pytest.mark.parametrize("kind", _KINDS)
def test_rows_are_those_of_streamings_reader(tmp_path, kind):
    shard = _shard(tmp_path / "mds", kind)
    reader = RowReader(shard)
    for number in (3, 0, 2, 1):
        row, expected = reader.read(number), shard.get_item(number)
        assert row.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(row[name], expected[name])


def test_a_file_cut_short_is_an_error(tmp_path):
    shard = _shard(tmp_path / "mds", "fixed")
    (file,) = (tmp_path / "mds").glob("*.mds")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"buffer size|holds \d values"):
        RowReader(shard).read(3)
    file.write_bytes(content[:6])
    with pytest.raises(ValueError, match="ends before the offsets of row 0"):
        RowReader(shard).read(0)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        RowReader(shard).read(0)

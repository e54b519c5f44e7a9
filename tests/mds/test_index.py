"""What shards and their index are called, and what an index must be."""

import pytest

from meap.mds.index import is_compression, is_safe_name, is_shard_name, parse_index, shard_name, task_of_shard


def test_the_name_of_a_shard_says_its_task():
    name = shard_name(7, 123)
    assert (name, task_of_shard(name), task_of_shard(f"{name}.zstd")) == ("shard.00007.00123.mds", "00007", "00007")
    assert is_shard_name(name)
    assert is_safe_name(name)
    assert [task_of_shard(each) for each in ("shard.00001.mds", "shard", "manifest.json")] == ["", "", ""]


@pytest.mark.parametrize("name", ["../a.mds", "a/b", "/a", "", "a..b", ".a", "-a", None, 3])
def test_a_name_that_leads_elsewhere_is_not_safe(name):
    assert not is_safe_name(name)


def test_compressions():
    assert all(map(is_compression, [None, "zstd", "zstd:1", "zstd:22"]))
    assert not any(map(is_compression, ["zstd:0", "zstd:23", "zstd:", "gzip", ""]))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 2, "shards": null}', b"\xff"])
def test_what_is_no_index_is_one_of_three_errors(content):
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_index(content)

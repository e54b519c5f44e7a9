"""No space for what is read: the cache of shards on a disk, and what the processes of a run share in memory."""

import re
from pathlib import Path

import pytest

from meap.data import shared_memory
from meap.errors import ConfigError

pytestmark = pytest.mark.fault(2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_on_a_full_disk_is_an_error_and_with_space_the_same_run_reads_all(
    zipped, small_disk, open_data, epoch_of, assert_rows, failure_of, workers, record_property
):
    disk = small_disk("16k")
    for size in ("16k", "24k"):
        small_disk(size)
        message = failure_of(lambda: epoch_of(open_data(zipped, disk / "cache", workers=workers, attempts=3)))
        assert re.fullmatch(
            rf"no space left for {disk}/cache/train/\S+ \([\d,]+ bytes needed, [\d,]+ bytes free on its disk\): free "
            "space, or bound the cache with data.cache_limit, and run the same command again",
            message,
        ), message
    small_disk("2m")
    assert_rows(epoch_of(open_data(zipped, disk / "cache", workers=workers)))
    if not workers:  # a loader kills its workers in the midst of whatever they write
        assert not list((disk / "cache").rglob("*.partial*"))
    record_property("injected", 2)


def test_shared_memory_that_is_full_is_an_error_and_no_bus_error(
    zipped, small_disk, tmp_path, open_data, epoch_of, assert_rows, release_caches, monkeypatch, record_property
):
    disk = small_disk("512k")
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", disk)
    remedy = r"end what fills it, or make it larger \(docker run --shm-size=16g; .*\)"
    with pytest.raises(ConfigError, match=rf"{disk} has [\d,]+ bytes free, and what the readers .* takes .*: {remedy}"):
        open_data(zipped, tmp_path / "cache")
    release_caches()
    small_disk("1100k")
    # Room for a data set, but not for batches under way.
    with pytest.raises(ConfigError, match=rf"reading the train split \(the order of 96 rows, .*\) takes .*: {remedy}"):
        open_data(zipped, tmp_path / "cache", workers=300)
    release_caches()
    small_disk("16m")
    assert_rows(epoch_of(open_data(zipped, tmp_path / "cache", workers=2)))
    record_property("injected", 2)


def test_a_check_of_shared_memory_needs_there_to_be_some(monkeypatch):
    monkeypatch.setattr(shared_memory, "_SHARED_MEMORY", Path("/nowhere"))
    shared_memory.require_shared_memory(1 << 60, "anything")

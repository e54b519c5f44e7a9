"""Data and caches on a network file system: no locks, and handles that go stale."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tests.in_a_fork import in_a_fork
from tests.network_disk import IS_KNOWN, become_network_disk

pytestmark = pytest.mark.fault(6)


@pytest.mark.skipif(not IS_KNOWN, reason="calls of this processor have other numbers")
def test_a_temporary_folder_without_locks_is_refused_at_once(zipped, tmp_path, open_data):
    def read() -> None:
        become_network_disk()
        open_data(zipped, tmp_path / "cache")

    told = in_a_fork(read)
    assert told.startswith("ConfigError: the temporary folder, ")
    assert "takes no locks (No locks available)" in told
    assert told.endswith("): set TMPDIR to a folder on a disk of this machine")


def test_runs_that_share_a_cache_without_locks_read_their_own_rows(
    zipped, tmp_path, open_data, epoch_of, assert_rows, monkeypatch
):
    flock = fcntl.flock

    def refuse(handle: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(tmp_path):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    cache = tmp_path / "cache"
    assert in_a_fork(lambda: assert_rows(epoch_of(open_data(zipped, cache)))) == ""
    loaders = [open_data(zipped, cache), open_data(zipped, cache)]
    for rows in [epoch_of(each) for each in loaders]:
        assert_rows(rows)

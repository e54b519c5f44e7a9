"""Data and caches on a network file system: no locks, and handles that go stale."""

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.network_disk import IS_KNOWN, refuse_locks_below

pytestmark = pytest.mark.fault(6)

ROOT = Path(__file__).resolve().parents[3]


READ = """
import sys
from pathlib import Path
from tests.faults.data.conftest import open_loader
from tests.network_disk import become_network_disk, refuse_locks_below
if len(sys.argv) > 3:
    refuse_locks_below(Path(sys.argv[3]))
else:
    become_network_disk()
print(sum(len(batch["sample_id"]) for batch in open_loader(sys.argv[1], Path(sys.argv[2]))))
"""


@pytest.fixture
def read_apart(warm_python, quiet_environment) -> Callable[..., subprocess.CompletedProcess]:
    """Read an epoch in a process of its own, which may change for good."""

    def read(*arguments: Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            [warm_python, "-W", "ignore", "-c", READ, *arguments],
            env=quiet_environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    return read


@pytest.mark.skipif(not IS_KNOWN, reason="calls of this processor have other numbers")
def test_a_temporary_folder_without_locks_is_refused_at_once(zipped, tmp_path, read_apart):
    told = read_apart(zipped, tmp_path / "cache").stderr.splitlines()[-1]
    assert told.startswith("meap.errors.ConfigError: the temporary folder, ")
    assert "takes no locks (No locks available)" in told
    assert told.endswith("): set TMPDIR to a folder on a disk of this machine")


def test_runs_that_share_a_cache_without_locks_read_their_own_rows(
    zipped, tmp_path, open_data, epoch_of, assert_rows, monkeypatch, read_apart
):
    monkeypatch.setattr(fcntl, "flock", fcntl.flock)  # which comes back after the test
    refuse_locks_below(tmp_path)
    cache = tmp_path / "cache"
    done = read_apart(zipped, cache, tmp_path)
    assert int(done.stdout) > 0, done.stderr
    loaders = [open_data(zipped, cache), open_data(zipped, cache)]
    for rows in [epoch_of(each) for each in loaders]:
        assert_rows(rows)

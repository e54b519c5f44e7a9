"""Runs that share a machine do not meet: by names, by leftovers of killed ones, or in one cache folder."""

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.fault(6)]

ROWS = 96

SHORT_OF_FILES = """
import os, resource, sys
from pathlib import Path
from meap.data.pinned.isolation import _SizedSharedMemory
from meap.processes import start_tracker

start_tracker()
own = _SizedSharedMemory(name=sys.argv[1], create=True, size=8)
before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
# One file for the segment, and none for its mapping.
resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1, most))
for name, create in ((sys.argv[1], False), (sys.argv[1] + "x", True)):
    try:
        _SizedSharedMemory(name=name, create=create, size=8)
    except OSError as error:
        print(error.errno, Path("/dev/shm", name).exists())
resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
own.close()
own.unlink()
"""


def test_shared_memory_that_cannot_be_opened_is_left_to_those_who_use_it(warm_python, project_root):
    name = f"meap-test-{os.getpid()}"
    done = subprocess.run(
        [warm_python, "-c", SHORT_OF_FILES, name],
        env=os.environ | {"PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.stdout.splitlines() == ["24 True", "24 False"], done.stderr
    assert done.stderr == ""


STOPPED_WHILE_MAKING = """
import importlib, sys
from pathlib import Path
from meap.data.pinned import isolation

def interrupted(*arguments):
    if asked:
        return theirs(*arguments)
    asked.append(True)
    raise KeyboardInterrupt

asked = []
isolation.start_tracker()  # before anything is replaced
where, function = sys.argv[2].rsplit(".", 1)
module = importlib.import_module(where)
with isolation.wait_for_shared_memory():
    isolation._making("none")  # registers
    theirs = getattr(module, function)
    setattr(module, function, interrupted)
    try:
        isolation.SharedMemory(sys.argv[1], True, 8)
    except KeyboardInterrupt:
        print(Path("/dev/shm", sys.argv[1]).exists())
"""


def test_the_last_rank_to_end_removes_the_lock_files(tmp_path, monkeypatch):
    """A rank that still read when that with the run's number ended made one anew, which nobody removed."""
    from meap.data.pinned.isolation import _follow

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (own := tmp_path / f"meap-streaming-{os.getuid()}-4711").touch()
    (lock := tmp_path / "004711_cache_filelock").touch()
    _follow(4711)
    assert lock.exists()
    own.unlink()
    _follow(4711)
    assert not lock.exists()


LEFT_ALONE = """
import os, sys
from types import SimpleNamespace
from torch import distributed
from meap.data.pinned.isolation import _register, wait_for_shared_memory
from meap.data.ranks import gather_from_ranks, meet_neighbours
from meap.errors import DataError

rank = int(os.fork() == 0)
os.environ["RANK"] = str(rank)
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/ranks", rank=rank, world_size=2)
if rank == 0:
    meet_neighbours()
    gather_from_ranks((0, True, 4711, ""))
    os.wait()  # as if it had ended, and its segment with it
else:
    try:
        with wait_for_shared_memory():
            _register([sys.argv[1]], [None], SimpleNamespace(node=0, is_local_leader=False, rank=1))
    except DataError as error:
        print(error, flush=True)
    os._exit(0)
"""


def test_a_rank_whose_neighbour_ends_while_data_are_opened_says_so(warm_python, project_root, tmp_path):
    """It ended in a traceback about a file that nobody knows."""
    done = subprocess.run(
        [warm_python, "-c", LEFT_ALONE, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    told = "the rank that shared memory with rank 1 has ended (/004711_locals is gone): look for the reason "
    assert done.stdout == f"{told}among the messages of the other ranks\n", done.stderr


@pytest.fixture(scope="module")
def found(write_shards, tmp_path_factory, project_root, warm_python) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("neighbours")
    shards = write_shards(folder / "mds", rows=ROWS, validation_rows=0)
    (folder / "tmp").mkdir()
    script = Path(__file__).with_name("neighbours.py")
    finished = subprocess.run(
        [warm_python, "-W", "ignore", str(script), str(shards), str(folder)],
        env=os.environ | {"PYTHONPATH": str(project_root), "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_runs_that_start_at_the_same_moment_read_their_own_rows(found):
    read = found["at_once"]
    assert len(read) == 6
    assert all(rows == read[0] for rows in read)
    assert sorted(read[0]) == list(range(ROWS))


def test_what_a_killed_run_has_left_is_removed_by_the_next_start(found):
    after_kill = found["leave_nothing"]
    assert sum(path.startswith("/dev/shm/") for path in after_kill["left"]) >= 5
    assert after_kill["after"] == []
    assert sorted(after_kill["rows"]) == list(range(ROWS))


def test_a_cache_folder_is_one_run_s_at_a_time(found):
    second = found["one_cache"]
    assert re.search(
        rf"cache/train is in use by process {second['holder']} \(.*neighbours.py .*\) for 0:\d\d:\d\d: give each run",
        second["refused"],
    )
    assert sorted(second["rows"]) == list(range(ROWS))


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory has no folder here")
@pytest.mark.parametrize("moment", ["os.ftruncate", "multiprocessing.resource_tracker.register", "atexit.register"])
def test_a_signal_while_a_segment_is_made_leaves_none(warm_python, project_root, moment):
    """Neither the segment, nor a word of Python's tracker about it."""
    name = f"meap-test-{os.getpid()}"
    done = subprocess.run(
        [warm_python, "-c", STOPPED_WHILE_MAKING, name, moment],
        env=os.environ | {"PYTHONPATH": str(project_root)}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert not Path("/dev/shm", name).exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory has no folder here")
def test_a_segment_that_another_rank_has_only_just_begun_is_waited_for(monkeypatch):
    from meap.data.pinned import isolation

    path = Path("/dev/shm", f"meap-test-{os.getpid()}")
    path.touch()
    try:
        waits = iter([lambda: None, lambda: path.write_bytes(bytes(4096))])
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: next(waits)())
        monkeypatch.setattr(isolation, "time", clock)
        with isolation.wait_for_shared_memory():
            segment = isolation.streaming_memory.BuiltinSharedMemory(path.name)
        assert segment.size == 4096
        assert next(waits, None) is None
        segment.close()
        path.write_bytes(b"")
        monkeypatch.setattr(isolation, "_SECONDS_TO_SIZE", 0.0)
        clock.sleep = lambda _: None
        with isolation.wait_for_shared_memory(), pytest.raises(ValueError, match="empty file"):
            isolation.streaming_memory.BuiltinSharedMemory(path.name)
    finally:
        path.unlink()

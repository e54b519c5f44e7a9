"""Threads that read ahead end with their process, whatever they wait for."""

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from meap.config import DataConfig
from meap.data import build_loader, open_shards, ranks
from meap.data.pinned.waits import WatchedLock, watched
from meap.errors import LostRankError

WAITS = """
import sys, threading
from pathlib import Path
from streaming.base.dataset import _ShardState
from meap.config import DataConfig
from meap.data import build_loader, open_shards

data = DataConfig(remote=sys.argv[1], seq_len=16, num_canonical_nodes=4, num_workers=0)
loader = build_loader(
    data, open_shards(data, "train"), rule=None, seed=17, global_batch_size=8, world_size=1,
    cache_dir=Path(sys.argv[2]), shuffle=True,
)
for shard in range(loader.dataset.num_shards):
    loader.dataset._shard_states[shard] = _ShardState.PREPARING  # by a process that is gone
threading.Thread(target=next, args=[iter(loader)], daemon=True).start()
while not any(
    frame.f_code.co_name == "_sleep" and frame.f_back.f_code.co_name == "_ready_thread"
    for frame in sys._current_frames().values()
):
    pass
"""


@pytest.mark.slow
def test_a_process_ends_whose_threads_wait_for_a_shard(tmp_path, quiet_environment, project_root, write_shards):
    """They are joined at the exit: a rank that was interrupted was killed after seconds, and left its locks."""
    shards, cache = write_shards(tmp_path / "shards"), tmp_path / "cache"
    ended = subprocess.run(
        [sys.executable, "-c", WAITS, str(shards), str(cache)],
        env=quiet_environment | {"PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_an_iteration_of_many_epochs_asks_once_to_be_ended_at_the_exit(tmp_path, write_shards):
    data = DataConfig(remote=str(write_shards(tmp_path / "shards")), seq_len=16, num_canonical_nodes=4, num_workers=0)
    loader = build_loader(
        data, open_shards(data, "train"), rule=None, seed=17, global_batch_size=8, world_size=1,
        cache_dir=tmp_path / "cache", shuffle=True,
    )  # fmt: skip
    asked = list[Callable[[], object]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "_register_atexit", asked.append)
        for _ in range(3):
            assert list(loader)
    assert sum(getattr(each, "__func__", None) is threading.Event.set for each in asked) == 1


HOLDS = """
import os, signal, sys
from filelock import FileLock

lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_lock_that_a_stopped_rank_holds_is_not_waited_for_without_an_end(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(ranks, "neighbours", {1: holder.pid})
        monkeypatch.setattr(ranks, "_patience", 0.5)
        with pytest.raises(LostRankError, match=r"rank 0 waited in vain .*\(rank 1 is stopped"), watched():
            WatchedLock(path).acquire()
    finally:
        holder.kill()
        holder.communicate()
    monkeypatch.setattr(ranks, "neighbours", {})
    with watched(), WatchedLock(path):
        pass

"""Shared memory that fills up while a run trains: a small /dev/shm, mounted for the test, and seen by it alone."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.train.conftest import losses
from tests.train.forked_runs import EPOCH, Run, forked_ranks, starter

pytestmark = [pytest.mark.slow, pytest.mark.fault(2), pytest.mark.timeout(600)]

MOUNT = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m none /dev/shm && exec "$0" "$@"']


@pytest.fixture(scope="module")
def shared_memory_and_start(small_config, tmp_path_factory) -> Iterator[tuple[Path, Callable[..., Run]]]:
    if os.geteuid() or subprocess.run([*MOUNT, "true"], capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("a small /dev/shm needs root and leave to mount; in a container, --privileged")
    # Not `warm_python`, whose server has the machine's own.
    python = tmp_path_factory.mktemp("small") / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join([*MOUNT, sys.executable])} "$@"\n')
    python.chmod(0o755)
    with forked_ranks(str(python)) as forks:
        yield Path(f"/proc/{forks.pid}/root/dev/shm"), starter(forks, small_config, tmp_path_factory.mktemp)


@pytest.mark.parametrize(
    ("world", "setting"),
    [(1, "data.num_workers=0"), (2, "data.num_workers=0"), (2, "data.num_workers=2"), (1, "data.shuffle_algo=py2s")],
)
def test_no_room_for_the_order_of_an_epoch_is_one_error_and_with_room_the_run_continues(
    shared_memory_and_start, tmp_path, world, setting
):
    shared_memory, start = shared_memory_and_start
    for left in shared_memory.iterdir():  # by a case that failed
        left.unlink(missing_ok=True)
    whole = start(tmp_path / "whole", world, setting, "run.name=run")
    assert whole.end() == [0] * world, whole.printed
    fault = {"point": "epoch", "call": 2, "whom": "shared memory"}
    run = start(tmp_path / "run", world, setting, faults=dict.fromkeys(range(world), fault))
    assert run.end() == [1] * world, run.printed
    # With workers, torch's batches may be the first to find no room.
    told = (
        r"^error: (/dev/shm has 0 bytes free, and what the readers of a data set share takes [\d,]+: end what fills it|"
        r"a loader worker cannot hand over a batch \(.*No space left on device.*\): end what fills /dev/shm), "
        r"or make it larger \(.*\).* run the same command again"
    )
    assert re.search(told, run.printed, re.MULTILINE), run.printed
    assert run.printed.count("error:") == world, run.printed
    assert "Traceback" not in run.printed
    assert len(run.rows(world)) == EPOCH
    assert [path.name for path in shared_memory.iterdir()] == ["filler"]

    (shared_memory / "filler").unlink()
    again = start(tmp_path / "run", world, setting)
    assert again.end() == [0] * world, again.printed
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert not list(shared_memory.iterdir())

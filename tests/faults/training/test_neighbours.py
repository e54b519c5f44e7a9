"""Two runs at once: on one machine, on one cache folder, in one folder of checkpoints or one run's folder."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.train.conftest import losses
from tests.train.forked_runs import STEPS, state_of, until

pytestmark = [pytest.mark.slow, pytest.mark.fault(6), pytest.mark.timeout(900)]


def test_two_runs_of_one_machine_do_not_meet(start, whole, tmp_path, record_property):
    runs = [
        start(tmp_path / "a", 2, "data.num_workers=1"),
        start(tmp_path / "b", 1, "data.num_workers=2", "run.seed=18"),
        start(tmp_path / "c", 1),
    ]
    for run in runs:
        assert set(run.wait()) == {0}, run.printed
    assert losses(tmp_path / "a") == losses(whole[2].run_dir)
    assert losses(tmp_path / "c") == losses(whole[1].run_dir)
    assert losses(tmp_path / "b") != losses(tmp_path / "c")
    record_property("injected", len(runs))


@pytest.mark.parametrize(
    ("world", "of_first", "name", "of_second", "told"),
    [
        (1, "data.cache_dir={}/cache", "other", "data.cache_dir={}/cache", "the cache folder {}/cache/train"),
        (1, "data.num_workers=1", "run", "data.num_workers=1", "run.dir={}/run"),
        (2, "data.num_workers=0", "run", "data.cache_dir={}/cache", "run.dir={}/run"),
        (2, "checkpoint.folder={}/saved", "other", "checkpoint.folder={}/saved", "checkpoint.folder={}/saved"),
    ],
    ids=["cache", "run", "run with another cache", "checkpoints"],
)
def test_a_second_run_in_one_place_is_told_so_and_the_first_goes_on(
    start, whole, tmp_path, world, of_first, name, of_second, told
):
    """The first stands still meanwhile; what the second asks for works when it is asked again."""
    given, run_name = of_second.format(tmp_path), f"run.name={'run' if 'checkpoint' in of_first else name}"
    fault = {"point": "update", "call": 4, "signal": signal.SIGSTOP}
    first = start(tmp_path / "run", world, of_first.format(tmp_path), faults={0: fault})
    until(lambda: state_of(first.pids[0]) == "T", first)
    before = contents(tmp_path)
    second = start(tmp_path / name, world, given, run_name)
    refused = second.wait()
    is_as_before = contents(tmp_path) == before
    os.kill(first.pids[0], signal.SIGCONT)
    assert first.wait() == [0] * world, first.printed
    assert refused == [2] * world, second.printed
    assert (
        re.findall(r"^error: (.*) is in use by process (\d+) \(", second.printed, re.MULTILINE)
        == [(told.format(tmp_path), str(first.pids[0]))] * world
    )
    assert ("data.cache_dir" in second.printed) == ("cache folder" in told), "a remedy that helps"
    assert is_as_before or "cache folder" in told, "nothing is written or removed"
    assert losses(tmp_path / "run") == losses(whole[world].run_dir)
    third = start(tmp_path / name, world, given, run_name)
    assert third.wait() == [0] * world, third.printed
    assert losses(tmp_path / "run") == losses(whole[world].run_dir)
    assert not list(tmp_path.rglob("*.in_use"))


def contents(folder: Path) -> dict[Path, int]:
    """When each file, or folder, was last written to."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumes_at_once_when_all_of_it_was_killed(start, whole, tmp_path, workers):
    """Its workers may hold what it held, for a moment longer."""
    fault = {"point": "update", "call": 5, "signal": signal.SIGKILL}
    setting = f"data.num_workers={workers}"
    killed = start(tmp_path / "run", 2, setting, faults={0: fault, 1: fault})
    assert killed.wait() == [-signal.SIGKILL] * 2
    again = start(tmp_path / "run", 2, setting)
    assert again.wait() == [0, 0], again.printed
    assert losses(tmp_path / "run") == losses(whole[2].run_dir)
    assert not list(tmp_path.rglob("*.in_use"))


def test_two_runs_that_save_in_one_store_are_told_apart(start, whole, server, bucket, tmp_path):
    """The one that comes too late to save leaves all as it is."""
    place = "checkpoint.folder=s3://corpus/saved"
    store = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_ENDPOINT_URL": server}
    fault = {"point": "copy", "call": 2, "signal": signal.SIGSTOP}
    first = start(tmp_path / "a", 1, place, faults={0: fault}, **store)
    until(lambda: state_of(first.pids[0]) == "T", first)
    second = start(tmp_path / "b", 1, place, "run.name=a", **store)
    assert second.wait() == [0], second.printed
    saved = {each.key: each.e_tag for each in bucket.objects.all()}
    os.kill(first.pids[0], signal.SIGCONT)
    assert first.wait() == [1], first.printed
    assert f"error: checkpoint.folder=s3://corpus/saved holds ba{STEPS}, which another process has written since" in (
        first.printed
    )
    assert {each.key: each.e_tag for each in bucket.objects.all()} == saved
    again = start(tmp_path / "a", 1, place, **store)
    assert again.wait() == [0], again.printed
    assert losses(tmp_path / "b", first=4) == losses(whole[1].run_dir)[3:]

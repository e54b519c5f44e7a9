"""Two runs at once: on one machine, on one cache folder, and as one and the same run started twice."""

import os
import signal

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


@pytest.mark.parametrize("shared", ["data.cache_dir={}/cache", "checkpoint.folder={}/saved"], ids=["cache", "run"])
def test_a_second_run_in_one_place_is_told_so_and_the_first_goes_on(start, whole, tmp_path, shared):
    """The first stands still meanwhile; the second of the same run, too, and both continue when asked again."""
    place, again = shared.format(tmp_path), "cache" not in shared
    first = start(tmp_path / "run", 1, place, faults={0: {"point": "update", "call": 4, "signal": signal.SIGSTOP}})
    until(lambda: state_of(first.pids[0]) == "T", first)
    second = start(tmp_path / ("run" if again else "other"), 1, place)
    refused = second.wait()
    os.kill(first.pids[0], signal.SIGCONT)
    assert first.wait() == [0], first.printed
    assert refused == [2], second.printed
    assert f"is in use by process {first.pids[0]} (" in second.printed
    assert ": give each run, and each node, its own with run.dir" in second.printed
    assert "step      1" not in second.printed
    assert losses(tmp_path / "run") == losses(whole[1].run_dir)
    third = start(tmp_path / ("run" if again else "other"), 1, place)
    assert third.wait() == [0], third.printed
    assert losses(tmp_path / ("run" if again else "other")) == losses(whole[1].run_dir)


def test_two_runs_that_save_in_one_place_are_told_apart(start, whole, tmp_path):
    """Each with a folder of its own, as on two machines: the one that comes too late to save leaves all as it is."""
    place = f"checkpoint.folder={tmp_path}/saved"
    first = start(tmp_path / "a", 1, place, faults={0: {"point": "copy", "call": 2, "signal": signal.SIGSTOP}})
    until(lambda: state_of(first.pids[0]) == "T", first)
    second = start(tmp_path / "b", 1, place)
    assert second.wait() == [0], second.printed
    saved = {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    os.kill(first.pids[0], signal.SIGCONT)
    assert first.wait() == [1], first.printed
    assert f"error: checkpoint.folder={tmp_path}/saved holds ba{STEPS}, which another process has written since" in (
        first.printed
    )
    assert {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()} == saved
    again = start(tmp_path / "a", 1, place)
    assert again.wait() == [0], again.printed
    assert losses(tmp_path / "b", first=4) == losses(whole[1].run_dir)[3:]

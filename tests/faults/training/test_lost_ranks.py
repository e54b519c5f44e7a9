"""A rank that is gone while others wait for it, outside of a step: they end soon, and with a status that is true."""

import os
import re
import signal

import pytest

from tests.train.conftest import losses
from tests.train.forked_runs import STOPPED, state_of, until

pytestmark = [pytest.mark.slow, pytest.mark.fault(5), pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("point", "call", "hit", "workers"),
    [("epoch", 2, 0, 0), ("epoch", 2, 1, 0), ("update", 8, 1, 1), ("workers", 1, 0, 1), ("workers", 1, 1, 1)],
)
def test_a_rank_that_is_killed_as_an_epoch_begins(start, whole, tmp_path, point, call, hit, workers):
    """The others waited for it without an end, and took no SIGTERM."""
    settings = (f"data.num_workers={workers}", "run.name=whole2")
    fault = {"point": point, "call": call, "signal": signal.SIGKILL}
    run = start(tmp_path / "run", 2, *settings, faults={hit: fault})
    assert run.end() == ([-signal.SIGKILL, 1] if hit == 0 else [1, -signal.SIGKILL]), run.printed
    assert re.search(rf"^error: rank {1 - hit} .*rank", run.printed, re.MULTILINE), run.printed
    assert "Traceback" not in run.printed
    again = start(tmp_path / "run", 2, *settings)
    assert again.wait() == [0, 0], again.printed
    assert losses(tmp_path / "run") == losses(whole[2].run_dir)


@pytest.mark.parametrize("eval_batches", [0, 1])
def test_a_rank_that_is_killed_while_it_fetches_the_shard_of_all(start, tmp_path, write_shards, eval_batches):
    """Whichever does it first; the other one waited for the shard without an end, and took no SIGTERM."""
    remote = write_shards(tmp_path / "shards", shard_rows=96)
    fault = {"point": "shard", "call": 1, "signal": signal.SIGKILL}
    settings = (f"data.remote={remote}", "data.num_workers=0", f"train.eval_batches={eval_batches}")
    run = start(tmp_path / "run", 2, *settings, faults={0: fault, 1: fault})
    assert sorted(run.end()) == [-signal.SIGKILL, 1], run.printed
    assert re.search(r"^error: rank [01] .*rank", run.printed, re.MULTILINE), run.printed
    assert "Traceback" not in run.printed
    again = start(tmp_path / "run", 2, *settings)
    assert again.wait() == [0, 0], again.printed


def test_a_rank_that_stands_still_while_it_fetches_the_shard_of_all(start, tmp_path, write_shards):
    """The other one waited for the shard without an end."""
    remote = write_shards(tmp_path / "shards", shard_rows=96)
    fault = {"point": "shard", "call": 1, "signal": signal.SIGSTOP}
    settings = (f"data.remote={remote}", "data.num_workers=0", "train.eval_batches=0", "train.dist_timeout=6")
    run = start(tmp_path / "run", 2, *settings, faults={0: fault, 1: fault})
    until(lambda: "Z" in map(state_of, run.pids), run)
    assert sorted(run.kill()) == [-signal.SIGKILL, 1], run.printed
    assert re.search(r"^error: rank [01] waited in vain .*\(rank [01] is stopped", run.printed, re.MULTILINE), (
        run.printed
    )
    assert "Traceback" not in run.printed


def test_a_rank_that_stands_still_as_an_epoch_begins(start, tmp_path):
    fault = {"point": "epoch", "call": 2, "signal": signal.SIGSTOP}
    run = start(tmp_path / "run", 2, "train.dist_timeout=6", faults={1: fault})
    until(lambda: state_of(run.pids[0]) == "Z", run)
    assert run.kill() == [1, -signal.SIGKILL], run.printed
    assert re.search(
        r"^error: rank 0 waited in vain for another rank of this machine \(rank 1 is stopped; train\.dist_timeout=6\)",
        run.printed, re.MULTILINE,
    ), run.printed  # fmt: skip


@pytest.mark.parametrize("point", ["settle", "connect"])
@pytest.mark.parametrize("hit", [0, 1])
def test_one_rank_that_is_stopped_before_the_first_step_stops_all(start, tmp_path, point, hit):
    fault = {"point": point, "call": 1, "signal": signal.SIGTERM}
    run = start(tmp_path / "run", 2, faults={hit: fault})
    assert run.end() == [STOPPED, STOPPED], run.printed
    assert "error" not in run.printed
    assert "stopped by SIGTERM: run the same command again to resume" in run.printed


def test_a_rank_that_is_killed_before_the_first_step_is_named(start, tmp_path):
    fault = {"point": "connect", "call": 1, "signal": signal.SIGKILL}
    run = start(tmp_path / "run", 2, faults={1: fault})
    assert run.end() == [1, -signal.SIGKILL], run.printed
    assert "error: rank 0 waited for rank 1, which ended: the reason is among the messages of that rank" in run.printed


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, STOPPED), (signal.SIGINT, 130)])
def test_a_rank_that_waits_for_one_that_never_comes_can_be_stopped(start, tmp_path, number, status):
    fault = {"point": "join", "call": 1, "signal": number}
    run = start(tmp_path / "run", 2, faults={1: fault})
    until(lambda: state_of(run.pids[1]) == "Z", run)
    os.kill(run.pids[0], number)  # as a launcher does, or a terminal
    assert run.end() == [status, status], run.printed
    assert "Traceback" not in run.printed


def test_of_four_ranks_the_one_that_is_gone_is_named(start, tmp_path):
    fault = {"point": "backward", "call": 2, "signal": signal.SIGKILL}
    run = start(tmp_path / "run", 4, faults={2: fault})
    assert run.end() == [1, 1, -signal.SIGKILL, 1], run.printed
    told = re.findall(r"^error: rank (\d) lost another rank at step \d+ \((.*?);", run.printed, re.MULTILINE)
    assert told == [(rank, "rank 2 ended") for rank in "013"], run.printed


@pytest.mark.parametrize(("number", "statuses"), [(signal.SIGKILL, [-9, 1]), (signal.SIGTERM, [STOPPED, STOPPED])])
def test_rank_0_ends_just_after_all_have_met(start, tmp_path, number, statuses):
    """The others connected to it once more, for up to twice the time-out, and took no signal."""
    run = start(tmp_path / "run", 2, faults={0: {"point": "joined", "call": 1, "signal": number}})
    until(lambda: state_of(run.pids[0]) == "Z", run)
    if number == signal.SIGTERM:
        os.kill(run.pids[1], number)  # as a launcher does
    assert run.end() == statuses, run.printed
    assert "Traceback" not in run.printed


@pytest.mark.parametrize("hit", [0, 1])
def test_all_ranks_are_stopped_where_the_rows_of_one_do_not_come(start, tmp_path, hit):
    """The other one has its rows, and waits for that rank; it told of a lost rank (1)."""
    settings = ("data.num_workers=0", "train.eval_batches=0")
    run = start(tmp_path / "run", 2, *settings, faults={hit: {"point": "row", "call": 20, "whom": "rows"}})
    assert run.end() == [STOPPED, STOPPED], run.printed
    assert "SIGTERM: no rows have come for 1" in run.printed
    assert "error" not in run.printed


@pytest.mark.parametrize("hit", [0, 1])
def test_a_rank_that_may_open_no_more_files_does_not_wait_for_the_others(start, tmp_path, hit):
    """torch tried to connect again, ever more seldom, for half an hour."""
    run = start(tmp_path / "run", 2, faults={hit: {"point": "joined", "call": 1, "whom": "files"}})
    # 2 where the file that it could not open was the run's folder, which the error then names.
    assert {*run.end()} <= {1, 2}, run.printed
    assert re.search(r"^error: .*[Tt]oo many open files.* raise", run.printed, re.MULTILINE)
    assert "Traceback" not in run.printed


def test_a_rank_that_fails_leaves_the_connections_of_its_libraries_alone(start, tmp_path):
    """W&B's to the process that writes for it was closed with those to the other ranks."""
    pytest.importorskip("wandb")
    fault = {"point": "update", "call": 3, "whom": "memory"}
    run = start(tmp_path / "run", 2, "loggers.wandb=true", faults={0: fault}, WANDB_MODE="offline")
    assert run.end() == [1, 1], run.printed
    assert "Traceback" not in run.printed
    assert re.search(r"^error: .*out of memory", run.printed, re.MULTILINE), run.printed


@pytest.mark.parametrize("point", [("settled", 1), ("copy", 5)])
def test_a_rank_that_stands_still_at_the_end_is_named(start, tmp_path, point):
    """Others waited for hours, since it might be uploading."""
    name, call = point
    settings = ("train.dist_timeout=6", "train.sharding=full", "checkpoint.state_dict=sharded")
    run = start(tmp_path / "run", 2, *settings, faults={1: {"point": name, "call": call, "signal": signal.SIGSTOP}})
    until(lambda: state_of(run.pids[0]) == "Z", run)
    assert run.kill() == [1, -signal.SIGKILL], run.printed
    told = [line for line in run.printed.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, run.printed
    assert re.search(r"rank 0 waited in vain .*\(rank 1 (is stopped|got SIGSTOP)", told[0]), told
    assert "The same command resumes from" in run.printed


def test_a_sharded_checkpoint_that_is_gone_when_it_is_loaded_is_one_error(start, tmp_path):
    settings = ("train.sharding=full", "checkpoint.state_dict=sharded")
    run = start(tmp_path / "run", 2, *settings, "train.max_duration=6ba")
    assert run.wait() == [0, 0], run.printed
    run = start(tmp_path / "run", 2, *settings, faults={1: {"point": "load", "call": 1, "whom": "parts"}})
    assert run.end() == [1, 1], run.printed
    assert "Traceback" not in run.printed
    assert re.search(r"^error: rank [01] could not load the checkpoint .*ba6", run.printed, re.MULTILINE), run.printed

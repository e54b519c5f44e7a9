"""Runs that are killed and stopped in a step, in a checkpoint and in an upload, and that the same command continues.

MEAP_FAULT_SEEDS: how many runs are killed at random places, again and again; two unless said.
"""

import itertools
import os
import re
import signal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from torch.utils.data import dataloader

from meap.checkpoints import CheckpointStore
from meap.errors import TrainingError
from tests.train.conftest import losses
from tests.train.forked_runs import STEPS, STOPPED, Run, until

pytestmark = [pytest.mark.slow, pytest.mark.fault(5), pytest.mark.timeout(900)]

SEEDS = int(os.environ.get("MEAP_FAULT_SEEDS", "2"))
KILLS = 3
INTERVAL = 3
# A place, and how often at most a leg passes it until the run has got some three steps further.
PLACES = {"forward": 112, "backward": 8, "update": 4, "copy": 2, "write": 60, "move": 2, "publish": 2, "prune": 2}
LAYOUTS = [(1, 0), (1, 1), (2, 0), (2, 1)]
"""Ranks, and loader workers of each."""
LEGS = (("whole", STEPS), ("cut", 6))


def newest(run_dir: Path) -> int:
    return next(iter(CheckpointStore(str(run_dir / "checkpoints")).steps()), 0)


def draw(random: Random) -> dict[str, Any]:
    point = random.choice(list(PLACES))
    return {"point": point, "call": random.randint(1, PLACES[point]), "signal": signal.SIGKILL}


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_that_is_killed_again_and_again_is_the_run_that_is_not(start, whole, tmp_path, record_property, seed):
    """Even seeds stay in one process, where losses must be equal to the bit; odd ones change ranks and workers."""
    random, kills, begun, run_dir = Random(seed), 0, 0, tmp_path / "run"
    while kills < KILLS:
        world, workers = LAYOUTS[seed % 4 // 2] if seed % 2 == 0 else random.choice(LAYOUTS)
        fault, hit = draw(random), random.randrange(world)
        if fault["point"] not in {"forward", "backward", "update", "copy"}:
            hit = 0  # who writes
        what = f"seed {seed}, leg from {begun} on {world} ranks with {workers} workers: {fault} on rank {hit}"
        run = start(run_dir, world, f"data.num_workers={workers}", faults={hit: fault})
        ended = run.end()
        assert ended[hit] in {-signal.SIGKILL, 0}, f"{what}\n{run.printed}"
        compare_rows(run, world, whole, begun, what)
        assert begun <= newest(run_dir), what
        if 0 in ended:
            assert ended == [0] * world, f"{what}\n{run.printed}"
            break
        assert begun + len(run.rows(world)) - newest(run_dir) <= 2 * INTERVAL, f"{what}: more is lost than was unsaved"
        kills, begun = kills + 1, newest(run_dir)
    record_property("injected", kills)
    assert kills

    world = 1 if seed % 2 == 0 else random.choice([1, 2])
    last = start(run_dir, world)
    assert last.wait() == [0] * world, last.printed
    compare_rows(last, world, whole, begun, "the end")
    if seed % 2 == 0:
        assert losses(run_dir) == losses(whole[1].run_dir)
    else:
        assert losses(run_dir) == pytest.approx(losses(whole[1].run_dir), abs=1e-5)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_four_ranks_that_go_on_are_the_four_that_were_not_killed(start, tmp_path, sharding):
    """The sum of more than two numbers depends on their order, which DDP changes after the first step of a start."""
    given = ("scheduler.schedule=constant", f"train.sharding={sharding}")
    whole, cut = (start(tmp_path / name, 4, *given, f"train.max_duration={steps}ba") for name, steps in LEGS)
    assert whole.wait() + cut.wait() == [0] * 8, whole.printed + cut.printed
    last = start(tmp_path / "cut", 4, *given)
    assert last.wait() == [0] * 4, last.printed
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_killed_run_that_goes_on_with_more_nodes_finds_its_cache_and_leaves_no_lock(start, tmp_path):
    run_dir = tmp_path / "run"
    killed = start(run_dir, 1, faults={0: {"point": "forward", "call": 30, "signal": signal.SIGKILL}})
    assert killed.end() == [-signal.SIGKILL], killed.printed
    assert list(run_dir.rglob("*.in_use"))
    last = start(run_dir, 2, nodes=True)
    assert last.wait() == [0, 0], last.printed
    assert not list(run_dir.rglob("*.in_use"))
    assert {path.name for path in (run_dir / "cache").iterdir()} == {"node0", "node1"}


def compare_rows(run: Run, world: int, whole: dict[int, Run], begun: int, what: str) -> None:
    seen = run.rows(world) if all((run.out / f"rank{rank}.jsonl").exists() for rank in range(world)) else []
    assert seen == whole[1].rows(1)[begun : begun + len(seen)], what


@pytest.mark.parametrize(
    ("world", "stops"),
    [
        (1, [("SIGTERM", "update", 2), ("SIGINT", "forward", 20), ("SIGTERM", "write", 5), ("SIGINT", "write", 5)]),
        (2, [("SIGTERM", "backward", 3), ("SIGINT", "update", 3)]),
    ],
)
def test_requests_to_stop_in_a_step_and_in_a_checkpoint(start, whole, tmp_path, record_property, world, stops):
    run_dir, begun = tmp_path / "run", 0
    for name, point, call in stops:
        fault = {"point": point, "call": call, "signal": signal.Signals[name], "whom": "session"}
        # A terminal tells every rank, a scheduler often one.
        faults = dict.fromkeys(range(world if name == "SIGINT" else 1), fault)
        run = start(run_dir, world, "data.num_workers=1", faults=faults)
        ended = run.end()
        if name == "SIGTERM":
            assert set(ended) == {STOPPED}, f"{name} in {point}\n{run.printed}"
        else:  # a rank may lose another before it is interrupted itself
            assert 130 in ended, f"{name} in {point}\n{run.printed}"
            assert 0 not in ended
        compare_rows(run, world, whole, begun, f"{name} in {point}")
        if name == "SIGTERM":
            assert newest(run_dir) == begun + len(run.rows(world)), "a request to stop loses nothing"
            assert f"stopped by SIGTERM at step {newest(run_dir)}: everything is saved" in run.printed
        else:
            assert "interrupted: run the same command again to resume" in run.printed
        begun = newest(run_dir)
    last = start(run_dir, world)
    assert last.wait() == [0] * world, last.printed
    assert losses(run_dir) == losses(whole[world].run_dir)
    record_property("injected", len(stops))


def test_a_loader_worker_that_is_killed_is_named_and_the_same_command_continues(start, whole, tmp_path):
    fault = {"point": "update", "call": 5, "signal": signal.SIGKILL, "whom": "worker"}
    run = start(tmp_path / "run", 1, "data.num_workers=2", faults={0: fault})
    assert run.end() == [1], run.printed
    assert "Traceback" not in run.printed
    assert "error: rank 0 lost a loader worker at step " in run.printed
    # torch tells the signal where it was there to see the worker die, and may meet the end of its connection first.
    assert re.search(
        r"\(DataLoader worker \(pid\S* \d+\) (is killed by signal: Killed|exited unexpectedly)"
        r"|\(its connection ended first: ",
        run.printed,
    )
    # It is missed when its batch is asked for; until then there are those of the other, and its own that have arrived.
    assert re.search(
        rf"The same command resumes from {tmp_path}/run/checkpoints/ba\d+, the last checkpoint before the failure",
        run.printed,
    )
    last = start(tmp_path / "run", 1)
    assert last.wait() == [0], last.printed
    assert losses(tmp_path / "run") == losses(whole[1].run_dir)
    assert newest(tmp_path / "run") == STEPS


def test_a_loader_worker_that_dies_as_its_batch_is_fetched_is_named(train, tmp_path, monkeypatch):
    """The connections of a process close before it is dead: for that moment torch takes it for alive."""
    fetch, calls = dataloader._MultiProcessingDataLoaderIter._try_get_data, itertools.count()

    def fetch_from_the_dying(self, *given, **named):
        if next(calls) == 5:
            assert self._data_queue._reader.poll(60), "a batch is on its way"
            (worker,) = self._workers
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
            monkeypatch.setattr(worker, "is_alive", lambda: True)
        return fetch(self, *given, **named)

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "_try_get_data", fetch_from_the_dying)
    monkeypatch.setattr(dataloader._utils.signal_handling, "_error_if_any_worker_fails", lambda: None)
    with pytest.raises(TrainingError, match=r"rank 0 lost a loader worker at step \d+ \(.*Connection") as stopped:
        train(tmp_path / "run", "data.num_workers=1")
    assert isinstance(stopped.value.__cause__, ConnectionError)
    assert str(stopped.value).endswith("the last checkpoint before the failure")


def test_stops_during_an_upload(start, whole, s3_faults, bucket, tmp_path, record_property):
    """The store stands still: who is at a terminal need not wait for it, and who asks for a checkpoint gets one."""
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    place = {"S3_ENDPOINT_URL": s3_faults.url, **keys}
    uploads = "PUT", "/corpus/run/ba3.pt"
    s3_faults.rule = lambda method, path, _: "stall" if (method, path) == uploads else None
    run = start(tmp_path / "run", 1, "checkpoint.folder=s3://corpus/run", **place)
    until(lambda: s3_faults.requests[uploads], run)
    os.kill(run.pids[0], signal.SIGINT)
    assert run.end() == [130], run.printed
    assert "interrupted: run the same command again to resume" in run.printed
    assert not [each.key for each in bucket.objects.all()]
    s3_faults.resumed.set()

    s3_faults.requests.clear()
    s3_faults.resumed.clear()
    run = start(tmp_path / "run", 1, "checkpoint.folder=s3://corpus/run", **place)
    until(lambda: s3_faults.requests[uploads], run)
    os.kill(run.pids[0], signal.SIGTERM)
    s3_faults.rule = lambda *_: None
    s3_faults.resumed.set()
    assert run.end() == [STOPPED], run.printed
    at = len(run.rows(1))
    assert f"stopped by SIGTERM at step {at}: everything is saved; run the same command again to resume" in run.printed
    assert {f"run/ba{at}.json", f"run/ba{at}.pt"} <= {each.key for each in bucket.objects.all()}

    last = start(tmp_path / "run", 1, "checkpoint.folder=s3://corpus/run", **place)
    assert last.wait() == [0], last.printed
    compare_rows(last, 1, whole, at, "the end")
    assert losses(tmp_path / "run") == losses(whole[1].run_dir)
    record_property("injected", 2)

"""A rank that stands still for ever: the others end in bounded time, and say which rank and which step it was."""

import re
import signal

import pytest

from tests.train.forked_runs import state_of, until

pytestmark = [pytest.mark.slow, pytest.mark.fault(5), pytest.mark.timeout(600)]

SETTINGS = ("train.dist_timeout=6", "train.global_batch_size=6", "train.microbatch_size=1")


@pytest.mark.parametrize(("point", "hit", "world"), [("backward", 0, 2), ("copy", 1, 3)])
def test_the_others_name_the_rank_and_the_step(start, tmp_path, point, hit, world):
    fault = {"point": point, "call": 2, "signal": signal.SIGSTOP}
    run = start(tmp_path / "run", world, *SETTINGS, faults={hit: fault})
    others = [pid for rank, pid in enumerate(run.pids) if rank != hit]
    until(lambda: all(state_of(pid) == "Z" for pid in others), run)
    assert state_of(run.pids[hit]) == "T"
    ended = run.kill()
    assert [ended[rank] for rank in range(world) if rank != hit] == [1] * (world - 1), run.printed
    told = re.findall(
        r"^error: rank (\d) (?:waited in vain for|lost) another rank at step (\d+) \((.*)", run.printed, re.MULTILINE
    )
    assert [int(rank) for rank, *_ in told] == [rank for rank in range(world) if rank != hit], run.printed
    assert {step for _, step, _ in told} == {"1" if point == "backward" else "7"}
    assert all(why.startswith(f"rank {hit} got SIGSTOP; ") for *_, why in told), run.printed
    assert "Traceback" not in run.printed

"""Shards are worked on side by side, and come out in order."""

import io
import threading

import pytest

from meap.prep.audit.workers import ShardMeter, in_order
from meap.show.progress import Display


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_are_in_order_and_no_more_are_held_than_there_are_workers(workers):
    held, most, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return item * item

    results = []
    for result in in_order(work, range(40), workers):
        with lock:
            held -= 1
        results.append(result)
    assert results == [item * item for item in range(40)]
    assert most <= workers + 1  # the one that was just handed over is counted until it is taken


def test_workers_work_side_by_side():
    barrier = threading.Barrier(3, timeout=60)
    assert list(in_order(lambda item: (barrier.wait(), item)[1], range(9), 3)) == list(range(9))


def test_a_failure_ends_the_others_and_is_told():
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        list(in_order(work, range(1000), 2))
    assert len(done) < 10


def test_the_line_says_how_far_and_how_long(monkeypatch):
    console = io.StringIO()
    now = 0.0
    monkeypatch.setattr("meap.prep.audit.workers.Display", Display)
    monkeypatch.setattr("meap.prep.audit.workers.time.monotonic", lambda: now)
    with ShardMeter(4, 40_000_000, console=console) as meter:
        for now in (4.0, 6.0, 8.0, 12.0):  # noqa: B007  the clock above
            meter.add(10_000_000)
    assert console.getvalue().splitlines() == ["2 of 4 shards | 20.0 MB of 40.0 MB | 3.3 MB/s | time left: 0:00:06"]
    assert meter.seconds == 12.0

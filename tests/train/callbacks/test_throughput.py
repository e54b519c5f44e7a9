"""Speed, as the run's own clock has it: what counts, what does not, and what follows from it."""

from types import SimpleNamespace

import pytest
from composer.core import Timestamp

from meap.train.callbacks import throughput
from meap.train.callbacks.throughput import Throughput
from meap.train.timetable import Timetable


class Clock:
    """Stands in for the module's only source of time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def measure(*, interval: int, steps: int = 20, pause_every: int = 100) -> Throughput:
    """What measures a run with evaluations and checkpoints every so many steps."""
    return Throughput(
        interval=interval,
        tokens_per_batch=1000,
        flops_per_token=4.0,
        peak_flops=8000.0,
        world_size=2,
        timetable=Timetable(
            steps=steps,
            steps_per_epoch=steps,
            warmup=0,
            masking=steps,
            log_interval=interval,
            eval_interval=pause_every,
            checkpoint_interval=pause_every,
        ),
    )


def run(clock: Clock, *, steps: int, checkpoint_every: int, first_step: int = 0) -> dict[int, dict[str, float]]:
    """Steps of 2 s, of which the first compiles for 100 s; evaluations of 30 s with checkpoints of 20 s."""
    logged: dict[int, dict[str, float]] = {}
    callback = measure(interval=5, pause_every=checkpoint_every)
    state = SimpleNamespace(eval_timestamp=Timestamp(total_wct=None))
    for step in range(first_step + 1, first_step + steps + 1):
        callback.before_dataloader(state, None)
        clock.now += 2.0 + (100.0 if step == first_step + 1 else 0.0)
        state.timestamp = Timestamp(batch=step)
        logger = SimpleNamespace(log_metrics=lambda metrics, step=step: logged.__setitem__(step, metrics))
        callback.batch_end(state, logger)
        if step % checkpoint_every == 0:
            callback.eval_start(state, None)
            clock.now += 30.0
            callback.eval_end(state, None)
            callback.batch_checkpoint(state, None)
            clock.now += 20.0
    return logged


def test_compiling_evaluating_and_saving_do_not_count(clock):
    logged = run(clock, steps=20, checkpoint_every=4)
    assert list(logged) == [5, 10, 15, 20]
    for (step, metrics), pauses_left in zip(logged.items(), (4, 3, 2, 1), strict=True):
        assert metrics["throughput/tokens_per_sec"] == pytest.approx(500.0)
        assert metrics["throughput/device/tokens_per_sec"] == pytest.approx(250.0)
        assert metrics["throughput/device/mfu"] == pytest.approx(500 * 4 / 8000)
        assert metrics["time/remaining_estimate"] * 3600 == pytest.approx((20 - step) * 2.0 + pauses_left * 50.0)


def test_a_resumed_run_counts_its_own_steps_only(clock):
    logged = run(clock, steps=10, checkpoint_every=100, first_step=10)
    assert list(logged) == [15, 20]
    assert logged[15]["throughput/tokens_per_sec"] == pytest.approx(500.0)


def test_the_time_left_follows_the_speed_of_the_same_line(clock):
    """From 1 s a step to 20 s: what the line says of one, it says of the other."""
    callback, logged = measure(interval=2, steps=40), []
    logger = SimpleNamespace(log_metrics=logged.append)
    for step in range(1, 41):
        callback.before_dataloader(None, None)
        clock.now += 1.0 if step <= 20 else 20.0
        callback.batch_end(SimpleNamespace(timestamp=Timestamp(batch=step)), logger)
    assert len(logged) == 19
    for step, metrics in zip(range(4, 41, 2), logged, strict=True):
        seconds_per_step = 1000 / metrics["throughput/tokens_per_sec"]
        assert seconds_per_step == pytest.approx(1.0 if step <= 20 else 20.0)
        assert metrics["time/remaining_estimate"] * 3600 == pytest.approx((40 - step) * seconds_per_step)


def test_hours_of_evaluation_survive_a_resumption():
    first = measure(interval=1)
    first.load_state_dict({"eval_seconds": 12.5})
    assert first.state_dict() == {"eval_seconds": 12.5}

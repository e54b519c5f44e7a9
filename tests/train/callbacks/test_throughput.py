"""Speed, as the run's own clock has it: what counts, what does not, and what follows from it."""

from types import SimpleNamespace

import pytest
from composer.core import Time, Timestamp

from meap.train.callbacks import throughput
from meap.train.callbacks.throughput import Throughput


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


def run(clock: Clock, *, steps: int, checkpoint_every: int, first_step: int = 0) -> dict[int, dict[str, float]]:
    """Steps of 2 s, of which the first compiles for 100 s; evaluations of 30 s with checkpoints of 20 s."""
    logged: dict[int, dict[str, float]] = {}
    callback = Throughput(interval=5, tokens_per_batch=1000, flops_per_token=4.0, peak_flops=8000.0, world_size=2)
    state = SimpleNamespace(max_duration=Time.from_batch(20), eval_timestamp=Timestamp(total_wct=None))
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
    for step, metrics in logged.items():
        assert metrics["throughput/tokens_per_sec"] == pytest.approx(500.0)
        assert metrics["throughput/device/tokens_per_sec"] == pytest.approx(250.0)
        assert metrics["throughput/device/mfu"] == pytest.approx(500 * 4 / 8000)
        assert metrics["time/remaining_estimate"] * 3600 == pytest.approx((20 - step) * 2.0)


def test_a_resumed_run_counts_its_own_steps_only(clock):
    logged = run(clock, steps=10, checkpoint_every=100, first_step=10)
    assert list(logged) == [15, 20]
    assert logged[15]["throughput/tokens_per_sec"] == pytest.approx(500.0)


def test_hours_of_evaluation_survive_a_resumption():
    first = Throughput(interval=1, tokens_per_batch=1, flops_per_token=1.0, peak_flops=None, world_size=1)
    first.load_state_dict({"eval_seconds": 12.5})
    assert first.state_dict() == {"eval_seconds": 12.5}

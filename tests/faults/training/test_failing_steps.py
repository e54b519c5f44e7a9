"""A loss that is not finite, memory that runs out, a clock that jumps: in real runs in this process."""

import datetime as dt
import itertools
import json
import os
import re
import time

import pytest
from composer.trainer import trainer as composers_trainer

from meap.checkpoints import CheckpointStore
from meap.checkpoints.trust import load_checkpoint
from meap.errors import TrainingError
from tests.train.conftest import losses
from tests.train.outputs import at_pass, no_number, out_of_memory, overflow_of_gradient

pytestmark = [pytest.mark.fault(14), pytest.mark.timeout(900)]

FLAT = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")
STEPS = 14  # of an epoch of 8, with checkpoints at 4, 8 and 12
RUN = (f"train.max_duration={STEPS}ba", *FLAT)
PASSES = 2  # micro-batches of 4 rows


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> list[float]:
    return train(tmp_path_factory.mktemp("whole") / "run", *RUN)


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 50])
@pytest.mark.parametrize("step", [3, 10])
def test_a_loss_that_is_no_number_stops_the_run_with_its_samples(train, whole, tmp_path, step, interval):
    overrides = (*RUN, f"train.log_interval={interval}ba")
    with at_pass((step - 1) * PASSES, no_number) as seen, pytest.raises(TrainingError) as stopped:
        train(tmp_path / "run", *overrides)
    rows = sorted(i for each in seen[(step - 1) * PASSES : step * PASSES] for i in each)
    message, folder = str(stopped.value), tmp_path / "run/checkpoints"
    assert message.startswith(f"the loss of step {step} is nan (epoch {(step - 1) // 8}, samples {rows}), so nothing")
    assert f"samples=[{rows[0]}] epoch={(step - 1) // 8}), or give another run.name a lower optimizer.lr" in message
    before = [saved for saved in (8, 4) if saved < step]
    if before:
        assert message.endswith(
            f"The same command resumes from {folder}/ba{before[0]}, the last checkpoint before the failure"
        )
    else:
        assert message.endswith(f"There is no checkpoint in {folder} yet: the same command begins at step 0")
    assert CheckpointStore(str(folder)).steps() == before
    assert len(losses(tmp_path / "run")) == step - 1
    assert train(tmp_path / "run", *overrides) == whole


@pytest.mark.slow
def test_weights_that_are_no_numbers_are_never_saved(train, whole, tmp_path):
    """The loss of step 8 is fine, its gradient is not, and a checkpoint is due."""
    with at_pass(7 * PASSES, overflow_of_gradient), pytest.raises(TrainingError) as stopped:
        train(tmp_path / "run", *RUN)
    assert str(stopped.value).startswith("weights contain NaN or inf after step 8 although its loss was finite, so")
    assert str(stopped.value).endswith("checkpoints/ba4, the last checkpoint before the failure")
    store = CheckpointStore(str(tmp_path / "run/checkpoints"))
    assert store.steps() == [4]
    saved = load_checkpoint(f"{store.location}/ba4.pt")["state"]
    assert all(bool(weight.isfinite().all()) for weight in saved["model"].values())
    assert train(tmp_path / "run", *RUN) == whole


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [0, 1])
def test_memory_that_runs_out_names_the_micro_batch_and_what_to_set(train, whole, tmp_path, microbatch):
    at = 9 * PASSES + microbatch
    with at_pass(at, out_of_memory) as seen, pytest.raises(TrainingError) as stopped:
        train(tmp_path / "run", *RUN)
    assert str(stopped.value) == (
        f"rank 0 has too little memory for step 10 with train.microbatch_size=4 (samples {seen[at]} of epoch 1; CUDA "
        "out of memory. Tried to allocate 2.00 GiB.): set train.microbatch_size=2. The same command resumes from "
        f"{tmp_path}/run/checkpoints/ba8, the last checkpoint before the failure"
    )
    assert len(seen) == at + 1, "the micro-batch was tried again, or another after it"
    assert train(tmp_path / "run", *RUN, "train.microbatch_size=2") == pytest.approx(whole, abs=1e-5)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(train, whole, tmp_path, monkeypatch, record_property):
    """Hours on and back at every look at it; and files that seem to be from the future, or the wrong way round."""
    jumps = itertools.cycle([0, 6 * 3600, -9 * 3600, 400 * 86400, -1])
    injected, steady, real = [0], time.time, dt.datetime

    def jump() -> float:
        injected[0] += 1
        return steady() + next(jumps)

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return real.fromtimestamp(jump(), tz)

    monkeypatch.setattr(time, "time", jump)
    monkeypatch.setattr(dt, "datetime", Clock)
    assert composers_trainer.datetime.datetime is Clock
    train(tmp_path / "run", f"train.max_duration={STEPS - 4}ba", *FLAT)
    folder = tmp_path / "run/checkpoints"
    for age, path in enumerate(sorted(folder.glob("ba*"), key=lambda path: int(path.stem[2:]))):
        moment = steady() + 86400 * (10 - age)
        os.utime(path, (moment, moment))
    assert train(tmp_path / "run", *RUN) == whole
    assert CheckpointStore(str(folder)).steps()[0] == STEPS
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    hours = [record["time/total"] for record in records if "time/total" in record]
    assert all(0 < each < 1 for each in hours), "measured by a clock that may be set"
    assert hours == sorted(hours)
    record_property("injected", injected[0])


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["memory", "weights"])
def test_what_fails_on_one_rank_ends_all(start, tmp_path, whom):
    run = start(tmp_path / "run", 2, faults={1: {"point": "forward", "call": 150, "whom": whom}})
    ended = run.end()
    assert 0 not in ended
    assert ended[1] == 1, run.printed
    assert "Traceback" not in run.printed
    assert "the last checkpoint before the failure" in run.printed
    if whom == "memory":
        assert "error: rank 1 has too little memory for step 6 with train.microbatch_size=2 (samples [" in run.printed
    else:  # all have read the same mean, and name the samples of all
        assert ended == [1, 1], run.printed
        (told,) = set(re.findall(r"error: the loss of step \d is nan \(epoch 0, samples \[.*?\]\)", run.printed))
        assert len(told.split("[")[1].split(",")) == 8

"""Durations and intervals of any unit are steps, known before the first: exact, whole, and the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meap.data import open_shards
from meap.errors import ConfigError
from meap.train.preflight import check_config
from meap.train.timetable import Timetable, count_steps

# 64 rows of 16 tokens in batches of 8: 8 steps an epoch.
STEPS = [
    *(("7ba", 7), ("33sp", 5), ("32sp", 4), ("129tok", 2), ("128tok", 1), ("2ep", 16), ("1ep", 8)),
]


@pytest.fixture
def timetable_of(small_config, tmp_path):
    def make(*overrides: str) -> Timetable:
        config = small_config(tmp_path, *overrides)
        return Timetable.of(config, open_shards(config.data, "train"))

    return make


@pytest.mark.parametrize(("duration", "steps"), STEPS)
def test_a_duration_in_any_unit_is_a_number_of_steps(timetable_of, duration, steps):
    assert timetable_of(f"train.max_duration={duration}").steps == steps


@pytest.mark.parametrize(("interval", "steps"), [*STEPS, ("0.1dur", 2), (".5dur", 8), ("1dur", 16)])
def test_so_is_every_interval_and_warm_up_and_schedule(timetable_of, interval, steps):
    keys = ("train.log_interval", "train.eval_interval", "checkpoint.interval")
    timetable = timetable_of("train.max_duration=2ep", *(f"{key}={interval}" for key in keys))
    assert (timetable.log_interval, timetable.eval_interval, timetable.checkpoint_interval) == (steps,) * 3
    others = (f"masking.schedule_duration={interval}", f"scheduler.warmup_duration={interval}")
    longer = timetable_of("train.max_duration=136sp", *others) if steps < 16 and "dur" not in interval else None
    assert longer is None or (longer.steps, longer.warmup, longer.masking) == (17, steps, steps)


@given(unit=st.sampled_from(["ba", "sp", "tok", "ep"]), count=st.integers(1, 10**15), total=st.integers(1, 10**9))
def test_a_part_of_a_step_counts_as_a_whole_one(unit, count, total):
    sizes = {"steps_per_epoch": 7, "batch_rows": 6, "seq_len": 5}
    steps = count_steps(f"{count}{unit}", **sizes)
    if unit in {"ba", "ep"}:
        assert steps == count * (7 if unit == "ep" else 1)
    else:
        size = 6 if unit == "sp" else 30
        assert (steps - 1) * size < count <= steps * size
    assert (
        10 * (count_steps("0.1dur", **sizes, total=total) - 1)
        < total
        <= 10 * count_steps("0.1dur", **sizes, total=total)
    )


@given(steps=st.integers(1, 60), interval=st.integers(1, 80), done=st.integers(0, 60))
def test_how_often_something_happens_is_counted_as_it_happens(steps, interval, done):
    timetable = Timetable(steps, 5, 0, steps, interval, interval, interval)
    due = [step for step in range(1, steps + 1) if step % interval == 0 or step == steps]
    assert timetable.times_left(interval, done=done) == len([step for step in due if step > done])


def test_the_decay_is_a_share_of_the_run_and_of_a_branch_s_own_steps(timetable_of):
    wsd, branch = "scheduler.schedule=wsd", "train.branch_from=s3://b/trunk/ba60.pt"
    of = {
        ("scheduler.schedule=cosine",): (10, None),
        ("scheduler.schedule=constant",): (10, 0),
        (wsd,): (10, 10),
        (wsd, "scheduler.decay_fraction=0.9"): (10, 90),
        (wsd, "scheduler.decay_fraction=0.29"): (10, 29),
        ("scheduler.schedule=cosine", branch): (0, 40),
        ("scheduler.schedule=constant", branch): (0, 0),
        (wsd, branch): (0, 4),
        (wsd, branch, "scheduler.decay_fraction=1"): (0, 40),
    }
    for overrides, expected in of.items():
        timetable = timetable_of("train.max_duration=100ba", *overrides)
        assert (timetable.warmup, timetable.decay) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["scheduler.decay_fraction=0.95"],
            r"=0.95 \(95 steps\) and the warm-up \(10 steps\) take more than",
        ),
        (
            ["train.branch_from=ba100.pt"],
            r"=100ba \(100 steps\) ends no later than train.branch_from=ba100.pt",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_the_run_is_refused(timetable_of, small_config, tmp_path, overrides, message):
    for check in (timetable_of, lambda *given: check_config(small_config(tmp_path, *given))):
        with pytest.raises(ConfigError, match=message):
            check("scheduler.schedule=wsd", "train.max_duration=100ba", *overrides)


def test_a_share_to_warm_up_is_rounded_down_exactly(timetable_of):
    assert timetable_of("train.max_duration=190000ba").warmup == 19_000
    assert timetable_of("train.max_duration=19ba", "scheduler.warmup_ratio=0.1").warmup == 1
    assert timetable_of("train.max_duration=100ba", "scheduler.warmup_ratio=0.29").warmup == 29


@pytest.mark.parametrize(
    ("duration", "warm_up", "message"),
    [
        ("100ba", "100ba", r"=100ba \(100 steps\) leaves nothing of train.max_duration=100ba \(100 steps\): shorten"),
        ("128tok", "16sp", r"=16sp \(2 steps\) leaves nothing of train.max_duration=128tok \(1 steps\)"),
        ("2ep", "2ep", r"=2ep \(16 steps\) leaves nothing of train.max_duration=2ep \(16 steps\)"),
        ("2ep", "1dur", r"=1dur \(16 steps\) leaves nothing of train.max_duration=2ep \(16 steps\)"),
    ],
)
def test_a_run_that_never_ends_its_warm_up_is_refused(timetable_of, duration, warm_up, message):
    with pytest.raises(ConfigError, match=f"scheduler.warmup_duration{message}"):
        timetable_of(f"train.max_duration={duration}", f"scheduler.warmup_duration={warm_up}")

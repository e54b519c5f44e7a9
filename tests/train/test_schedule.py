"""Schedules of the mask ratio: exact at both ends, monotone between them, and a function of Composer's time alone."""

import math
from types import SimpleNamespace

import pytest
from composer.core import Time, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from meap.errors import ConfigError
from meap.train.schedule import RatioSchedule, scheduled_ratio

RATIOS = st.floats(0.0, 0.99)
SHAPES = st.sampled_from(["linear", "cosine"])


@given(start=RATIOS, end=RATIOS, shape=SHAPES, progress=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_a_schedule_meets_both_ends_exactly_and_never_turns_back(start, end, shape, progress):
    assert scheduled_ratio(start, end, 0.0, shape=shape) == start
    assert scheduled_ratio(start, end, 1.0, shape=shape) == end
    assert scheduled_ratio(start, start, progress[0], shape=shape) == start
    earlier, later = (scheduled_ratio(start, end, each, shape=shape) for each in progress)
    assert (later - earlier) * (end - start) >= -1e-12
    assert min(start, end) - 1e-12 <= earlier <= max(start, end) + 1e-12


def test_a_cosine_is_half_a_wave():
    for progress in (0.1, 0.25, 0.5, 0.9):
        expected = 0.3 - 0.2 * (1 - math.cos(math.pi * progress)) / 2
        assert scheduled_ratio(0.3, 0.1, progress, shape="cosine") == pytest.approx(expected)


def at(batch: int, *, max_duration: str, dataloader_len: int | None = 20) -> SimpleNamespace:
    """The time before batch `batch`, of 4 rows of 100 tokens, in epochs of 20 batches."""
    timestamp = Timestamp(epoch=batch // 20, batch=batch, sample=4 * batch, token=400 * batch)
    length = None if dataloader_len is None else Time.from_batch(dataloader_len)
    return SimpleNamespace(timestamp=timestamp, max_duration=Time.from_timestring(max_duration), dataloader_len=length)


@pytest.mark.parametrize(
    ("duration", "max_duration"),
    [
        ("1dur", "40ba"),
        ("1dur", "160sp"),
        ("1dur", "16000tok"),
        ("1dur", "2ep"),  # within an epoch too, whose number stands still
        ("0.5dur", "80ba"),
        ("0.5dur", "4ep"),
        ("40ba", "1000ba"),
        ("160sp", "5ep"),
        ("16000tok", "5ep"),
        ("2ep", "7ep"),
    ],
)
def test_every_unit_of_time_gives_the_same_schedule(duration: str, max_duration: str):
    schedule = RatioSchedule("linear", final_ratio=0.5, duration=duration)
    for batch in (0, 1, 10, 19, 20, 37, 40, 60):
        ratio = schedule.ratio_at(at(batch, max_duration=max_duration), start=0.1)
        assert ratio == pytest.approx(0.1 + 0.4 * min(1, batch / 40))
    assert schedule.ratio_at(at(40, max_duration=max_duration), start=0.1) == 0.5


def test_epochs_of_unknown_length_are_refused():
    with pytest.raises(ConfigError, match="'1dur' counts epochs, but the loader has no length: give the duration in"):
        RatioSchedule("linear", 0.5).ratio_at(at(3, max_duration="2ep", dataloader_len=None), start=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", 0.5), "schedule 'step' is not known: choose one of linear, cosine"),
        (("linear", 1.0), r"final ratio 1.0 is out of range: it must be in \[0, 1\)"),
        (("linear", 0.5, "10sec"), "schedule duration '10sec' is not allowed: write for example"),
        (("linear", 0.5, "0ba"), "schedule duration '0ba' is not allowed"),
        (("linear", 0.5, "soon"), "schedule duration 'soon' is not a Composer time: write for example"),
    ],
)
def test_what_is_no_schedule_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        RatioSchedule(*arguments)

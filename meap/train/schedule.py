"""How the mask ratio changes over training: a function of Composer's time alone, which a resumed run continues.

The paper's ratio is constant; schedules are for experiments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from composer.core import State, Time
from composer.core.time import TimeUnit

from meap.errors import ConfigError

__all__ = ["RatioSchedule", "scheduled_ratio"]

_SHAPES = ("linear", "cosine")


def scheduled_ratio(start: float, end: float, progress: float, *, shape: str) -> float:
    """The ratio at `progress` in [0, 1] on the way from `start` to `end`, both of which it meets exactly.

    Args:
        start: Ratio at progress 0.
        end: Ratio at progress 1.
        progress: Share of the schedule that has passed.
        shape: `linear`, or `cosine`: half a wave, flat at both ends.
    """
    weight = progress if shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return start + (end - start) * weight if weight < 1 else end


@dataclass(frozen=True)
class RatioSchedule:
    """From the rule's ratio to another one.

    Args:
        shape: `linear` or `cosine`.
        final_ratio: Ratio at the end and after it, in [0, 1).
        duration: Composer time from the start of training; in batches, tokens, samples, epochs, or as a share of the
            whole training (``0.5dur``). Not in seconds: a run would not repeat.

    Raises:
        ConfigError: An argument is none of these.
    """

    shape: str
    final_ratio: float
    duration: str = "1dur"

    def __post_init__(self) -> None:
        if self.shape not in _SHAPES:
            raise ConfigError(f"schedule {self.shape!r} is not known: choose one of {', '.join(_SHAPES)}")
        if not 0.0 <= self.final_ratio < 1.0:
            raise ConfigError(f"final ratio {self.final_ratio} is out of range: it must be in [0, 1)")
        remedy = "write for example 0.5dur, 1000ba or 200000tok"
        try:
            length = Time.from_timestring(self.duration)
        except ValueError as error:
            raise ConfigError(f"schedule duration {self.duration!r} is not a Composer time: {remedy}") from error
        if length.value <= 0 or length.unit in {TimeUnit.SECOND, TimeUnit.ITERATION}:
            raise ConfigError(f"schedule duration {self.duration!r} is not allowed: {remedy}")

    def ratio_at(self, state: State, *, start: float) -> float:
        """The ratio of the batch that `state` is about to train on, where the schedule begins with `start`."""
        return scheduled_ratio(start, self.final_ratio, self._progress(state), shape=self.shape)

    def _progress(self, state: State) -> float:
        duration = Time.from_timestring(self.duration)
        length, unit = duration.value, duration.unit
        if unit == TimeUnit.DURATION:
            assert state.max_duration is not None, "the Trainer has a duration before it has a batch"
            length, unit = length * state.max_duration.value, state.max_duration.unit
        if unit == TimeUnit.EPOCH:
            # Composer counts whole epochs: by them the ratio would stand still within each.
            if state.dataloader_len is None:
                raise ConfigError(
                    f"schedule duration {self.duration!r} counts epochs, but the loader has no length: give the "
                    "duration in batches, for example 1000ba"
                )
            length, unit = length * state.dataloader_len.value, TimeUnit.BATCH
        return min(1.0, state.timestamp.get(unit).value / length)

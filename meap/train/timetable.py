"""When things happen in a run: every duration and interval is converted to steps once, when the data are open.

All batches have the same number of rows and of tokens, and all epochs the same number of batches, so that any unit of
Composer's time is a number of steps, known before the first. Fractions of a step are rounded up.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from meap.config import RecipeConfig
from meap.errors import ConfigError

if TYPE_CHECKING:
    from meap.data import Shards

__all__ = ["Timetable", "count_steps", "require_end_after_warm_up"]

_DURATION = re.compile(r"([\d.]+)(ba|tok|sp|ep|dur)")


@dataclass(frozen=True)
class Timetable:
    """A run in steps. What has an interval happens at each multiple of it, and at the last step."""

    steps: int
    """Of the whole run."""
    steps_per_epoch: int
    warmup: int
    """Steps in which the learning rate rises."""
    masking: int
    """Steps of the mask ratio's schedule."""
    log_interval: int
    eval_interval: int
    checkpoint_interval: int

    @classmethod
    def of(cls, config: RecipeConfig, shards: Shards) -> Timetable:
        """The timetable of a run on these rows.

        Raises:
            ConfigError: There are fewer rows than a batch, or the run ends before it has warmed up.
        """
        from meap.data import plan_epoch  # heavy, and not needed to check a configuration

        rows, train = config.train.global_batch_size, config.train
        per_epoch = plan_epoch(config.data, shards, rows).rows // rows
        sizes = {"steps_per_epoch": per_epoch, "batch_rows": rows, "seq_len": config.data.seq_len}
        total = count_steps(train.max_duration, **sizes)
        warmup = math.floor(Fraction(str(config.scheduler.warmup_ratio)) * total)
        if config.scheduler.warmup_duration is not None:
            warmup = count_steps(config.scheduler.warmup_duration, **sizes, total=total)
            require_end_after_warm_up(config, total=total, warmup=warmup)
        return cls(
            steps=total,
            steps_per_epoch=per_epoch,
            warmup=warmup,
            masking=count_steps(config.masking.schedule_duration, **sizes, total=total),
            log_interval=count_steps(train.log_interval, **sizes, total=total),
            eval_interval=count_steps(train.eval_interval, **sizes, total=total),
            checkpoint_interval=count_steps(config.checkpoint.interval, **sizes, total=total),
        )

    def times_left(self, interval: int, *, done: int) -> int:
        """How often something with this interval happens after step `done`."""
        return -(-self.steps // interval) - done // interval if done < self.steps else 0


def count_steps(duration: str, *, steps_per_epoch: int, batch_rows: int, seq_len: int, total: int | None = None) -> int:
    """Steps of a duration, at least 1; fractions of a step are rounded up.

    Args:
        duration: Composer time in `ba`, `sp`, `tok`, `ep`, or `dur`, a share of the whole run.
        steps_per_epoch: Steps of an epoch.
        batch_rows: Rows of a global batch.
        seq_len: Input tokens of a row.
        total: Steps of the whole run; only needed for shares of it.
    """
    found = _DURATION.fullmatch(duration)
    assert found is not None, "sections check their durations"
    length, unit = Fraction(found[1]), found[2]
    if unit == "dur":
        assert total is not None, "the length of a run cannot be a share of itself"
        return math.ceil(length * total)
    if unit == "ep":
        return math.ceil(length * steps_per_epoch)
    return math.ceil(length / {"ba": 1, "sp": batch_rows, "tok": batch_rows * seq_len}[unit])


def require_end_after_warm_up(config: RecipeConfig, *, total: int, warmup: int) -> None:
    """Raise `ConfigError` unless a run of `total` steps goes on after `warmup` of them."""
    if warmup >= total:
        raise ConfigError(
            f"scheduler.warmup_duration={config.scheduler.warmup_duration} ({warmup:,} steps) leaves nothing of "
            f"train.max_duration={config.train.max_duration} ({total:,} steps): shorten the one or lengthen the other"
        )

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

__all__ = ["Timetable", "count_rate_steps", "count_steps"]

_DURATION = re.compile(r"([\d.]+)(ba|tok|sp|ep|dur)")


@dataclass(frozen=True)
class Timetable:
    """A run in steps. What has an interval happens at each multiple of it, and at the last step."""

    steps: int
    """Of the whole run."""
    steps_per_epoch: int
    warmup: int
    """Steps in which the learning rate rises; 0 in a branch, which begins at the peak."""
    masking: int
    """Steps of the mask ratio's schedule."""
    log_interval: int
    eval_interval: int
    checkpoint_interval: int
    decay: int | None = None
    """Steps at the end in which the learning rate falls; None for all after the warm-up."""
    branch_step: int = 0
    """Steps of the run that this one branches from; they count among `steps`."""

    @classmethod
    def of(cls, config: RecipeConfig, shards: Shards) -> Timetable:
        """The timetable of a run on these rows.

        Raises:
            ConfigError: There are fewer rows than a batch, or the run ends before it has warmed up, or where it
                branches.
        """
        from meap.data import plan_epoch  # heavy, and not needed to check a configuration

        rows, train = config.train.global_batch_size, config.train
        per_epoch = plan_epoch(config.data, shards, rows).rows // rows
        sizes = {"steps_per_epoch": per_epoch, "batch_rows": rows, "seq_len": config.data.seq_len}
        total = count_steps(train.max_duration, **sizes)
        warmup, decay = count_rate_steps(config, **sizes, total=total)
        return cls(
            steps=total,
            steps_per_epoch=per_epoch,
            warmup=warmup,
            masking=count_steps(config.masking.schedule_duration, **sizes, total=total),
            log_interval=count_steps(train.log_interval, **sizes, total=total),
            eval_interval=count_steps(train.eval_interval, **sizes, total=total),
            checkpoint_interval=count_steps(config.checkpoint.interval, **sizes, total=total),
            decay=decay,
            branch_step=train.branch_step,
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


def count_rate_steps(config: RecipeConfig, *, total: int, **sizes: int) -> tuple[int, int | None]:
    """Steps in which the learning rate rises, and at the end falls; None for all in between.

    Args:
        config: The whole configuration.
        total: Steps of the whole run.
        sizes: As `count_steps` takes them.

    Raises:
        ConfigError: The run ends before it has warmed up or where it branches, or has too few steps for both.
    """
    scheduler, branch_step = config.scheduler, config.train.branch_step
    if branch_step >= total:
        raise ConfigError(
            f"train.max_duration={config.train.max_duration} ({total:,} steps) ends no later than train.branch_from="
            f"{config.train.branch_from} begins (step {branch_step:,}): give a longer one, which counts from step 0"
        )
    warmup = 0
    if not branch_step:
        warmup = math.floor(Fraction(str(scheduler.warmup_ratio)) * total)
        if scheduler.warmup_duration is not None:
            warmup = count_steps(scheduler.warmup_duration, **sizes, total=total)
            _require_end_after_warm_up(config, total=total, warmup=warmup)
    share, _ = scheduler.decay
    if share is None:
        return warmup, total - branch_step if branch_step else None
    decay = math.floor(Fraction(str(share)) * (total - branch_step))
    if warmup + decay > total:
        raise ConfigError(
            f"scheduler.decay_fraction={scheduler.decay_fraction} ({decay:,} steps) and the warm-up ({warmup:,} steps) "
            f"take more than the {total:,} steps of the run: lower one of them; to resume a branch, give its "
            "train.branch_from as well"
        )
    return warmup, decay


def _require_end_after_warm_up(config: RecipeConfig, *, total: int, warmup: int) -> None:
    """Raise `ConfigError` unless a run of `total` steps goes on after `warmup` of them."""
    if warmup >= total:
        raise ConfigError(
            f"scheduler.warmup_duration={config.scheduler.warmup_duration} ({warmup:,} steps) leaves nothing of "
            f"train.max_duration={config.train.max_duration} ({total:,} steps): shorten the one or lengthen the other"
        )

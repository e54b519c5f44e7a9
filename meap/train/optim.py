"""AdamW and the learning-rate schedule of the paper."""

from __future__ import annotations

import math

import torch
from composer.core import Callback, State, Time
from composer.core.time import TimeUnit
from composer.loggers import Logger
from torch.optim import AdamW

from meap.config import OptimizerConfig, SchedulerConfig
from meap.errors import ConfigError

__all__ = ["LearningRateSchedule", "build_optimizer", "build_scheduler", "learning_rate_factor"]


def build_optimizer(config: OptimizerConfig, model: torch.nn.Module, *, fused: bool) -> AdamW:
    """Torch's AdamW; matrices decay, norm weights do not (decay would only pull their scale towards zero).

    The embedding is a matrix and decays like the head and the projections. The official code lets everything decay, so
    that the norm weights, a few in a hundred thousand, are all that differs.

    Composer's DecoupledAdamW is not used: it does not multiply the decay by the learning rate, so that the paper's
    0.05 would mean something else.

    Args:
        config: Section `optimizer` of the configuration.
        model: The model to train.
        fused: Use the fused CUDA kernel.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def learning_rate_factor(step: int, *, warmup: int, total: int, final_ratio: float) -> float:
    """The learning rate of step `step`, counted from 0, as a share of its peak; pure.

    It rises linearly from 0 to 1 in `warmup` steps, then falls along half a cosine to `final_ratio` at step `total`,
    and stays there (section 4.1 of the paper, and ``get_lr`` of the official code).
    """
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / (total - warmup)) if total > warmup else 1.0
    return final_ratio + (1 - final_ratio) * (1 + math.cos(progress * math.pi)) / 2


class LearningRateSchedule(Callback):
    """Linear warm-up, then a cosine to a share of the peak, over the training duration.

    A Callback rather than a Composer scheduler: the Trainer steps its schedulers before it counts the batch, so that
    every step would run at the rate of the step before (and two steps at none), and its warm-up must be in the unit of
    the duration. Here the rate of step s is the schedule's value at s, before and after a resumption, and every
    duration is turned into steps, which is exact, since all batches have the same number of rows and tokens.

    Args:
        warmup: Composer time in which the rate rises from 0 to its peak: ``0.1dur``, ``2000ba``, ``2000000000tok``.
        final_ratio: Rate at the end as a share of the peak.
        rows_per_batch: Rows of a global batch.
        tokens_per_batch: Input tokens of a global batch.
    """

    def __init__(self, *, warmup: str, final_ratio: float, rows_per_batch: int, tokens_per_batch: int) -> None:
        self._warmup = Time.from_timestring(warmup)
        self._final_ratio = final_ratio
        self._per_batch = {TimeUnit.BATCH: 1, TimeUnit.SAMPLE: rows_per_batch, TimeUnit.TOKEN: tokens_per_batch}

    def factor(self, state: State) -> float:
        """The rate of the step that `state` is about to take, as a share of the peak."""
        assert state.max_duration is not None, "the Trainer has a duration before it has a batch"
        total = self._steps(state.max_duration, state)
        if self._warmup.unit == TimeUnit.DURATION:
            warmup = int(self._warmup.value * total)
        else:
            warmup = self._steps(self._warmup, state)
        step = int(state.timestamp.batch)
        return learning_rate_factor(step, warmup=warmup, total=total, final_ratio=self._final_ratio)

    def batch_start(self, state: State, logger: Logger) -> None:
        """Set the rate of this step."""
        factor = self.factor(state)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor

    def _steps(self, duration: Time[int], state: State) -> int:
        if duration.unit == TimeUnit.EPOCH:
            if state.dataloader_len is None:
                raise ConfigError(
                    f"a duration of {duration.value} epochs gives no learning rate, since the loader has no length: "
                    "give train.max_duration and scheduler.warmup_duration in batches, for example 1000ba"
                )
            return duration.value * state.dataloader_len.value
        return math.ceil(duration.value / self._per_batch[duration.unit])


def build_scheduler(config: SchedulerConfig, *, rows_per_batch: int, tokens_per_batch: int) -> LearningRateSchedule:
    """The schedule of section `scheduler`, for batches of this size."""
    return LearningRateSchedule(
        warmup=config.warmup_duration or f"{config.warmup_ratio}dur",
        final_ratio=config.final_ratio,
        rows_per_batch=rows_per_batch,
        tokens_per_batch=tokens_per_batch,
    )

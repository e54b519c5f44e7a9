"""AdamW and the learning-rate schedule of the paper."""

from __future__ import annotations

import math

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch.optim import AdamW

from meap.config import OptimizerConfig, SchedulerConfig
from meap.train.timetable import Timetable

__all__ = ["LearningRateSchedule", "build_optimizer", "build_schedule", "learning_rate_factor"]


def build_optimizer(config: OptimizerConfig, model: torch.nn.Module, *, fused: bool) -> AdamW:
    """Torch's AdamW; matrices decay, norm weights and biases do not, unless `decay_norms` is set.

    The embedding is a matrix and decays like the head and the projections. The official code decays everything, which
    pulls the scale of a norm towards zero: without gradient, 12.6 % of it would be left after the 190,000 steps of the
    1.1B run.

    Composer's DecoupledAdamW is not used: it does not multiply the decay by the learning rate, so that the paper's
    0.05 would mean something else.

    Args:
        config: Section `optimizer` of the configuration.
        model: The model to train.
        fused: Use the fused CUDA kernel.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_vectors = config.weight_decay if config.decay_norms else 0.0
    groups = [
        {"params": [each for each in trained if each.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [each for each in trained if each.ndim < 2], "weight_decay": of_vectors},
    ]
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def learning_rate_factor(time: float, *, warmup: int, total: int, final_ratio: float) -> float:
    """The learning rate at `time`, in steps since the start, as a share of its peak; pure.

    It rises linearly from 0 to 1 in `warmup` steps, then falls along half a cosine to `final_ratio` at `total`, and
    stays there (section 4.1 of the paper, and ``get_lr`` of the official code).
    """
    if time < warmup:
        return time / warmup
    progress = min(1.0, (time - warmup) / (total - warmup)) if total > warmup else 1.0
    return final_ratio + (1 - final_ratio) * (1 + math.cos(progress * math.pi)) / 2


class LearningRateSchedule(Callback):
    """Linear warm-up, then a cosine to a share of the peak, over the whole training.

    A Callback rather than a Composer scheduler: the Trainer steps its schedulers before it counts the batch, so that
    every step would run at the rate of the step before (and two steps at none), and its warm-up must be in the unit of
    the duration. Here a step's rate depends on its number alone, before and after a resumption.

    Step k, counted from 0, has (k + 1) / warmup of the peak in the warm-up, and then the schedule's value at k: no step
    is idle, at a final ratio of 0 neither. The official code sets the rate for each of a step's G micro-batches, at k,
    k + 1/G and so on; the update takes that of the last, which is a lead of 1 - 1/G.

    Args:
        warmup: Steps in which the rate rises from 0 to its peak.
        total: Steps of the whole training.
        final_ratio: Rate at the end as a share of the peak.
        lead: With it, step k has the schedule's value at k + lead throughout.
    """

    def __init__(self, *, warmup: int, total: int, final_ratio: float, lead: float | None = None) -> None:
        self._warmup, self._total, self._final_ratio, self._lead = warmup, total, final_ratio, lead

    def batch_start(self, state: State, logger: Logger) -> None:
        """Set the rate of this step."""
        step = int(state.timestamp.batch)
        lead = int(step < self._warmup) if self._lead is None else self._lead
        factor = learning_rate_factor(
            step + lead, warmup=self._warmup, total=self._total, final_ratio=self._final_ratio
        )
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor


def build_schedule(config: SchedulerConfig, timetable: Timetable) -> LearningRateSchedule:
    """The schedule of a run.

    Args:
        config: Section `scheduler` of the configuration.
        timetable: Steps of the run and of its warm-up.
    """
    return LearningRateSchedule(
        warmup=timetable.warmup, total=timetable.steps, final_ratio=config.final_ratio, lead=config.lead
    )

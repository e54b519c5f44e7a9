"""AdamW and the learning-rate schedule of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

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


_SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(progress * math.pi)) / 2,
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
}
"""What is left of the way from the peak to the final rate, by the share of the decay that has passed."""


def learning_rate_factor(
    time: float, *, warmup: int, total: int, final_ratio: float, decay: int | None = None, shape: str = "cosine"
) -> float:
    """The learning rate at `time`, in steps since the start, as a share of its peak; pure.

    It rises linearly from 0 to 1 in `warmup` steps, stays there, falls to `final_ratio` in the last `decay` steps up to
    `total`, and stays there; with a decay of 0 it never falls. By default it falls along half a cosine from the warm-up
    on (section 4.1 of the paper, and ``get_lr`` of the official code).
    """
    if time < warmup:
        return time / warmup
    start = warmup if decay is None else total - decay
    if time < start or decay == 0:
        return 1.0
    progress = min(1.0, (time - start) / (total - start)) if total > start else 1.0
    return final_ratio + (1 - final_ratio) * _SHAPES[shape](progress)


class LearningRateSchedule(Callback):
    """Linear warm-up, then a decay to a share of the peak at the end of training.

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
        decay: Steps at the end in which the rate falls; None for all after the warm-up.
        shape: How it falls: ``cosine``, ``linear`` or ``1-sqrt``.
        lead: With it, step k has the schedule's value at k + lead throughout.
    """

    def __init__(
        self,
        *,
        warmup: int,
        total: int,
        final_ratio: float,
        decay: int | None = None,
        shape: str = "cosine",
        lead: float | None = None,
    ) -> None:
        self._warmup, self._lead = warmup, lead
        self._factor = partial(
            learning_rate_factor, warmup=warmup, total=total, final_ratio=final_ratio, decay=decay, shape=shape
        )

    def factor(self, step: int) -> float:
        """Share of the peak at a step, counted from 0."""
        return self._factor(step + (int(step < self._warmup) if self._lead is None else self._lead))

    def batch_start(self, state: State, logger: Logger) -> None:
        """Set the rate of this step."""
        factor = self.factor(int(state.timestamp.batch))
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor


def build_schedule(config: SchedulerConfig, timetable: Timetable) -> LearningRateSchedule:
    """The schedule of a run.

    Args:
        config: Section `scheduler` of the configuration.
        timetable: Steps of the run, of its warm-up and of its decay.
    """
    return LearningRateSchedule(
        warmup=timetable.warmup,
        total=timetable.steps,
        final_ratio=config.final_ratio,
        decay=timetable.decay,
        shape=config.decay[1],
        lead=config.lead,
    )

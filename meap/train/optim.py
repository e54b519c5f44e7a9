"""AdamW and the learning-rate schedule of the paper."""

from __future__ import annotations

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.optim import CosineAnnealingWithWarmupScheduler
from torch.optim import AdamW

from meap.config import OptimizerConfig, SchedulerConfig

__all__ = ["LearningRateSchedule", "build_optimizer", "build_scheduler"]


def build_optimizer(config: OptimizerConfig, model: torch.nn.Module, *, fused: bool) -> AdamW:
    """Torch's AdamW; matrices decay, norm weights do not (decay would only pull their scale towards zero).

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


class LearningRateSchedule(Callback):
    """Linear warm-up over a share of the training duration, then a cosine to a share of the peak.

    A Callback rather than a Composer scheduler: the Trainer steps its schedulers before it counts the batch, so that
    every step would run at the rate of the step before (and two steps at none). Here the rate of step s is the
    schedule's value at s, before and after a resumption.

    Args:
        warmup_ratio: Share of the duration in which the rate rises from 0 to its peak.
        final_ratio: Rate at the end as a share of the peak.
    """

    def __init__(self, *, warmup_ratio: float, final_ratio: float) -> None:
        self._factor = CosineAnnealingWithWarmupScheduler(
            t_warmup=f"{warmup_ratio}dur", t_max="1dur", alpha_f=final_ratio
        )

    def factor(self, state: State) -> float:
        """The rate at the state's time, as a share of the peak."""
        return self._factor(state)

    def batch_start(self, state: State, logger: Logger) -> None:
        """Set the rate of this step."""
        factor = self.factor(state)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * factor


def build_scheduler(config: SchedulerConfig) -> LearningRateSchedule:
    """The schedule of section `scheduler`."""
    return LearningRateSchedule(warmup_ratio=config.warmup_ratio, final_ratio=config.final_ratio)

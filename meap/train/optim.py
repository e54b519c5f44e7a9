"""AdamW and the learning-rate schedule of the paper."""

from __future__ import annotations

import torch
from composer.optim import ComposerScheduler, CosineAnnealingWithWarmupScheduler
from torch.optim import AdamW

from meap.config import OptimizerConfig, SchedulerConfig

__all__ = ["build_optimizer", "build_scheduler"]


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


def build_scheduler(config: SchedulerConfig) -> ComposerScheduler:
    """Linear warm-up over a share of the training duration, then a cosine to a share of the peak."""
    return CosineAnnealingWithWarmupScheduler(
        t_warmup=f"{config.warmup_ratio}dur", t_max="1dur", alpha_f=config.final_ratio
    )

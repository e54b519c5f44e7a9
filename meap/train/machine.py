"""What this process runs on: device, precision and its place among the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from composer.utils import dist
from composer.utils.device import get_device

from meap.config import TrainConfig
from meap.errors import ConfigError

__all__ = ["Machine", "join_machine"]


@dataclass(frozen=True)
class Machine:
    """The device and the ranks of a run."""

    device: str
    """`gpu` or `cpu`, as Composer names them."""
    precision: str
    """`amp_bf16` or `fp32`."""
    world_size: int
    rank: int

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on CUDA."""
        return self.device == "gpu"

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def start_weights(self, config: TrainConfig) -> Literal["start", "none"]:
        """Whether this rank loads the weights a run starts from; where they are sharded, the leader hands them out."""
        return "start" if config.sharding == "none" or self.is_leader else "none"


def join_machine(config: TrainConfig) -> Machine:
    """Choose the device and join the other ranks that the launcher started.

    Raises:
        ConfigError: A GPU is asked for where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "gpu" and not has_gpu:
        raise ConfigError("train.device=gpu, but torch sees no CUDA device: use train.device=auto")
    device = "gpu" if has_gpu and config.device != "cpu" else "cpu"
    precision = config.precision if config.precision != "auto" else ("amp_bf16" if device == "gpu" else "fp32")
    dist.initialize_dist(get_device(device), timeout=1800)
    return Machine(device, precision, dist.get_world_size(), dist.get_global_rank())

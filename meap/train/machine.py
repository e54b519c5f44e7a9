"""Device and precision of this process, and its rank among the others."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from composer.utils import dist
from composer.utils.device import get_device

from meap.config import TrainConfig
from meap.data.ranks import limit_waits, meet_neighbours
from meap.errors import ConfigError, LostRankError, MeapError, first_line
from meap.processes import open_line, raise_on_signals, require_files_for_ranks, wait_with_ranks
from meap.train.flops import peak_flops_per_second

__all__ = ["Machine", "join_machine"]

_SECONDS_TO_SAY_SO = 30.0
"""For torch, which gives up after `train.dist_timeout` by itself, mostly, and says why."""


@dataclass(frozen=True)
class Machine:
    """The device and the ranks of a run."""

    device: str
    """`gpu` or `cpu`, as Composer names them."""
    precision: str
    """`amp_bf16` or `fp32`."""
    world_size: int
    rank: int
    ranks_per_node: int

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on CUDA."""
        return self.device == "gpu"

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16."""
        return self.precision == "amp_bf16"

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        """Machines of the run."""
        return self.world_size // self.ranks_per_node

    @property
    def peak_flops(self) -> float | None:
        """Dense bf16 FLOPs per second of all devices together; None where not known, or not computing in bf16."""
        if not self.on_gpu or not self.bf16:
            return None
        of_one = peak_flops_per_second(torch.cuda.get_device_name())
        return of_one and of_one * self.world_size


def join_machine(config: TrainConfig) -> Machine:
    """Choose the device and join the other ranks that the launcher started.

    Raises:
        ConfigError: A GPU or what only one computes is asked for where there is none, or this rank has none of its own.
        MeapError: The ranks do not find each other.
        OSError: This process may not open as many files as that takes.
        LostRankError: One of them has ended already.
    """
    raise_on_signals()  # Composer took the signals when it was imported, and would exit without a message
    has_gpu = torch.cuda.is_available()
    if config.device == "gpu" and not has_gpu:
        raise ConfigError("train.device=gpu, but torch sees no CUDA device: use train.device=auto")
    device = "gpu" if has_gpu and config.device != "cpu" else "cpu"
    if device == "gpu" and dist.get_local_rank() >= (num_gpus := torch.cuda.device_count()):
        raise ConfigError(
            f"local rank {dist.get_local_rank()} of {dist.get_local_world_size()} sees {num_gpus} GPUs "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}): start no more ranks per node "
            "than it has GPUs, and let each see them all (srun --gpus-per-node, not --gpus-per-task)"
        )
    precision = config.precision if config.precision != "auto" else ("amp_bf16" if device == "gpu" else "fp32")
    if device == "cpu" and precision == "amp_bf16":
        raise ConfigError("train.precision=amp_bf16 needs a GPU, and this run is on the CPU: use train.precision=auto")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first called
        # With warnings alone, attention would be computed by kernels that are not.
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cuda.enable_cudnn_sdp(False)  # its kernel for segments asks nobody
    require_files_for_ranks(is_loaded=True)
    try:
        # In its thread, too, the device is this rank's own.
        wait_with_ranks(
            lambda: dist.initialize_dist(get_device(device), timeout=config.dist_timeout),
            seconds=config.dist_timeout + _SECONDS_TO_SAY_SO,
        )
    except RuntimeError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise MeapError(
            f"rank {dist.get_global_rank()} of {dist.get_world_size()} does not find the others at {address} "
            f"({first_line(error)}): MASTER_ADDR must be a name of rank 0's node that all nodes resolve, "
            "MASTER_PORT free there, and all ranks started"
        ) from error
    get_device(device)
    try:
        wait_with_ranks(_meet, seconds=config.dist_timeout + _SECONDS_TO_SAY_SO)
    except RuntimeError as error:
        raise LostRankError(
            f"rank {dist.get_global_rank()} lost another one as they met ({first_line(error)}): the reason is among "
            "the messages of that rank"
        ) from error
    limit_waits(config.dist_timeout)
    return Machine(device, precision, dist.get_world_size(), dist.get_global_rank(), dist.get_local_world_size())


def _meet() -> None:
    open_line()
    meet_neighbours()

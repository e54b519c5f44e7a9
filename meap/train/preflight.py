"""What would stop a run later on, found before its first step: one error with value, bound and remedy.

What a section knows by itself is checked when it is made (`meap.config`); what data knows, when it is opened
(`meap.data`: finished splits, tokenizer, row length). Here is what needs the machine, the model or the network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from meap.config import TrainingConfig
from meap.data import Shards
from meap.errors import ConfigError
from meap.storage import is_url, require_plain_url
from meap.train.kernels import choose_kernels
from meap.train.loggers import require_loggers
from meap.train.machine import Machine
from meap.train.plan import checkpoint_bytes, num_checkpoints, shared_memory_bytes, total_steps
from meap.train.resuming import newest_record
from meap.train.writable import require_writable

__all__ = ["check_room", "check_settings", "check_storage", "notes"]

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where Linux keeps shared memory)


def check_settings(config: TrainingConfig, machine: Machine) -> None:
    """Before anything is opened: settings against each other and against the ranks.

    Raises:
        ConfigError: The first of `_SETTINGS` that does not hold.
    """
    for require in _SETTINGS:
        require(config, machine)
    require_loggers(config.loggers)
    if config.model.kernels == "liger":
        choose_kernels("liger", on_gpu=machine.on_gpu, compiled=False)


def check_storage(config: TrainingConfig, machine: Machine, shards: Shards, *, num_parameters: int) -> None:
    """Before training: room for checkpoints and for samples on their way, and leave to write.

    Args:
        config: The whole configuration.
        machine: Device, precision and ranks.
        shards: The split that is trained on.
        num_parameters: Weights of the model.

    Raises:
        ConfigError: There is too little room.
        CheckpointError: Checkpoints could not be written.
    """
    # Every rank shares the node's memory; of the store one rank's word is enough.
    check_room(
        "shared memory (/dev/shm)",
        _SHARED_MEMORY,
        needed=shared_memory_bytes(config, shards),
        remedy="give the container more (docker run --shm-size=16g), or lower data.num_workers",
    )
    if not machine.is_leader:
        return
    require_writable(config.checkpoint.folder)
    if not is_url(config.checkpoint.folder):
        folder = Path(config.checkpoint.folder)
        size, kept = checkpoint_bytes(num_parameters), num_checkpoints(config, shards)
        there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
        check_room(
            f"the disk of checkpoint.folder={folder}",
            folder,
            needed=size * kept - there,
            remedy=f"a checkpoint takes {_size(size)}, and {kept} of them lie there at once: lower checkpoint.keep, "
            "free space, or save to a bucket (checkpoint.folder=s3://...)",
        )


def notes(config: TrainingConfig) -> list[str]:
    """What may well be meant, and is worth saying."""
    steps = total_steps(config)
    if steps is None:
        return []
    found: list[str] = []
    interval = int(config.checkpoint.interval.removesuffix("ba"))
    if interval > steps:
        found.append(
            f"checkpoint.interval={config.checkpoint.interval} is longer than the run of {steps:,} steps: "
            "only its end is saved, and an interruption starts it anew"
        )
    interval = int(config.train.eval_interval.removesuffix("ba"))
    if config.train.eval_batches and interval > steps:
        found.append(
            f"train.eval_interval={config.train.eval_interval} is longer than the run of {steps:,} steps: "
            "held-out loss is measured at its end only"
        )
    return found


def check_room(name: str, place: Path, *, needed: int, remedy: str) -> None:
    """Raise `ConfigError` unless the file system of `place`, or of its nearest parent, has `needed` bytes free.

    Args:
        name: What the place is, for the message.
        place: A folder, which need not exist yet.
        needed: Bytes.
        remedy: What to do.
    """
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ConfigError(f"{name} has {_size(free)} free, but the run needs {_size(needed)}: {remedy}")


def _require_batches(config: TrainingConfig, machine: Machine) -> None:
    rows, world_size = config.train.global_batch_size, machine.world_size
    if rows % world_size:
        raise ConfigError(
            f"train.global_batch_size={rows} does not divide by {world_size} ranks: start "
            f"{_divisors(rows, near=world_size)} ranks, or choose a multiple of {world_size}"
        )
    per_rank, microbatch = rows // world_size, config.train.microbatch_size
    if microbatch < per_rank and per_rank % microbatch:
        raise ConfigError(
            f"train.microbatch_size={microbatch} does not divide the {per_rank} rows that each of {world_size} ranks "
            f"has of a batch of {rows}: choose {_divisors(per_rank, near=microbatch)}"
        )


def _require_nodes(config: TrainingConfig, machine: Machine) -> None:
    nodes, canonical = machine.world_size // machine.ranks_per_node, config.data.num_canonical_nodes
    if canonical % nodes:
        raise ConfigError(
            f"data.num_canonical_nodes={canonical} does not divide by {nodes} nodes: the order of samples would depend "
            f"on the machines; use {_divisors(canonical, near=nodes)} nodes, or for a new run set it to a multiple of "
            f"{nodes}, such as {-(-canonical // nodes) * nodes}"
        )


def _require_ranks_to_shard(config: TrainingConfig, machine: Machine) -> None:
    if config.train.sharding == "none" or machine.world_size > 1:
        return
    # What many ranks have begun, one may continue.
    if newest_record(config.checkpoint.folder) is None:
        raise ConfigError(
            f"train.sharding={config.train.sharding} spreads the model over ranks, but there is 1 {machine.device} "
            "rank: start the recipe with the composer launcher on several devices, or set train.sharding=none"
        )


def _require_end_after_warm_up(config: TrainingConfig, machine: Machine) -> None:
    warm_up = config.scheduler.warmup_duration
    steps, warm_up_steps = total_steps(config), total_steps(config, warm_up) if warm_up else None
    if steps is not None and warm_up_steps is not None and warm_up_steps >= steps:
        raise ConfigError(
            f"scheduler.warmup_duration={warm_up} ({warm_up_steps:,} steps) leaves nothing of "
            f"train.max_duration={config.train.max_duration} ({steps:,} steps): shorten the one or lengthen the other"
        )


def _require_plain_addresses(config: TrainingConfig, machine: Machine) -> None:
    require_plain_url("data.remote", config.data.remote)
    for name, stream in config.data.streams.items():
        require_plain_url(f"data.streams.{name}.remote", stream.remote)
    require_plain_url("checkpoint.folder", config.checkpoint.folder)


_SETTINGS: tuple[Callable[[TrainingConfig, Machine], None], ...] = (
    _require_plain_addresses,
    _require_batches,
    _require_nodes,
    _require_ranks_to_shard,
    _require_end_after_warm_up,
)


def _divisors(number: int, *, near: int) -> str:
    """The divisors of `number` on both sides of `near`."""
    divisors = [each for each in range(1, number + 1) if number % each == 0]
    below, above = [each for each in divisors if each <= near], [each for each in divisors if each > near]
    return " or ".join(str(each) for each in (*below[-1:], *above[:1]))


def _size(number: int) -> str:
    return f"{number / 1e9:,.2f} GB"

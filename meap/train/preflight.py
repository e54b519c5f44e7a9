"""What would stop a run later on, found before its first step: one error with value, bound and remedy.

A section checks its own values when it is made (`meap.config`), and data are checked when they are opened (`meap.data`:
finished splits, tokenizer, row length). Here are checks between sections, and those that need the ranks, the model or
the network. Nothing heavy is imported, so that mistakes are answered before libraries are loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from meap.checkpoints import CheckpointStore, newest_record, require_checkpoint_at
from meap.config import RecipeConfig
from meap.config.checks import require_writable_folder
from meap.errors import ConfigError
from meap.extras import require_packages
from meap.places.addresses import is_url, require_plain_url
from meap.show.numbers import size
from meap.train.plan import checkpoint_bytes, num_checkpoints
from meap.train.ranks import Ranks
from meap.train.timetable import Timetable, count_rate_steps, count_steps

if TYPE_CHECKING:
    from meap.data import Shards
    from meap.train.machine import Machine

__all__ = [
    "check_config",
    "check_ranks",
    "check_room",
    "check_storage",
    "notes",
    "require_fine_tuning",
]


def check_config(config: RecipeConfig) -> None:
    """What can be told from the configuration alone, wherever it runs.

    Raises:
        ConfigError: A URL holds a secret, the run's folder cannot be written, the schedule takes more than the run, or
            a package is missing.
        CheckpointError: The run would begin with a checkpoint that is not there.
    """
    _require_plain_addresses(config)
    require_writable_folder("run.dir", config.run.dir)
    _require_room_for_schedule(config)
    if config.lora.rank and config.masking.reversed_ratio:
        raise ConfigError(
            f"masking.reversed_ratio={config.masking.reversed_ratio} adds a token to the vocabulary, whose embedding "
            f"lora.rank={config.lora.rank} leaves frozen: set one of the two to 0"
        )
    _require_trunk(config)
    config.loggers.require_packages()
    if config.lora.rank:
        require_packages(f"lora.rank={config.lora.rank}", "peft", extra="lora")
    if config.model.kernels == "liger":
        require_packages("model.kernels=liger", "liger_kernel", extra="gpu")


def check_ranks(config: RecipeConfig, ranks: Ranks | Machine) -> None:
    """What can be told from the configuration and the ranks, before anything is opened.

    Raises:
        ConfigError: A batch, the order of samples or the model does not fit the ranks.
    """
    _require_batches(config, ranks)
    _require_nodes(config, ranks)
    _require_ranks_to_shard(config, ranks)


def require_fine_tuning(config: RecipeConfig) -> None:
    """Refuse a configuration that is not one of fine-tuning.

    Raises:
        ConfigError: There is no model to tune, the training process is to mask, or rows are to be reversed.
    """
    if config.model.base is None:
        raise ConfigError(
            "model.base is not set: fine-tuning starts from a finished model; give its folder or hub name "
            "(recipes/meap_1b.py trains from scratch)"
        )
    if config.masking.site != "dataset":
        raise ConfigError(
            f"masking.site={config.masking.site} is for pre-training: copies are made and masked by the loader's "
            "workers, set masking.site=dataset"
        )
    if config.masking.reversed_ratio:
        raise ConfigError(
            f"masking.reversed_ratio={config.masking.reversed_ratio} is for pre-training: conversations are not read "
            "right to left, set it to 0"
        )


def check_storage(config: RecipeConfig, machine: Machine, timetable: Timetable, *, num_parameters: int) -> None:
    """Before training: free space for checkpoints, and permission to write them.

    Args:
        config: The whole configuration.
        machine: Device, precision and ranks.
        timetable: How many checkpoints there will be.
        num_parameters: Weights that checkpoints hold.

    Raises:
        ConfigError: There is too little free space.
        CheckpointError: Checkpoints could not be written.
    """
    if not machine.is_leader:
        return
    CheckpointStore(config.checkpoint.folder).require_writable()
    if not is_url(config.checkpoint.folder):
        folder = Path(config.checkpoint.folder)
        of_checkpoint, kept = checkpoint_bytes(num_parameters), num_checkpoints(timetable, keep=config.checkpoint.keep)
        there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
        check_room(
            f"the disk of checkpoint.folder={folder}",
            folder,
            needed=of_checkpoint * kept - there,
            remedy=f"a checkpoint takes {size(of_checkpoint)}, and {kept} of them lie there at once: lower "
            "checkpoint.keep, free space, or save to a bucket (checkpoint.folder=s3://...)",
        )


def notes(config: RecipeConfig, timetable: Timetable, *, heldout: Shards | None) -> list[str]:
    """Settings that are legal but unusual.

    Args:
        config: The whole configuration.
        timetable: When things happen.
        heldout: The rows that held-out loss is measured on.
    """
    measured = config.train.eval_batches > 0 and heldout is not None
    intervals = (
        (
            f"checkpoint.interval={config.checkpoint.interval}",
            timetable.checkpoint_interval,
            "only its end is saved, and an interruption starts it anew",
        ),
        (
            f"train.eval_interval={config.train.eval_interval}",
            timetable.eval_interval if measured else 0,
            "held-out loss is measured at its end only",
        ),
        (
            f"train.log_interval={config.train.log_interval}",
            timetable.log_interval,
            "only its last step is shown",
        ),
        (
            f"masking.schedule_duration={config.masking.schedule_duration}",
            timetable.masking if config.masking.final_ratio is not None else 0,
            f"the ratio does not reach masking.final_ratio={config.masking.final_ratio}",
        ),
    )
    found = [
        f"{setting} is longer than the run of {timetable.steps:,} steps: {consequence}"
        for setting, steps, consequence in intervals
        if steps > timetable.steps
    ]
    if config.train.eval_batches and heldout is None:
        found.append(
            "the data hold no validation split, so held-out loss is not measured: prepare them with a heldout_ratio "
            "above 0 and enough documents, or set train.eval_batches=0"
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
        raise ConfigError(f"{name} has {size(free)} free, but the run needs {size(needed)}: {remedy}")


def _require_batches(config: RecipeConfig, ranks: Ranks | Machine) -> None:
    rows, world_size = config.train.global_batch_size, ranks.world_size
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


def _require_nodes(config: RecipeConfig, ranks: Ranks | Machine) -> None:
    nodes, canonical = ranks.num_nodes, config.data.num_canonical_nodes
    if canonical % nodes:
        raise ConfigError(
            f"data.num_canonical_nodes={canonical} does not divide by {nodes} nodes: the order of samples would depend "
            f"on the machines; use {_divisors(canonical, near=nodes)} nodes, or for a new run set it to a multiple of "
            f"{nodes}, such as {-(-canonical // nodes) * nodes}"
        )


def _require_ranks_to_shard(config: RecipeConfig, ranks: Ranks | Machine) -> None:
    if not config.train.sharding_mode.spreads_weights or ranks.world_size > 1:
        return
    # One rank may resume what several began.
    if newest_record(config.checkpoint.folder) is None:
        raise ConfigError(
            f"train.sharding={config.train.sharding} shards the model over ranks, but there is 1 rank: "
            "start the recipe on several devices (composer -n 2), or set train.sharding=none"
        )


def _require_trunk(config: RecipeConfig) -> None:
    """Unless the run has checkpoints of its own, which it resumes from; stores are asked when they are opened."""
    branch_from, folder = config.train.branch_from, config.checkpoint.folder
    if branch_from is None or is_url(branch_from) or is_url(folder) or CheckpointStore(folder).steps():
        return
    require_checkpoint_at(branch_from, key="train.branch_from")


def _require_room_for_schedule(config: RecipeConfig) -> None:
    """Unless a duration is in epochs; `Timetable.of` checks those too, once the data are open."""
    max_duration, warmup = config.train.max_duration, config.scheduler.warmup_duration
    if max_duration.endswith("ep") or (warmup or "").endswith("ep"):
        return
    sizes = {"steps_per_epoch": 0, "batch_rows": config.train.global_batch_size, "seq_len": config.data.seq_len}
    count_rate_steps(config, total=count_steps(max_duration, **sizes), **sizes)


def _require_plain_addresses(config: RecipeConfig) -> None:
    require_plain_url("data.remote", config.data.remote)
    for name, stream in config.data.streams.items():
        require_plain_url(f"data.streams.{name}.remote", stream.remote)
    require_plain_url("checkpoint.folder", config.checkpoint.folder)
    if config.train.branch_from is not None:
        require_plain_url("train.branch_from", config.train.branch_from)


def _divisors(number: int, *, near: int) -> str:
    """The divisors of `number` on both sides of `near`."""
    divisors = [each for each in range(1, number + 1) if number % each == 0]
    below, above = [each for each in divisors if each <= near], [each for each in divisors if each > near]
    return " or ".join(str(each) for each in (*below[-1:], *above[:1]))

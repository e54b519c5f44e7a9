"""The few places where our rows meet Composer's Trainer: token counting, and the fit itself."""

from __future__ import annotations

import gc
import traceback
import warnings
from pathlib import Path
from typing import Any

from composer import DataSpec, Trainer
from composer.core import Evaluator
from composer.core.time import TimeUnit
from composer.utils import dist

from meap.config import TrainConfig, TrainingConfig
from meap.data import Shards
from meap.errors import CheckpointError, ConfigError, MeapError, StoppedError, TrainingError
from meap.schema import Batch, SftBatch
from meap.train.callbacks import append_to_log
from meap.train.machine import Machine
from meap.train.model import NextTokenModel
from meap.train.preflight import notes
from meap.train.saving import CheckpointSaving

__all__ = [
    "count_tokens",
    "describe",
    "fit",
    "heldout_evaluator",
    "loader_settings",
    "packed_rows",
    "require_extension",
    "require_fine_tuning",
]


def loader_settings(config: TrainingConfig, machine: Machine, run_dir: Path) -> dict[str, Any]:
    """What the loaders of a run have in common, for `build_loader` and `build_sft_loader`."""
    cache_dir = run_dir / "cache"
    if machine.num_nodes > 1:  # which may share the run's folder, but cannot agree on what is in a cache
        cache_dir /= f"node{machine.rank // machine.ranks_per_node}"
    return {
        "seed": config.run.seed,
        "global_batch_size": config.train.global_batch_size,
        "world_size": machine.world_size,
        "cache_dir": Path(config.data.cache_dir or cache_dir),
    }


def packed_rows(loader: Any) -> DataSpec:
    """A loader of packed rows, with the token count by which Composer weighs ranks and micro-batches."""
    return DataSpec(loader, get_num_tokens_in_batch=count_tokens)


def count_tokens(batch: Batch | SftBatch) -> dict[str, int]:
    """Positions of a batch, and how many of them are scored; known on the host, so no device needs to be asked."""
    num_tokens = int(batch["labels"].numel())
    # Every position of a pre-training row is scored; rows of fine-tuning bring their counts.
    num_scored = sum(batch["num_targets"]) if "num_targets" in batch else num_tokens
    return {"total": num_tokens, "loss_generating": num_scored}


def heldout_evaluator(loader: Any, config: TrainConfig) -> Evaluator:
    """Held-out loss every `eval_interval`, on `eval_batches` batches."""
    return Evaluator(
        label="heldout",
        dataloader=packed_rows(loader),
        metric_names=["loss"],
        subset_num_batches=min(config.eval_batches, len(loader)),
        eval_interval=config.eval_interval,
    )


def require_fine_tuning(config: TrainingConfig) -> None:
    """Refuse a configuration that is not one of fine-tuning.

    Raises:
        ConfigError: There is no model to tune, or the training process is to mask.
    """
    if config.model.base is None:
        raise ConfigError(
            "model.base is not set: fine-tuning starts from a finished model, give its folder or hub name"
        )
    if config.masking.site != "dataset":
        raise ConfigError(
            f"masking.site={config.masking.site} is for pre-training: copies are made and masked by the loader's "
            "workers, set masking.site=dataset"
        )


def require_extension(config: TrainingConfig) -> None:
    """Refuse a configuration that does not extend a finished model's context.

    Raises:
        ConfigError: There is no model to extend, no theta for it, or the training process is to mask.
    """
    if config.model.base is None:
        raise ConfigError(
            "model.base is not set: a context is extended of a finished model, give a run's folder, a Hugging Face "
            "folder or name, or a .pth of the official code"
        )
    if config.model.base_rope_theta is None:
        raise ConfigError(
            f"model.base_rope_theta is not set: rows of data.seq_len={config.data.seq_len} tokens need a RoPE theta "
            "that fits them, 640000 for 65,536 (recipes/meap_1b.py trains a base further in the context it has)"
        )
    if config.masking.site != "dataset":
        raise ConfigError(
            f"masking.site={config.masking.site} is for pre-training: the loader's workers mask the same positions, "
            "set masking.site=dataset"
        )


def fit(trainer: Trainer) -> None:
    """Train until the maximum duration, which a resumed run may have reached already.

    Raises:
        TrainingError: A step failed; says from which checkpoint the same command continues.
        MeapError: Training ended too early.
    """
    duration = trainer.state.max_duration
    assert duration is not None
    done = trainer.state.timestamp.get(duration.unit)
    if done >= duration:
        unit = {TimeUnit.BATCH: "batches", TimeUnit.TOKEN: "tokens"}.get(duration.unit, duration.unit.value)
        print(f"already trained for {done.value:,} of {duration.value:,} {unit}: nothing to do", flush=True)
        return
    # What start-up has made stays, and need not be looked at again; what training makes is collected as usual.
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    with warnings.catch_warnings():
        # A run that resumes exactly at the end of an epoch finds that epoch empty and goes on to the next: all is well.
        warnings.filterwarnings("ignore", message="No batches were trained for global rank")
        try:
            trainer.fit()
        except StoppedError:  # on every rank
            trainer.close()
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                _saving(trainer).hurry()
            # A checkpoint may be on its way. The Trainer's own `close` would also wait for ranks that have not failed,
            # and those wait for this one.
            trainer.engine.close()
            if failure := _failed_step(trainer, error):
                raise TrainingError(f"{failure}. {_continuation(trainer)}") from error
            raise
    if trainer.state.timestamp < duration:
        raise MeapError(f"training ended at {trainer.state.timestamp.batch} before {duration}: see the log above")


def _failed_step(trainer: Trainer, error: BaseException) -> str:
    """What is known of a step that failed; empty where it was something else."""
    if isinstance(error, TrainingError):
        return str(error)
    rank, step = dist.get_global_rank(), int(trainer.state.timestamp.batch) + 1
    told = next(iter(str(error).strip().splitlines()), "").strip(" .")
    # torch has no classes for these.
    if _has_lost_worker(error, told):
        return (
            f"rank {rank} lost a loader worker at step {step:,} ({told}): if nobody killed it, memory ran out (dmesg "
            "says so); lower data.num_workers or data.predownload"
        )
    if isinstance(error, RuntimeError) and ("Connection closed by peer" in told or "Connection reset by peer" in told):
        return f"rank {rank} lost another rank at step {step:,} ({told}): see what that one says"
    return ""


def _has_lost_worker(error: BaseException, told: str) -> bool:
    """Whether a loader worker has died.

    torch names the process, and its signal where it saw that. Asked for its batch in the moment between the end of its
    connections and its own, torch takes it for alive and lets the error of the connection through.
    """
    if isinstance(error, RuntimeError):
        return told.startswith("DataLoader worker (pid")
    if not isinstance(error, (ConnectionError, EOFError)) or told.startswith("Caught "):  # by a worker that lives
        return False
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == "torch.utils.data.dataloader" for frame in frames)


def _saving(trainer: Trainer) -> CheckpointSaving:
    (saving,) = [each for each in trainer.state.callbacks if isinstance(each, CheckpointSaving)]
    return saving


def _continuation(trainer: Trainer) -> str:
    saving = _saving(trainer)
    try:
        newest = saving.newest
    except CheckpointError:
        return f"The same command continues from the newest checkpoint in {saving.place}, which cannot be asked now"
    if newest is None:
        return f"There is no checkpoint in {saving.place} yet: the same command begins at step 0"
    return f"The same command continues from {saving.place}/ba{newest}, which is from before"


def describe(config: TrainingConfig, machine: Machine, shards: Shards, model: NextTokenModel) -> None:
    """Print what is about to be trained on what, once; the log of the run keeps it."""
    if not machine.is_leader:
        return
    tokens_per_step = config.train.global_batch_size * config.data.seq_len
    start = f"from {config.model.base}" if config.model.base else "from scratch"
    sharding = "" if config.train.sharding == "none" else f", sharded ({config.train.sharding})"
    masking = config.masking
    method = f"MEAP, ratio {masking.ratio:g}" if masking.ratio else "plain next-token prediction (ratio 0)"
    if masking.final_ratio is not None:
        method = f"MEAP, ratio {masking.ratio:g} to {masking.final_ratio:g} ({masking.schedule})"
    text = (
        f"run        {config.run.name}: {method}, masks written by the {config.masking.site}\n"
        f"model      {model.num_parameters:,} parameters {start}, attention {model.config._attn_implementation}\n"
        f"data       {shards.rows:,} rows of {config.data.seq_len:,} tokens from {shards.origin}\n"
        f"batch      {config.train.global_batch_size} rows = {tokens_per_step:,} tokens per step\n"
        f"machine    {machine.world_size} x {machine.device}, {machine.precision}{sharding}\n"
        f"writes     {config.run.dir}"
    )
    text = "\n".join([text, *(f"note       {note}" for note in notes(config))])
    print(text, flush=True)
    append_to_log(Path(config.run.dir), text)

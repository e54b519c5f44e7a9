"""The few places where our rows meet Composer's Trainer: token counting, and the fit itself."""

from __future__ import annotations

import gc
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from composer import DataSpec, Trainer
from composer.core import Evaluator, Event, State
from composer.core.data_spec import default_split_batch
from composer.core.time import TimeUnit
from composer.utils import dist

from meap.config import TrainConfig, TrainingConfig
from meap.data import RowLoader, Shards, describe_epoch
from meap.errors import CheckpointError, MeapError, StoppedError, TrainingError
from meap.manifest import CONVERSATIONS
from meap.places.redaction import clean_arguments
from meap.schema import Batch, SftBatch
from meap.train.attention import describe_attention
from meap.train.callbacks import append_to_log
from meap.train.machine import Machine
from meap.train.model import NextTokenModel
from meap.train.preflight import notes
from meap.train.saving import CheckpointSaving
from meap.train.timetable import Timetable

__all__ = [
    "count_tokens",
    "describe",
    "describe_rows",
    "fit",
    "heldout_evaluator",
    "loader_settings",
    "packed_rows",
]


def loader_settings(config: TrainingConfig, machine: Machine, run_dir: Path) -> dict[str, Any]:
    """What the loaders of a run have in common, those of training and of held-out rows."""
    cache_dir = run_dir / "cache"
    if machine.num_nodes > 1:  # which may share the run's folder, but cannot agree on what is in a cache
        cache_dir /= f"node{machine.rank // machine.ranks_per_node}"
    return {
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


def heldout_evaluator(loader: Any, config: TrainConfig, timetable: Timetable) -> Evaluator:
    """Held-out loss on all rows of the loader, every `eval_interval` and after the last step."""

    def is_due(state: State, event: Event) -> bool:
        step = int(state.timestamp.batch)
        return event == Event.BATCH_END and (step % timetable.eval_interval == 0 or step == timetable.steps)

    return Evaluator(
        label="heldout",
        dataloader=DataSpec(loader, split_batch=_split, get_num_tokens_in_batch=count_tokens),
        metric_names=["loss"],
        subset_num_batches=-1,
        eval_interval=is_due,
        device_eval_microbatch_size=config.microbatch_size,
    )


def _split(batch: Any, num_rows: float) -> Sequence[Any]:
    """Composer's own, without its warning that few rows are one part: a split's last batch may be small."""
    return [batch] if len(batch["sample_id"]) <= num_rows else default_split_batch(batch, num_rows)


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
        if dist.get_global_rank() == 0:
            print(f"already trained for {done.value:,} of {duration.value:,} {unit}: nothing to do", flush=True)
        _say_what_is_next(trainer)
        return
    # What start-up has made stays, and need not be looked at again; what training makes is collected as usual.
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    with warnings.catch_warnings():
        # A run that resumes exactly at the end of an epoch finds that epoch empty and goes on to the next: all is well.
        warnings.filterwarnings("ignore", message="No batches were trained for global rank")
        try:
            try:
                trainer.fit()
            finally:
                _close_loaders(trainer)
        except StoppedError as stopped:  # on every rank
            trainer.close()
            if str(stopped):
                append_to_log(_run_dir(trainer), str(stopped))
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                _saving(trainer).hurry()
            # A checkpoint may be on its way. The Trainer's own `close` would also wait for ranks that have not failed,
            # and those wait for this one.
            trainer.engine.close()
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(_what_is_kept(trainer)) from error
            if failure := _failed_step(trainer, error):
                raise TrainingError(f"{failure}. {_continuation(trainer)}") from error
            raise
    if trainer.state.timestamp < duration:
        raise MeapError(f"training ended at {trainer.state.timestamp.batch} before {duration}: see the log above")
    _say_what_is_next(trainer)


def _say_what_is_next(trainer: Trainer) -> None:
    """Name the newest checkpoint, and the command that exports it."""
    if dist.get_global_rank() != 0:
        return
    saving = _saving(trainer)
    program = Path(sys.argv[0])
    command = [*clean_arguments(["python", str(program.with_name("export_hf.py")), *sys.argv[1:]])]
    # Whoever calls this from a program of his own has no command line to repeat.
    advice = f"; export it: {shlex.join(command)}" if program.parent.name == "recipes" else ""
    line = f"done       {saving.newest_path}{advice}"
    print(line, flush=True)
    append_to_log(_run_dir(trainer), line)


def _run_dir(trainer: Trainer) -> Path:
    return _saving(trainer).run_dir


def _what_is_kept(trainer: Trainer) -> str:
    """Where a run continues that Ctrl-C has ended, which saves nothing; empty on all ranks but the first."""
    if dist.get_global_rank() != 0:
        return ""
    step, saving = int(trainer.state.timestamp.batch), _saving(trainer)
    try:
        newest = saving.newest
    except CheckpointError:
        return ""
    place = (
        f"from {saving.newest_path}" if newest is not None else "from its beginning, since no checkpoint is saved yet"
    )
    return f"run the same command again to continue {place} (at step {step:,} now; SIGTERM saves before it stops)"


def _close_loaders(trainer: Trainer) -> None:
    """End all loader workers; Composer ends those of the training split only."""
    for spec in (trainer.state.train_dataloader, *(each.dataloader.dataloader for each in trainer.state.evaluators)):
        if isinstance(spec, RowLoader):
            spec.close()


def _failed_step(trainer: Trainer, error: BaseException) -> str:
    """What is known of a step that failed; empty where it was something else."""
    if isinstance(error, TrainingError):
        return str(error)
    rank, step = dist.get_global_rank(), int(trainer.state.timestamp.batch) + 1
    told = next(iter(str(error).strip().splitlines()), "").strip(" .")
    if isinstance(error, torch.OutOfMemoryError):  # a training step's is a TrainingError by now
        return (
            f"rank {rank} has too little memory for the held-out loss after step {step - 1:,} ({told}): lower "
            "train.microbatch_size, or set train.eval_batches=0"
        )
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


def describe(
    config: TrainingConfig,
    machine: Machine,
    shards: Shards,
    model: NextTokenModel,
    *,
    timetable: Timetable,
    heldout: Shards | None,
) -> None:
    """Print what is about to be trained on what, once; the log of the run keeps it."""
    if not machine.is_leader:
        return
    tokens_per_step = config.train.global_batch_size * config.data.seq_len
    start = f"from {config.model.base}" if config.model.base else "from scratch"
    sharding = "" if config.train.sharding == "none" else f", sharded ({config.train.sharding})"
    attention = describe_attention(
        str(model.config._attn_implementation),
        on_gpu=machine.on_gpu,
        bf16=machine.precision == "amp_bf16",
        has_segments=shards.streams[0].manifest.kind == CONVERSATIONS,
    )
    masking = config.masking
    method = f"MEAP, ratio {masking.ratio:g}" if masking.ratio else "plain next-token prediction (ratio 0)"
    if masking.final_ratio is not None:
        method = f"MEAP, ratio {masking.ratio:g} to {masking.final_ratio:g} ({masking.schedule})"
    lines = [
        f"run        {config.run.name}: {method}, masks written by the {config.masking.site}",
        f"model      {model.num_parameters:,} parameters {start}",
        f"attention  {attention}",
        *describe_rows(config, shards, timetable=timetable, heldout=heldout),
        f"batch      {config.train.global_batch_size} rows = {tokens_per_step:,} tokens per step",
        f"machine    {machine.world_size} x {machine.device}, {machine.precision}{sharding}",
        f"writes     {config.run.dir}",
        *(f"note       {note}" for note in notes(config, timetable, heldout=heldout)),
    ]
    print("\n".join(lines), flush=True)
    append_to_log(Path(config.run.dir), "\n".join(lines))


def describe_rows(config: TrainingConfig, shards: Shards, *, timetable: Timetable, heldout: Shards | None) -> list[str]:
    """What is read, of what an epoch consists, how long the run is, and what is measured: a line each."""
    batch, rows = config.train.global_batch_size, shards.rows
    there = "" if heldout is None else f"; held out: {heldout.rows:,} rows"
    tokens, epochs = timetable.steps * batch * config.data.seq_len, timetable.steps / timetable.steps_per_epoch
    lines = [
        f"data       {rows:,} rows of {config.data.seq_len:,} tokens from {shards.origin}{there}",
        f"epoch      {describe_epoch(config.data, shards, batch)}",
        f"length     {timetable.steps:,} steps, {tokens:,} tokens, {epochs:.2f} epochs",
    ]
    if heldout is not None:
        measured = min(heldout.rows, config.train.eval_batches * batch)
        which = "all" if measured == heldout.rows else f"{measured:,} of {heldout.rows:,}"
        often = f"every {timetable.eval_interval:,} steps and " if timetable.eval_interval < timetable.steps else ""
        lines.append(f"measures   held-out loss on {which} rows {often}at the end")
    return lines

"""The fit itself: until the run is long enough, or something ends it, with what to do next."""

from __future__ import annotations

import gc
import shlex
import sys
import traceback
import warnings
from pathlib import Path

import torch
from composer import Trainer
from composer.core.time import TimeUnit
from composer.utils import dist

from meap.data import RowLoader
from meap.errors import CheckpointError, LostRankError, MeapError, StoppedError, TrainingError
from meap.places.redaction import clean_arguments
from meap.processes import LOST_RANK, WAITED_FOR_RANK, raise_request_of_ranks
from meap.train.checkpoints.saving import CheckpointSaving
from meap.train.roll_call import roll_call
from meap.train.run_folder import append_to_log

__all__ = ["fit"]


def fit(trainer: Trainer) -> None:
    """Train until the maximum duration, which a resumed run may have reached already.

    Raises:
        TrainingError: A step failed; says which checkpoint the same command resumes from.
        MeapError: Training ended too early.
    """
    duration = trainer.state.max_duration
    assert duration is not None
    done = trainer.state.timestamp.get(duration.unit)
    if done >= duration:
        unit = {TimeUnit.BATCH: "batches", TimeUnit.TOKEN: "tokens"}.get(duration.unit, duration.unit.value)
        if dist.get_global_rank() == 0:
            print(f"already trained for {done.value:,} of {duration.value:,} {unit}: nothing to do", flush=True)
        _print_next_step(trainer)
        return
    # What start-up has made stays, and need not be looked at again; what training makes is collected as usual.
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    with warnings.catch_warnings():
        # A run that resumes at the end of an epoch finds that epoch empty, and goes on to the next as it should.
        warnings.filterwarnings("ignore", message="No batches were trained for global rank")
        try:
            try:
                trainer.fit()
            except Exception as error:
                raise_request_of_ranks(error)
                raise
            finally:
                _close_loaders(trainer)
        except StoppedError as stopped:  # on every rank
            trainer.close()
            if str(stopped):
                append_to_log(_run_dir(trainer), str(stopped))
            raise
        except BaseException as error:
            if not isinstance(error, Exception):  # a request to end now
                _saving(trainer).hurry()
            # A checkpoint may be on its way. The Trainer's own `close` would also wait for ranks that have not failed,
            # and those wait for this one.
            trainer.engine.close()
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(_after_interruption(trainer)) from error
            if isinstance(error, LostRankError):
                step = int(trainer.state.timestamp.batch)
                raise TrainingError(f"{error} (after step {step:,}). {_where_to_resume(trainer)}") from error
            if failure := _failed_step(trainer, error):
                raise TrainingError(f"{failure}. {_where_to_resume(trainer)}") from error
            raise
    if trainer.state.timestamp < duration:
        raise MeapError(f"training ended at {trainer.state.timestamp.batch} before {duration}: see the log above")
    _print_next_step(trainer)


def _print_next_step(trainer: Trainer) -> None:
    """Name the newest checkpoint, and the command that exports it."""
    if dist.get_global_rank() != 0:
        return
    saving = _saving(trainer)
    program = Path(sys.argv[0])
    command = [*clean_arguments(["python", str(program.with_name("export_hf.py")), *sys.argv[1:]])]
    # In a program of somebody's own there is no command line to repeat.
    advice = f"; export it: {shlex.join(command)}" if program.parent.name == "recipes" else ""
    line = f"done       {saving.newest_path}{advice}"
    print(line, flush=True)
    append_to_log(_run_dir(trainer), line)


def _run_dir(trainer: Trainer) -> Path:
    return _saving(trainer).run_dir


def _after_interruption(trainer: Trainer) -> str:
    """Where a run resumes after Ctrl-C, which saves nothing; empty on all ranks but the first."""
    if dist.get_global_rank() != 0:
        return ""
    step, saving = int(trainer.state.timestamp.batch), _saving(trainer)
    try:
        newest = saving.newest
    except CheckpointError:
        return ""
    place = f"from {saving.newest_path}" if newest is not None else "from step 0, since no checkpoint is saved yet"
    return f"run the same command again to resume {place} (at step {step:,} now; SIGTERM saves before it stops)"


def _close_loaders(trainer: Trainer) -> None:
    """End all loader workers; Composer ends those of the training split only."""
    for spec in (trainer.state.train_dataloader, *(each.dataloader.dataloader for each in trainer.state.evaluators)):
        if isinstance(spec, RowLoader):
            spec.close()


def _failed_step(trainer: Trainer, error: BaseException) -> str:
    """Why a step failed, with the remedy; empty where that is not known."""
    if isinstance(error, TrainingError):
        return str(error)
    rank, step = dist.get_global_rank(), int(trainer.state.timestamp.batch) + 1
    told = next(iter(str(error).strip().splitlines()), "").strip(" .")
    if isinstance(error, torch.OutOfMemoryError):  # a training step's is a TrainingError by now
        return (
            f"rank {rank} has too little memory for the held-out loss after step {step - 1:,} ({told}): lower "
            "train.microbatch_size, or set train.eval_batches=0"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return (
            f"rank {rank} could not compile the layers at step {step:,} ({told}): look at the compiler, and at the "
            "disk of TORCHINDUCTOR_CACHE_DIR (unset, that of TMPDIR), or set train.compile=false"
        )
    # torch has no classes for these.
    if _has_lost_worker(error, told):
        if not isinstance(error, RuntimeError):
            told = f"its connection ended first: {told or type(error).__name__}"
        return (
            f"rank {rank} lost a loader worker at step {step:,} ({told}): if nobody killed it, memory ran out (dmesg "
            "says so); lower data.num_workers or data.predownload"
        )
    if isinstance(error, RuntimeError) and any(each in told for each in (*LOST_RANK, *WAITED_FOR_RANK)):
        return _told_of_lost_rank(rank, step, told)
    return ""


def _told_of_lost_rank(rank: int, step: int, told: str) -> str:
    missing = roll_call()
    who = f"{missing}; " if missing else ""
    if any(each in told for each in LOST_RANK):
        remedy = "the reason is among the messages of that rank"
        return f"rank {rank} lost another rank at step {step:,} ({who}{told}): {remedy}"
    return (
        f"rank {rank} waited in vain for another rank at step {step:,} ({who}{told}): if that rank was not stopped "
        "by somebody, look at its machine; train.dist_timeout says how long ranks wait for each other"
    )


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


def _where_to_resume(trainer: Trainer) -> str:
    saving = _saving(trainer)
    try:
        newest = saving.newest
    except CheckpointError:
        return f"The same command resumes from the newest checkpoint in {saving.place}, which cannot be reached now"
    if newest is None:
        return f"There is no checkpoint in {saving.place} yet: the same command begins at step 0"
    return f"The same command resumes from {saving.place}/ba{newest}, the last checkpoint before the failure"

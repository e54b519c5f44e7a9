"""Composer's Trainer, put together from a configuration the same way for every recipe."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from composer.algorithms import GradientClipping
from composer.core import Algorithm, Callback
from composer.utils.parallelism import FSDP2Config

from meap.checkpoints import CheckpointStore
from meap.config import RecipeConfig
from meap.places.addresses import is_url
from meap.train.callbacks import StepSeeds
from meap.train.checkpoints.model_record import record_model
from meap.train.checkpoints.resuming import ResumePoint, find_resume_point
from meap.train.checkpoints.saving import CheckpointSaving
from meap.train.checkpoints.trust import named_checkpoint_errors
from meap.train.data import RunData, heldout_evaluator, packed_rows
from meap.train.header import describe_plan
from meap.train.loggers import build_loggers
from meap.train.model import NextTokenModel
from meap.train.optim import build_optimizer, build_schedule
from meap.train.pinned.step import LeanTrainer
from meap.train.preflight import check_storage
from meap.train.provenance import RunStart
from meap.train.ranks import Ranks
from meap.train.run import Run
from meap.train.speed import speed_up
from meap.train.usage import usage_of

__all__ = ["PlannedTrainer", "build_trainer"]


class PlannedTrainer:
    """Stands for the Trainer in a dry run: instead of training, it says what that would take.

    Args:
        plan: Lines to print.
    """

    def __init__(self, plan: Sequence[str]) -> None:
        self._plan = plan

    def fit(self) -> None:
        """Print the plan."""
        print("\n".join(self._plan), flush=True)


def build_trainer(
    config: RecipeConfig,
    run: Run,
    data: RunData,
    model: NextTokenModel,
    *,
    algorithms: Sequence[Algorithm],
    callbacks: Sequence[Callback],
) -> LeanTrainer | PlannedTrainer:
    """A Trainer that resumes the run from its newest checkpoint, if there is one.

    Beside the callbacks given, it has those that make it a run: the learning rate's schedule, checkpoints, progress and
    loggers.

    Args:
        config: The whole configuration.
        run: The run; for one that only plans, nothing is built.
        data: What it reads.
        model: The model at step 0; with sharding its weights are needed on rank 0 only.
        algorithms: The method, where the training process applies it.
        callbacks: What is measured, in this order: those that wait for the device before those that take the time.

    Raises:
        ConfigError: There is too little room for checkpoints, or something asked for cannot work here.
        CheckpointError: Checkpoints cannot be written, or none of those there are can be resumed from.
    """
    if run.plans_for is not None:
        return _plan(config, run.plans_for, run, data, model)
    machine, timetable, train = run.machine, data.timetable, config.train
    check_storage(config, machine, timetable, num_parameters=model.num_trained)
    start = find_resume_point(config, run.dir)
    saving = _saving(config, run, data, model, start)
    if train.activation_checkpointing:
        model.model.activation_checkpointing_enable({"use_reentrant": False})
    speed_up(config, model, on_gpu=machine.on_gpu, has_segments=data.has_segments)
    heldout, clip_norm = data.heldout_loader, config.optimizer.grad_clip_norm
    with named_checkpoint_errors(config.checkpoint.folder), warnings.catch_warnings():
        # It has no state: masks are a function of seed, epoch and row.
        warnings.filterwarnings("ignore", message="InputMasking is not in the state_dict")
        return LeanTrainer(
            loss_interval=timetable.log_interval,
            model=model,
            train_dataloader=packed_rows(data.loader),
            eval_dataloader=[heldout_evaluator(heldout, train, timetable)] if heldout is not None else [],
            max_duration=f"{timetable.steps}ba",
            optimizers=build_optimizer(config.optimizer, model, fused=machine.on_gpu),
            algorithms=[*([GradientClipping("norm", clip_norm)] if clip_norm else []), *algorithms],
            callbacks=[
                build_schedule(config.scheduler, timetable),
                *([StepSeeds(config.run.seed)] if config.lora.dropout else []),
                *callbacks,
                saving,
                RunStart(config, machine, data, model),
            ],
            loggers=build_loggers(config, run.dir, is_leader=machine.is_leader, interval=timetable.log_interval),
            parallelism_config=_sharding(config, model, kind=_kind(config, start)),
            device=machine.device,
            precision=machine.precision,
            device_train_microbatch_size=min(train.microbatch_size, train.global_batch_size // machine.world_size),
            seed=config.run.seed,
            progress_bar=False,
            run_name=config.run.name,
            load_path=str(start.path) if start else None,
            load_progress_bar=False,
        )


def _plan(config: RecipeConfig, ranks: Ranks, run: Run, data: RunData, model: NextTokenModel) -> PlannedTrainer:
    if is_url(config.checkpoint.folder) and run.machine.is_leader:
        CheckpointStore(config.checkpoint.folder).require_writable()
    return PlannedTrainer(describe_plan(config, ranks, data, model, refusal=run.refusal))


def _saving(
    config: RecipeConfig, run: Run, data: RunData, model: NextTokenModel, start: ResumePoint | None
) -> CheckpointSaving:
    tokenizer = data.tokenizer.with_direction() if model.has_direction else data.tokenizer
    before, is_branch = (start.record.model, start.is_branch) if start else (None, False)
    recorded, shared = record_model(model, tokenizer, usage_of(data, model), before=before, is_branch=is_branch)
    return CheckpointSaving(
        config,
        run_dir=run.dir,
        data=data.shards.identity,
        interval=data.timetable.checkpoint_interval,
        model=recorded,
        shared=shared,
    )


def _kind(config: RecipeConfig, start: ResumePoint | None) -> str:
    """Of the checkpoint to load, which may be another than that of those to save."""
    return start.record.kind if start else config.checkpoint.state_dict


def _sharding(config: RecipeConfig, model: NextTokenModel, *, kind: str) -> dict[str, Any] | None:
    """FSDP 2 over all ranks, a group per decoder layer; torch's own successor of what DeepSpeed calls ZeRO-2 and 3.

    Not FSDP 1: it flattens parameters of different kinds into one, which hides their names and shapes. `kind` is that
    of the checkpoint to load; either kind loads at any world size.
    """
    mode = config.train.sharding_mode
    if not mode.spreads_weights:
        return None
    layers = set(model.layers)
    # Composer asks the child of the ComposerModel which of its modules form a group.
    model.model.fsdp_wrap_fn = lambda module: module in layers  # type: ignore[assignment]
    return {
        "fsdp": FSDP2Config(
            # Kept gathered between forward and backward pass, weights are sharded outside of steps only: SHARD_GRAD_OP.
            reshard_after_forward=not mode.gathers_in_step,
            state_dict_type=kind,
            load_monolith_rank0_only=kind == "full",
        )
    }

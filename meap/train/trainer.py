"""Composer's Trainer, put together from a configuration the same way for every recipe."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer.algorithms import GradientClipping
from composer.callbacks import LRMonitor
from composer.core import Algorithm, Evaluator
from composer.utils.parallelism import FSDP2Config

from meap.config import TrainConfig, TrainingConfig
from meap.data import Shards
from meap.tokenizer import Tokenizer
from meap.train.callbacks import MaskingMonitor, Throughput, build_progress
from meap.train.compilation import choose_compilation, compile_model
from meap.train.fitting import packed_rows
from meap.train.flops import training_flops_per_token
from meap.train.kernels import choose_kernels, use_liger_kernels
from meap.train.loggers import build_loggers
from meap.train.machine import Machine
from meap.train.model import NextTokenModel
from meap.train.model_record import record_model
from meap.train.optim import LearningRateSchedule, build_optimizer
from meap.train.pinned.step import LeanTrainer
from meap.train.resuming import find_resume_point
from meap.train.saving import CheckpointSaving
from meap.train.timetable import Timetable

__all__ = ["build_trainer", "speed_up"]


def build_trainer(
    config: TrainingConfig,
    machine: Machine,
    model: NextTokenModel,
    train_loader: Any,
    *,
    shards: Shards,
    timetable: Timetable,
    evaluators: Sequence[Evaluator],
    algorithms: Sequence[Algorithm],
    tokenizer: Tokenizer,
    run_dir: Path,
    has_segments: bool = False,
) -> LeanTrainer:
    """A Trainer that continues the run from its newest checkpoint, if there is one.

    Args:
        config: The whole configuration.
        machine: Device, precision and ranks.
        model: The model at step 0; with sharding its weights are needed on rank 0 only.
        train_loader: This rank's share of each batch.
        shards: What it reads.
        timetable: When things happen, in steps.
        evaluators: What is measured during training.
        algorithms: The method, where the training process applies it.
        tokenizer: What made the rows; it is kept with the checkpoints.
        run_dir: The run's folder.
        has_segments: Whether rows are those of fine-tuning, with segments of other lengths in every batch.
    """
    train = config.train
    interval = timetable.log_interval
    clip_norm = config.optimizer.grad_clip_norm
    start = find_resume_point(config, run_dir)
    kind = start.record.kind if start else config.checkpoint.state_dict
    recorded, shared = record_model(model, tokenizer, before=start.record.model if start else None)
    if train.activation_checkpointing:
        model.model.activation_checkpointing_enable({"use_reentrant": False})
    speed_up(config, machine, model, has_segments=has_segments)
    with warnings.catch_warnings():
        # It has no state: masks go by seed, epoch and row, whoever has written those before.
        warnings.filterwarnings("ignore", message="InputMasking is not in the state_dict")
        return LeanTrainer(
            loss_interval=interval,
            model=model,
            train_dataloader=packed_rows(train_loader),
            eval_dataloader=list(evaluators),
            max_duration=f"{timetable.steps}ba",
            optimizers=build_optimizer(config.optimizer, model, fused=machine.on_gpu),
            algorithms=[*([GradientClipping("norm", clip_norm)] if clip_norm else []), *algorithms],
            callbacks=[
                LearningRateSchedule(
                    warmup=timetable.warmup, total=timetable.steps, final_ratio=config.scheduler.final_ratio
                ),
                MaskingMonitor(mask_id=tokenizer.mask_id, interval=interval),
                LRMonitor(),
                _throughput(config, machine, model, timetable),
                CheckpointSaving(
                    config,
                    run_dir=run_dir,
                    data=shards.identity,
                    interval=timetable.checkpoint_interval,
                    model=recorded,
                    shared=shared,
                ),
            ],
            loggers=[
                *build_progress(run_dir, is_leader=machine.is_leader, interval=interval),
                *build_loggers(config, run_dir, interval=interval),
            ],
            parallelism_config=_sharding(train, model, kind=kind),
            device=machine.device,
            precision=machine.precision,
            device_train_microbatch_size=min(train.microbatch_size, train.global_batch_size // machine.world_size),
            seed=config.run.seed,
            progress_bar=False,
            run_name=config.run.name,
            load_path=str(start.path) if start else None,
            load_progress_bar=False,
        )


def speed_up(config: TrainingConfig, machine: Machine, model: NextTokenModel, *, has_segments: bool) -> None:
    """Compile the model, or give it kernels, as the configuration and the machine have it; weights stay as they are."""
    compiled = choose_compilation(config.train.compile, on_gpu=machine.on_gpu, has_segments=has_segments)
    kernels = choose_kernels(config.model.kernels, on_gpu=machine.on_gpu, compiled=compiled)
    model.loss_chunks = config.train.loss_chunks
    if kernels == "liger":
        use_liger_kernels(model)
    if compiled:
        compile_model(model)


def _throughput(config: TrainingConfig, machine: Machine, model: NextTokenModel, timetable: Timetable) -> Throughput:
    """Last of the callbacks that log at a batch's end: by then the device has done what the interval held."""
    return Throughput(
        interval=timetable.log_interval,
        timetable=timetable,
        tokens_per_batch=config.train.global_batch_size * config.data.seq_len,
        flops_per_token=training_flops_per_token(model.config, context=config.data.seq_len, causal=False),
        peak_flops=machine.peak_flops,
        world_size=machine.world_size,
    )


def _sharding(config: TrainConfig, model: NextTokenModel, *, kind: str) -> dict[str, Any] | None:
    """FSDP 2 over all ranks, a group per decoder layer; torch's own successor of what DeepSpeed calls ZeRO-2 and 3.

    Not FSDP 1: it flattens parameters of different kinds into one, which hides their names and shapes. `kind` is that
    of the checkpoint to load; either kind loads at any world size.
    """
    if config.sharding == "none":
        return None
    layers = set(model.model.model.layers)
    # Composer asks the child of the ComposerModel which of its modules form a group.
    model.model.fsdp_wrap_fn = lambda module: module in layers  # type: ignore[assignment]
    return {
        "fsdp": FSDP2Config(
            # Kept gathered between forward and backward pass, weights are sharded outside of steps only (ZeRO-2).
            reshard_after_forward=config.sharding == "full",
            state_dict_type=kind,
            load_monolith_rank0_only=kind == "full",
        )
    }

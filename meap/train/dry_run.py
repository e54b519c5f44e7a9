"""``--dry-run``: open and build what a run would, say what it will take, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meap.checkpoints import CheckpointStore
from meap.config import TrainingConfig
from meap.data import (
    Shards,
    build_heldout_loader,
    build_loader,
    build_mask_rule,
    build_sft_loader,
    longest_segment,
    open_heldout,
    open_shards,
    open_tokenizer,
    plan_epoch,
    shared_memory_bytes,
)
from meap.manifest import CONVERSATIONS, ROWS
from meap.places.addresses import is_url, use_one_s3_endpoint
from meap.schema import TRAIN_SPLIT
from meap.show.numbers import size
from meap.train.attention import choose_attention
from meap.train.fitting import describe_rows, loader_settings
from meap.train.flops import peak_flops_per_second, training_flops_per_token
from meap.train.machine import Machine, join_machine
from meap.train.model import NextTokenModel
from meap.train.plan import (
    checkpoint_bytes,
    device_memory,
    num_checkpoints,
    training_days,
)
from meap.train.preflight import check_settings, notes
from meap.train.resuming import model_to_continue
from meap.train.start import start_model
from meap.train.timetable import Timetable

__all__ = ["rehearse"]

_EXAMPLE_DEVICES, _EXAMPLE_DEVICE, _EXAMPLE_MFU = 8, "H100", 0.4


def rehearse(config: TrainingConfig, *, kind: str = ROWS) -> None:
    """Check a run and print its plan.

    Samples are never iterated: streaming's data sets cannot be opened by workers afterwards.

    Args:
        config: The whole configuration.
        kind: What the shards must hold, `meap.manifest.ROWS` or `CONVERSATIONS`.

    Raises:
        MeapError: Whatever would keep the run from starting.
    """
    use_one_s3_endpoint()
    machine = join_machine(config.train)
    planned = machine if machine.world_size > 1 else _example_machine(config, machine)
    check_settings(config, planned)
    if is_url(config.checkpoint.folder) and machine.is_leader:
        CheckpointStore(config.checkpoint.folder).require_writable()
    shards = open_shards(config.data, TRAIN_SPLIT, kind=kind)
    heldout = open_heldout(config.data, kind=kind) if config.train.eval_batches else None
    timetable = Timetable.of(config, shards)
    tokenizer = open_tokenizer(config.tokenizer, shards)
    with tempfile.TemporaryDirectory(prefix="meap-dry-run-") as cache:
        _open_loaders(config, machine, shards, heldout, Path(cache))
    with torch.device("meta"):
        model = start_model(
            config.model,
            tokenizer,
            attention=choose_attention(
                config.model.attention, on_gpu=machine.on_gpu, bf16=machine.precision == "amp_bf16"
            ),
            context=longest_segment(shards, config.sft, ratio=config.masking.ratio)
            if kind == CONVERSATIONS
            else config.data.seq_len,
            seed=config.run.seed,
            weights="none",
            continues=model_to_continue(config, shards),
        )
    if machine.is_leader:
        print("\n".join(_plan(config, planned, shards, heldout, timetable, model)), flush=True)


def _open_loaders(
    config: TrainingConfig, machine: Machine, shards: Shards, heldout: Shards | None, cache: Path
) -> None:
    """As the run will, each with a cache of its own."""
    is_sft = shards.streams[0].manifest.kind == CONVERSATIONS
    build: Any = partial(build_sft_loader, sft=config.sft) if is_sft else build_loader
    settings = loader_settings(config, machine, cache)
    rule = build_mask_rule(config.masking, shards.tokenizer, seed=config.run.seed)
    settings["cache_dir"] = cache / shards.split
    build(config.data, shards, rule=rule, seed=config.run.seed, shuffle=True, **settings)
    if heldout is not None:
        settings["cache_dir"] = cache / heldout.split
        build_heldout_loader(config.data, heldout, num_batches=config.train.eval_batches, sft=config.sft, **settings)


def _example_machine(config: TrainingConfig, machine: Machine) -> Machine:
    """What one process alone stands for: a node with as many GPUs as the batch allows, up to eight."""
    rows = config.train.global_batch_size
    devices = next(number for number in range(_EXAMPLE_DEVICES, 0, -1) if rows % number == 0)
    return dataclasses.replace(machine, world_size=devices, ranks_per_node=devices)


def _plan(
    config: TrainingConfig,
    machine: Machine,
    shards: Shards,
    heldout: Shards | None,
    timetable: Timetable,
    model: NextTokenModel,
) -> list[str]:
    num_devices, num_parameters = machine.world_size, model.num_parameters
    vocabulary = {id(layer.weight): layer.weight.numel() for layer in _vocabulary_layers(model)}
    rows = config.train.global_batch_size
    tokens = timetable.steps * rows * config.data.seq_len
    memory = device_memory(config, model.config, num_parameters=num_parameters, num_devices=num_devices)
    of_checkpoint, kept = checkpoint_bytes(num_parameters), num_checkpoints(timetable, keep=config.checkpoint.keep)
    flops = training_flops_per_token(model.config, context=config.data.seq_len, causal=False)
    peak = peak_flops_per_second(_EXAMPLE_DEVICE)
    assert peak is not None
    days = training_days(
        model.config,
        context=config.data.seq_len,
        tokens=tokens,
        peak_flops=peak * _EXAMPLE_DEVICES,
        utilisation=_EXAMPLE_MFU,
    )
    sharding = f"bf16, sharding {config.train.sharding}"
    if config.train.activation_checkpointing:
        sharding += ", activations recomputed"
    parts = ", ".join(f"{name} {size(held)}" for name, held in dataclasses.asdict(memory).items())
    place = config.checkpoint.folder + _free(config.checkpoint.folder, needed=kept * of_checkpoint)
    epoch_rows = plan_epoch(config.data, shards, rows).rows
    shared = shared_memory_bytes(config.data, shards, batch_rows=rows, epoch_rows=epoch_rows)
    if heldout is not None:
        shared += shared_memory_bytes(config.data, heldout, batch_rows=rows)
    return [
        f"dry run    {config.run.name}: nothing is trained, nothing is written",
        f"model      {num_parameters:,} parameters, {num_parameters - sum(vocabulary.values()):,} without embeddings",
        *describe_rows(config, shards, timetable=timetable, heldout=heldout),
        f"memory     about {size(memory.total)} per GPU, if there are {num_devices} ({sharding}): {parts}",
        f"           shared memory for the loader: {size(shared)} per node",
        f"disk       {kept} checkpoints at once of {size(of_checkpoint)} = {size(kept * of_checkpoint)} in {place}",
        f"compute    {flops * tokens:.3g} FLOPs, {flops / 1e9:.3f} GFLOP per token (PaLM's convention)",
        f"time       an estimate: {days:.2g} days on {_EXAMPLE_DEVICES} {_EXAMPLE_DEVICE} at {_EXAMPLE_MFU:.0%} MFU",
        *(f"note       {note}" for note in notes(config, timetable, heldout=heldout)),
    ]


def _vocabulary_layers(model: NextTokenModel) -> list[Any]:
    """The embedding and the head, which may share their weights."""
    return [model.model.get_input_embeddings(), model.model.get_output_embeddings()]


def _free(folder: str, *, needed: int) -> str:
    if is_url(folder):
        return ""
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return f", {size(free)} free" + (": TOO LITTLE" if free < needed else "")

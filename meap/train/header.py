"""What a run says of itself before its first step; and what a dry run says instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from meap.config import RecipeConfig
from meap.data import describe_epoch, plan_epoch, shared_memory_bytes
from meap.places.addresses import is_url
from meap.show.numbers import clock, size
from meap.train.attention import describe_attention
from meap.train.data import RunData
from meap.train.flops import peak_flops_per_second, training_flops_per_token
from meap.train.machine import Machine
from meap.train.model import NextTokenModel
from meap.train.plan import checkpoint_bytes, device_memory, num_checkpoints, training_days
from meap.train.preflight import notes
from meap.train.ranks import Ranks
from meap.train.run import EXAMPLE_DEVICES

__all__ = ["describe_plan", "describe_run"]

_EXAMPLE_DEVICE, _EXAMPLE_MFU = "H100", 0.4
_SHORTEST_IN_DAYS = 0.1


def describe_run(config: RecipeConfig, machine: Machine, data: RunData, model: NextTokenModel) -> list[str]:
    """What is about to be trained, on what and where: the header of a run."""
    tokens_per_step = config.train.global_batch_size * config.data.seq_len
    base = config.train.branch_from or config.model.base
    start = f"from {base}" if base else "from scratch"
    start += f", a {model.config.model_type} as in {config.model.config}" if config.model.config else ""
    sharding = f", sharded ({config.train.sharding})" if config.train.sharding_mode.spreads_weights else ""
    attention = describe_attention(
        str(model.config._attn_implementation),
        on_gpu=machine.on_gpu,
        bf16=machine.bf16,
        has_segments=data.has_segments,
    )
    return [
        f"run        {config.run.name}: {_method(config)}, masks written by the {config.masking.site}",
        f"model      {model.num_parameters:,} parameters {start}{_adapters(config, model)}",
        f"attention  {attention}",
        *_rows(config, data),
        f"batch      {config.train.global_batch_size} rows = {tokens_per_step:,} tokens per step",
        f"machine    {machine.world_size} x {machine.device}, {machine.precision}{sharding}",
        f"writes     {config.run.dir}",
        *_notes(config, data),
    ]


def describe_plan(
    config: RecipeConfig, ranks: Ranks, data: RunData, model: NextTokenModel, *, refusal: str | None = None
) -> list[str]:
    """What a run on these ranks will take: memory, disk, arithmetic and time.

    Args:
        config: The whole configuration.
        ranks: Those to plan for.
        data: What is read.
        model: What is trained.
        refusal: Why a start with the ranks there are would be refused.
    """
    num_parameters = model.num_parameters
    vocabulary = {id(layer.weight): layer.weight.numel() for layer in _vocabulary_layers(model)}
    body = num_parameters - sum(vocabulary.values())
    return [
        f"dry run    {config.run.name}: nothing is trained, nothing is written",
        f"model      {num_parameters:,} parameters, {body:,} without embeddings{_adapters(config, model)}",
        *_rows(config, data),
        *_memory(config, ranks, data, model),
        f"disk       {_disk(config, data, model.num_trained)}",
        *_arithmetic(config, data, model),
        *_notes(config, data),
        *([f"note       this start, with 1 rank, would be refused without --dry-run: {refusal}"] if refusal else []),
    ]


def _adapters(config: RecipeConfig, model: NextTokenModel) -> str:
    if not config.lora.rank:
        return ""
    return f", frozen; {model.num_trained:,} of adapters (rank {config.lora.rank}) are trained"


def _method(config: RecipeConfig) -> str:
    masking = config.masking
    reversed_rows = f", {masking.reversed_ratio:g} of the rows read right to left" if masking.reversed_ratio else ""
    if masking.final_ratio is not None:
        ratio = f"MEAP, ratio {masking.ratio:g} to {masking.final_ratio:g} ({masking.schedule})"
    else:
        ratio = f"MEAP, ratio {masking.ratio:g}" if masking.ratio else "plain next-token prediction (ratio 0)"
    replacement = f", replacement {masking.replacement}" if masking.shares.mask < 1 else ""
    later = "".join(
        f"; from epoch {first} on "
        + ", ".join(f"{name} {value}" for name, value in vars(change).items() if value is not None)
        for first, change in masking.from_epoch.items()
    )
    return f"{ratio}{replacement}{reversed_rows}{later}"


def _rows(config: RecipeConfig, data: RunData) -> list[str]:
    """What is read, what an epoch consists of, how long the run is, and what is measured: a line each."""
    batch, shards, heldout, timetable = config.train.global_batch_size, data.shards, data.heldout, data.timetable
    held_out = f"; held out: {heldout.rows:,} rows" if heldout is not None else ""
    tokens, epochs = _tokens(config, timetable.steps), timetable.steps / timetable.steps_per_epoch
    trunk = f"; those up to {timetable.branch_step:,} are of the run it branches from" if timetable.branch_step else ""
    lines = [
        f"data       {shards.rows:,} rows of {config.data.seq_len:,} tokens from {shards.origin}{held_out}",
        f"epoch      {describe_epoch(config.data, shards, batch)}",
        f"length     {timetable.steps:,} steps, {tokens:,} tokens, {epochs:.2f} epochs{trunk}",
    ]
    if heldout is not None:
        measured = min(heldout.rows, config.train.eval_batches * batch)
        which = "all" if measured == heldout.rows else f"{measured:,} of {heldout.rows:,}"
        often = f"every {timetable.eval_interval:,} steps and " if timetable.eval_interval < timetable.steps else ""
        answers = f"; answers to {config.train.samples} prompts" if config.train.samples else ""
        lines.append(f"measures   held-out loss on {which} rows {often}at the end{answers}")
    return lines


def _memory(config: RecipeConfig, ranks: Ranks, data: RunData, model: NextTokenModel) -> list[str]:
    memory = device_memory(
        config,
        model.config,
        num_parameters=model.num_parameters,
        num_devices=ranks.world_size,
        num_trained=model.num_trained,
    )
    how = f"bf16, sharding {config.train.sharding}"
    if config.train.activation_checkpointing:
        how += ", activations recomputed"
    parts = ", ".join(f"{name} {size(held)}" for name, held in memory.parts.items())
    rows = config.train.global_batch_size
    of_node = {"batch_rows": rows // ranks.num_nodes}
    epoch_rows = plan_epoch(config.data, data.shards, rows).rows
    shared = shared_memory_bytes(config.data, data.shards, **of_node, epoch_rows=epoch_rows)
    if data.heldout is not None:
        shared += shared_memory_bytes(config.data, data.heldout, **of_node)
    return [
        f"memory     about {size(memory.total)} per GPU, if there are {ranks.world_size} ({how}): {parts}",
        f"           shared memory for the loader: {size(shared)} per node",
    ]


def _disk(config: RecipeConfig, data: RunData, num_parameters: int) -> str:
    folder, of_checkpoint = config.checkpoint.folder, checkpoint_bytes(num_parameters)
    kept = num_checkpoints(data.timetable, keep=config.checkpoint.keep)
    text = f"{kept} checkpoints at once of {size(of_checkpoint)} = {size(kept * of_checkpoint)} in {folder}"
    if is_url(folder):
        return text
    place = Path(folder).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return f"{text}, {size(free)} free" + (": TOO LITTLE" if free < kept * of_checkpoint else "")


def _arithmetic(config: RecipeConfig, data: RunData, model: NextTokenModel) -> list[str]:
    context = config.data.seq_len
    tokens = _tokens(config, data.timetable.steps - data.timetable.branch_step)
    frozen = bool(config.lora.rank)
    flops = training_flops_per_token(model.config, context=context, causal=False, frozen=frozen)
    peak = peak_flops_per_second(_EXAMPLE_DEVICE)
    assert peak is not None
    days = training_days(
        model.config,
        context=context,
        tokens=tokens,
        peak_flops=peak * EXAMPLE_DEVICES,
        utilisation=_EXAMPLE_MFU,
        frozen=frozen,
    )
    time = f"{days:.2g} days" if days >= _SHORTEST_IN_DAYS else clock(days * 24 * 3600)
    return [
        f"compute    {flops * tokens:.3g} FLOPs, {flops / 1e9:.3f} GFLOP per token (PaLM's convention)",
        f"time       an estimate: {time} on {EXAMPLE_DEVICES} {_EXAMPLE_DEVICE} at {_EXAMPLE_MFU:.0%} MFU",
    ]


def _notes(config: RecipeConfig, data: RunData) -> list[str]:
    return [f"note       {note}" for note in notes(config, data.timetable, heldout=data.heldout)]


def _tokens(config: RecipeConfig, steps: int) -> int:
    return steps * config.train.global_batch_size * config.data.seq_len


def _vocabulary_layers(model: NextTokenModel) -> list[Any]:
    """The embedding and the head, which may share their weights."""
    return [model.model.get_input_embeddings(), model.model.get_output_embeddings()]

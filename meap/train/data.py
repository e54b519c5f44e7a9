"""What a run reads: rows of training and held-out rows, the tokenizer that made them, and how they are masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from composer import DataSpec
from composer.core import Evaluator, Event, State
from composer.core.data_spec import default_split_batch

from meap.checkpoints import ModelRecord
from meap.config import RecipeConfig, TrainConfig
from meap.data import (
    RowLoader,
    Shards,
    build_heldout_loader,
    build_loader,
    build_mask_rule,
    build_sft_loader,
    longest_segment,
    open_heldout,
    open_shards,
    open_tokenizer,
    require_room_for_copies,
)
from meap.manifest import CONVERSATIONS
from meap.masking import MaskRule
from meap.schema import TRAIN_SPLIT, Batch, SftBatch
from meap.tokenizer import Tokenizer
from meap.train.checkpoints.resuming import model_to_continue
from meap.train.run import Run
from meap.train.timetable import Timetable

__all__ = ["RunData", "count_tokens", "heldout_evaluator", "open_data", "packed_rows"]


@dataclass(frozen=True)
class RunData:
    """What a run reads."""

    shards: Shards
    """The training split."""
    tokenizer: Tokenizer
    """What made its rows."""
    rule: MaskRule
    """How inputs are masked."""
    timetable: Timetable
    """When things happen, in steps of these rows."""
    context: int
    """Positions that the model must hold: those of the longest segment of a row."""
    loader: RowLoader
    """This rank's share of each batch."""
    heldout: Shards | None = None
    """The validation split, if held-out loss is measured."""
    heldout_loader: RowLoader | None = None
    continues: ModelRecord | None = None
    """What the run has trained so far; None if it begins."""

    @property
    def has_segments(self) -> bool:
        """Whether rows are those of fine-tuning, with segments of other lengths in every batch."""
        return self.shards.streams[0].manifest.kind == CONVERSATIONS


def open_data(config: RecipeConfig, run: Run, *, kind: str) -> RunData:
    """Open the shards, the tokenizer and the loaders of a run.

    Args:
        config: The whole configuration.
        run: The run.
        kind: What the shards must hold, `meap.manifest.ROWS` or `CONVERSATIONS`.

    Raises:
        MeapError: The data are not there, not finished, damaged, or do not fit the configuration or the run so far.
    """
    shards = open_shards(config.data, TRAIN_SPLIT, kind=kind)
    if kind == CONVERSATIONS:
        require_room_for_copies(shards, ratio=config.masking.largest_ratio)
    heldout = open_heldout(config.data, kind=kind) if config.train.eval_batches else None
    continues = model_to_continue(config, shards)
    tokenizer = open_tokenizer(config.tokenizer, shards)
    timetable = Timetable.of(config, shards)
    if config.masking.reversed_ratio:
        tokenizer = tokenizer.with_direction()
    rule = build_mask_rule(config.masking, tokenizer.record, seed=config.run.seed, special_ids=tokenizer.special_ids)
    is_sft = kind == CONVERSATIONS
    build: Any = partial(build_sft_loader, sft=config.sft) if is_sft else build_loader
    settings: dict[str, Any] = {
        "global_batch_size": config.train.global_batch_size,
        "world_size": run.machine.world_size,
        "cache_dir": run.cache_dir,
    }
    return RunData(
        shards,
        tokenizer,
        rule,
        timetable,
        context=longest_segment(shards, config.sft, ratio=config.masking.largest_ratio)
        if is_sft
        else config.data.seq_len,
        loader=build(
            config.data,
            shards,
            rule=rule if config.masking.site == "dataset" else None,
            seed=config.run.seed,
            shuffle=config.data.shuffle,
            **settings,
        ),
        heldout=heldout,
        heldout_loader=build_heldout_loader(
            config.data, heldout, sft=config.sft, num_batches=config.train.eval_batches, **settings
        )
        if heldout is not None
        else None,
        continues=continues,
    )


def packed_rows(loader: Any) -> DataSpec:
    """A loader of packed rows, with the token count by which Composer weighs ranks and micro-batches."""
    return DataSpec(loader, get_num_tokens_in_batch=count_tokens)


def count_tokens(batch: Batch | SftBatch) -> dict[str, int]:
    """Positions of a batch, and what its loss is a mean of; known on the host, without a device sync."""
    num_tokens = int(batch["labels"].numel())
    # Every position of a pre-training row is scored; rows of fine-tuning bring their counts, of views or of positions.
    counts = batch.get("num_views", batch.get("num_targets"))
    num_scored = sum(counts) if counts is not None else num_tokens
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
    """As Composer splits, but without its warning if there are fewer rows: a split's last batch may be small."""
    return [batch] if len(batch["sample_id"]) <= num_rows else default_split_batch(batch, num_rows)

"""Masking in the training process, as a function and as a Composer Algorithm. See `meap.masking` for the method itself.

How to use: put ``InputMasking(...)`` into the Trainer's ``algorithms`` and give the loader no masking of its own. It
works with any causal-LM loader whose batches hold ``input_ids``, ``labels`` and ``sample_id``; README.md beside this
file is its card.

It runs on ``AFTER_DATALOADER``: once per device batch, before Composer splits it, so that the result does not depend
on the micro-batch size; the batch is still on the CPU there, so that masking needs no device sync. Positions are those
that `StreamingMaskedDataset` would have chosen, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from meap.config import MaskingConfig
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.positions import official_positions
from meap.schema import CHOSEN_COLUMN, IGNORE_INDEX
from meap.train.schedule import RatioSchedule

__all__ = ["InputMasking", "build_input_masking", "mask_batch", "masking_algorithms"]

_SCOPES = ("all", "response")


def mask_batch(
    batch: Mapping[str, Any], rule: MaskRule, *, epoch: int, scope: str = "all", labels_are_shifted: bool = True
) -> dict[str, Any]:
    """Replace a share of a batch's input tokens as the rule says; labels and everything else stay as they are.

    Args:
        batch: ``input_ids`` (B, T) and ``sample_id`` (B,), the row's number in the data set, as integer tensors of one
            device. Where there is an ``attention_mask`` (B, T), tokens that it leaves out are padding.
        rule: How to mask.
        epoch: Epoch number, from 0.
        scope: ``all`` tokens may be masked, or only those of the ``response``: tokens that are targets themselves,
            because the ``labels`` (B, T) do not leave them out with -100. Then the ratio is a share of these.
        labels_are_shifted: Whether the label at a position is the token that follows (as our loaders yield it), or the
            token at the position itself (as transformers' collators do). Only the response's scope depends on it.

    Returns:
        A new batch; the given one is not changed. Where the rule replaces tokens by random ones or keeps them, the new
        one also has ``chosen`` (B, T), True where a token was chosen.

    Raises:
        ConfigError: `scope` is not known, the batch lacks what is needed, or it is masked already.

    Example:
        >>> import torch
        >>> batch = {"input_ids": torch.arange(10, 18)[None], "sample_id": torch.tensor([5])}
        >>> batch["labels"] = batch["input_ids"] + 1
        >>> rule = MaskRule(mask_id=99, ratio=0.25, seed=17)
        >>> masked = mask_batch(batch, rule, epoch=0)
        >>> int((masked["input_ids"] == 99).sum())
        2
        >>> bool((masked["labels"] == batch["labels"]).all())
        True
    """
    rule = rule.at(epoch)
    _check(batch, rule, scope)
    in_scope_BT = None
    if scope == "response":
        is_target_BT = batch["labels"] != IGNORE_INDEX
        if labels_are_shifted:
            is_target_BT = is_target_BT.roll(1, dims=1)
        is_target_BT[:, 0] = False  # nothing stands before the first token that could predict it
        in_scope_BT = is_target_BT
    is_token_BT = batch["attention_mask"] != 0 if "attention_mask" in batch else None
    batch = _turned(batch, rule, epoch=epoch, is_token_BT=is_token_BT, labels_are_shifted=labels_are_shifted)
    # numpy chooses the same positions as torch, on a CPU in half the time.
    inputs, samples, in_scope, is_token = map(
        _host_array, (batch["input_ids"], batch["sample_id"], in_scope_BT, is_token_BT)
    )
    chosen = rule.choose(
        samples,
        num_tokens=inputs.shape[1],
        epoch=epoch,
        input_ids_BT=inputs,
        in_scope_BT=in_scope,
        is_token_BT=is_token,
    )
    replaced = rule.replace(inputs, chosen, samples, epoch=epoch, is_token_BT=is_token)
    masked = {**batch, "input_ids": torch.as_tensor(replaced)}
    return masked if rule.shows_choice else masked | {CHOSEN_COLUMN: torch.as_tensor(chosen)}


def _turned(
    batch: Mapping[str, Any],
    rule: MaskRule,
    *,
    epoch: int,
    is_token_BT: torch.Tensor | None,
    labels_are_shifted: bool,
) -> Mapping[str, Any]:
    """The batch with the rule's share of rows from their end."""
    if not rule.reversed_ratio:
        return batch
    labels_BT = batch.get("labels")
    is_whole = labels_BT is not None and labels_are_shifted and not bool((labels_BT == IGNORE_INDEX).any())
    if not is_whole or (is_token_BT is not None and not bool(is_token_BT.all())):
        raise ConfigError(
            "masking.reversed_ratio needs rows without padding whose labels are shifted and all scored: pack the rows, "
            "or set it to 0"
        )
    turned = rule.turn(*(_host_array(batch[name]) for name in ("input_ids", "labels", "sample_id")), epoch=epoch)
    inputs, labels = (torch.as_tensor(each) for each in turned)
    return {**batch, "input_ids": inputs, "labels": labels}


class InputMasking(Algorithm):
    """Replace a share of each training batch's input tokens by the mask token.

    Args:
        rule: How to mask.
        schedule: How the ratio changes over training, from that of the rule; None leaves it constant.
        scope: See `mask_batch`.
        labels_are_shifted: See `mask_batch`.
        preset: ``official`` repeats the official code's mask patterns, step by step, whatever the rule's seed.

    Logs:
        masking/ratio_scheduled: The ratio of each batch, where there is a schedule.

    Raises:
        ConfigError: Arguments that exclude each other, or a batch that `mask_batch` refuses.

    Example:
        >>> algorithm = InputMasking(MaskRule(mask_id=99, ratio=0.15, seed=17), scope="response")
        >>> algorithm.match(Event.AFTER_DATALOADER, None)
        True
    """

    def __init__(
        self,
        rule: MaskRule,
        *,
        schedule: RatioSchedule | None = None,
        scope: str = "all",
        labels_are_shifted: bool = True,
        preset: str | None = None,
    ) -> None:
        _check_scope(scope)
        if preset is not None and (schedule is not None or scope != "all"):
            raise ConfigError(f"preset {preset!r} fixes the rule: it takes neither a schedule nor another scope")
        self._rule = rule
        self._schedule = schedule
        self._scope = scope
        self._labels_are_shifted = labels_are_shifted
        self._preset = preset

    def match(self, event: Event, state: State | None) -> bool:
        """Run on whole training batches; Composer has no such event in evaluation."""
        return event == Event.AFTER_DATALOADER

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Mask ``state.batch``."""
        if self._preset is not None:
            state.batch = _mask_as_official(state.batch, self._rule, step=state.timestamp.batch.value)
            return
        rule = self._rule
        if self._schedule is not None:
            rule = dataclasses.replace(rule, ratio=self._schedule.ratio_at(state, start=rule.ratio))
            logger.log_metrics({"masking/ratio_scheduled": rule.ratio}, step=state.timestamp.batch.value + 1)
        state.batch = mask_batch(
            state.batch,
            rule,
            epoch=state.timestamp.epoch.value,
            scope=self._scope,
            labels_are_shifted=self._labels_are_shifted,
        )


def build_input_masking(config: MaskingConfig, rule: MaskRule) -> InputMasking:
    """The Algorithm of section `masking`, where `masking.site` asks for it.

    Args:
        config: Section `masking` of the configuration.
        rule: How to mask, see `meap.data.build_mask_rule`.
    """
    schedule = None
    if config.final_ratio is not None:
        schedule = RatioSchedule(config.schedule, config.final_ratio, config.schedule_duration)
    return InputMasking(rule, schedule=schedule, scope=config.scope, preset=config.preset)


def masking_algorithms(config: MaskingConfig, rule: MaskRule) -> list[Algorithm]:
    """The Algorithm where the training process masks; none where loader workers do."""
    return [build_input_masking(config, rule)] if config.site == "algorithm" else []


def _mask_as_official(batch: Mapping[str, Any], rule: MaskRule, *, step: int) -> dict[str, Any]:
    _check(batch, rule, "all")
    if "attention_mask" in batch and not bool(batch["attention_mask"].all()):
        raise ConfigError(
            "preset 'official' masks the same positions in every row, so rows must be without padding: "
            "pack them, or leave the preset unset"
        )
    masked_BT = batch["input_ids"].clone()
    if rule.ratio > 0.0:
        masked_BT[:, official_positions(step, num_tokens=masked_BT.shape[1], ratio=rule.ratio)] = rule.mask_id
    return {**batch, "input_ids": masked_BT}


def _host_array(tensor: torch.Tensor | None) -> Any:
    """The tensor as a numpy array that shares its memory, where that is the CPU's."""
    return tensor.numpy() if tensor is not None and tensor.device.type == "cpu" else tensor


def _check_scope(scope: str) -> None:
    if scope not in _SCOPES:
        raise ConfigError(f"scope {scope!r} is not known: choose one of {', '.join(_SCOPES)}")


def _check(batch: Mapping[str, Any], rule: MaskRule, scope: str) -> None:
    _check_scope(scope)
    for name in ("input_ids", "sample_id", *(["labels"] if scope == "response" else [])):
        if name not in batch:
            raise ConfigError(f"masking.site=algorithm needs a loader whose batches hold {name!r}")
    num_rows, num_tokens = batch["input_ids"].shape
    sample_ids = batch["sample_id"]
    if not torch.is_tensor(sample_ids) or sample_ids.is_floating_point() or sample_ids.shape != (num_rows,):
        found = f"{sample_ids.dtype} {tuple(sample_ids.shape)}" if torch.is_tensor(sample_ids) else repr(sample_ids)
        raise ConfigError(
            f"'sample_id' of a batch is {found}, but must be an integer tensor ({num_rows},): "
            "let the data set yield the row's number, and collate it as the inputs are"
        )
    if "attention_mask" in batch and batch["attention_mask"].shape != (num_rows, num_tokens):
        raise ConfigError(
            f"'attention_mask' of a batch has shape {tuple(batch['attention_mask'].shape)}, not "
            f"{(num_rows, num_tokens)}: let the loader yield 1 for each token and 0 for padding"
        )
    # Prepared rows never hold the mask id, so a batch that does is masked already.
    changed = (rule.mask_id, *([] if rule.direction_id is None else [rule.direction_id]))
    if CHOSEN_COLUMN in batch or any(bool((batch["input_ids"] == each).any()) for each in changed):
        raise ConfigError("the batch is masked already: masking.site must be either dataset or algorithm, not both")

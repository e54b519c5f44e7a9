"""Masking in the training process, as a Composer Algorithm. See `meap.masking` for the method itself.

How to use: put ``InputMasking(...)`` into the Trainer's ``algorithms`` and give the loader no masking of its own. It
works with any causal-LM loader whose batches hold ``input_ids``, ``labels`` and ``sample_id``.

It runs on ``AFTER_DATALOADER``: once per device batch, before Composer splits it, so that the result does not depend
on the micro-batch size; the batch is still on the CPU there, so the device never waits for it. Positions are those that
`StreamingMaskedDataset` would have chosen, bit for bit.
"""

from __future__ import annotations

from typing import cast

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from meap.errors import ConfigError
from meap.masking import MaskRule, official_positions
from meap.schema import Batch

__all__ = ["InputMasking"]


class InputMasking(Algorithm):
    """Replace a share of each training batch's input tokens by the mask token.

    Args:
        rule: How to mask.
        preset: ``official`` repeats the official code's mask patterns, step by step, whatever the rule's seed.

    Raises:
        ConfigError: A batch arrives masked already, or without sample ids.
    """

    def __init__(self, rule: MaskRule, *, preset: str | None = None) -> None:
        self._rule = rule
        self._preset = preset

    def match(self, event: Event, state: State) -> bool:
        """Run on whole training batches; Composer has no such event in evaluation."""
        return event == Event.AFTER_DATALOADER

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Mask ``state.batch``."""
        batch = cast("Batch", state.batch)
        if "sample_id" not in batch:
            raise ConfigError("masking.site=algorithm needs a loader whose batches hold 'sample_id'")
        # Prepared rows never hold the mask id, so finding it means that somebody has masked before.
        if bool((batch["input_ids"] == self._rule.mask_id).any()):
            raise ConfigError("the batch is masked already: masking.site must be either dataset or algorithm, not both")
        state.batch = {**batch, "input_ids": self._mask(batch, state)}

    def _mask(self, batch: Batch, state: State) -> torch.Tensor:
        if self._preset is None:
            return self._rule.apply(batch["input_ids"], batch["sample_id"], epoch=int(state.timestamp.epoch))
        masked_BT = batch["input_ids"].clone()
        if self._rule.ratio > 0.0:
            num_tokens, step = masked_BT.shape[1], int(state.timestamp.batch)
            masked_BT[:, official_positions(step, num_tokens=num_tokens, ratio=self._rule.ratio)] = self._rule.mask_id
        return masked_BT

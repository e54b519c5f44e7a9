"""Masking in the training process, as a Composer Algorithm. See `meap.masking` for the method itself.

How to use: put ``InputMasking(...)`` into the Trainer's ``algorithms`` and give the loader no masking of its own. It
works with any causal-LM loader whose batches hold ``input_ids``, ``labels`` and ``sample_id``.

It runs on ``AFTER_DATALOADER``: once per device batch, before Composer splits it, so that the result does not depend
on the micro-batch size; the batch is still on the CPU there, so the device never waits for it. Positions are those that
`StreamingMaskedDataset` would have chosen, bit for bit.
"""

from __future__ import annotations

from typing import cast

from composer.core import Algorithm, Event, State
from composer.loggers import Logger

from meap.config import MaskingConfig
from meap.errors import ConfigError
from meap.masking import mask_inputs
from meap.schema import Batch

__all__ = ["InputMasking"]


class InputMasking(Algorithm):
    """Replace a share of each training batch's input tokens by the mask token.

    Args:
        masking: How to mask.
        mask_id: Id of the mask token.
        seed: Seed of the masks, in [0, 2**32).

    Raises:
        ConfigError: A batch arrives masked already, or without sample ids.
    """

    def __init__(self, masking: MaskingConfig, *, mask_id: int, seed: int) -> None:
        self._masking = masking
        self._mask_id = mask_id
        self._seed = seed

    def match(self, event: Event, state: State) -> bool:
        """Run on whole training batches; Composer has no such event in evaluation."""
        return event == Event.AFTER_DATALOADER

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Mask ``state.batch``."""
        batch = cast("Batch", state.batch)
        if "sample_id" not in batch:
            raise ConfigError("masking.site=algorithm needs a loader whose batches hold 'sample_id'")
        # Prepared rows never hold the mask id, so finding it means that somebody has masked before.
        if bool((batch["input_ids"] == self._mask_id).any()):
            raise ConfigError("the batch is masked already: masking.site must be either dataset or algorithm, not both")
        masked_BT = mask_inputs(
            batch["input_ids"],
            batch["sample_id"],
            mask_id=self._mask_id,
            ratio=self._masking.ratio,
            seed=self._seed,
            epoch=int(state.timestamp.epoch),
            mask_last=self._masking.mask_last,
        )
        state.batch = {**batch, "input_ids": masked_BT}

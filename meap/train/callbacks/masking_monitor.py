"""The realised mask ratio, and the losses of masked and of clean targets."""

from __future__ import annotations

from typing import Any, cast

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from meap.schema import CHOSEN_COLUMN, IGNORE_INDEX, Batch
from meap.train.callbacks.throughput import last_step
from meap.train.model import ModelOutput

__all__ = ["MaskingMonitor"]


class MaskingMonitor(Callback):
    """Log the realised mask ratio, and the loss where the *target* token was masked in the input and where it was not.

    Masked stands for chosen, where chosen tokens may also become random ones or stay: batches then say which these are.

    The ratio is masked inputs per input token; padding is none: what an ``attention_mask`` leaves out. In fine-tuning
    it is masked words per word of the copies' long answers (``num_maskable``). A scored position p has a masked target
    where the input at p + 1 is masked, and a clean target elsewhere; both losses are next-token losses. In
    pre-training the two kinds of targets are drawn alike; in fine-tuning masked targets are those of the copies, clean
    targets the answers of the originals.

    Sums stay on the device and are read once per interval. The model must return ``losses_BT``, as `NextTokenModel`
    does, for labels that are shifted already.

    Args:
        mask_id: Id of the mask token.
        interval: Batches between logs.

    Logs:
        masking/ratio: Masked share of input tokens (pre-training).
        masking/ratio_of_answers: Masked share of the copied answers (fine-tuning), where there are copies.
        masking/loss_masked_targets, masking/loss_clean_targets: Mean losses, in nats, of the kinds that occurred.
    """

    def __init__(self, *, mask_id: int, interval: int) -> None:
        self._mask_id = mask_id
        self._interval = interval
        self._sums: torch.Tensor | None = None
        self._name = "masking/ratio"

    def after_forward(self, state: State, logger: Logger) -> None:
        """Add a micro-batch to the sums, without reading them."""
        batch, outputs = cast("Batch", state.batch), cast("ModelOutput", state.outputs)
        loaded = cast("dict[str, Any]", batch)
        is_mask_BT = loaded[CHOSEN_COLUMN] if CHOSEN_COLUMN in loaded else batch["input_ids"] == self._mask_id
        scored_BT = batch["labels"] != IGNORE_INDEX
        # The label at p is the token at p + 1; the last label lies beyond the row's inputs and is never masked.
        masked_target_BT = torch.zeros_like(is_mask_BT)
        masked_target_BT[:, :-1] = is_mask_BT[:, 1:]
        masked_target_BT &= scored_BT
        clean_target_BT = scored_BT & ~masked_target_BT
        losses_BT = outputs["losses_BT"]
        self._name = "masking/ratio_of_answers" if "num_maskable" in batch else "masking/ratio"
        sums = torch.stack(
            [
                _count_maskable(batch),
                is_mask_BT.sum(),
                masked_target_BT.sum(),
                (losses_BT * masked_target_BT).sum(),
                clean_target_BT.sum(),
                (losses_BT * clean_target_BT).sum(),
            ]
        ).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def batch_end(self, state: State, logger: Logger) -> None:
        """Reduce over ranks and log, at the end of an interval and of the run."""
        step = int(state.timestamp.batch)
        if self._sums is None or (step % self._interval and step != last_step(state)):
            return
        dist.all_reduce(self._sums)
        maskable, masked_inputs, masked, masked_loss, clean, clean_loss = self._sums.tolist()
        self._sums = None
        metrics = {self._name: masked_inputs / maskable} if maskable else {}
        if masked:
            metrics["masking/loss_masked_targets"] = masked_loss / masked
        if clean:
            metrics["masking/loss_clean_targets"] = clean_loss / clean
        logger.log_metrics(metrics)


def _count_maskable(batch: Batch) -> torch.Tensor:
    """Input tokens of which a share is masked, as a scalar on the batch's device, without a sync."""
    loaded = cast("dict[str, Any]", batch)
    if "attention_mask" in loaded:
        return (loaded["attention_mask"] != 0).sum()
    num_maskable = sum(loaded["num_maskable"]) if "num_maskable" in loaded else batch["input_ids"].numel()
    return torch.full((), num_maskable, device=batch["input_ids"].device)

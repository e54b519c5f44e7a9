"""What a run says about itself: mask statistics, one readable line per interval, and a file of metrics.

To add a metric, write a Callback here and put it into the recipe's list.
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from composer.core import Callback, State, Time, TimeUnit
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from meap.schema import IGNORE_INDEX, Batch
from meap.train.model import ModelOutput

__all__ = ["MaskingMonitor", "MetricsFile", "ProgressLines"]


class MaskingMonitor(Callback):
    """Log the realised mask ratio, and the loss where the *target* token was masked in the input and where it was not.

    The ratio is masked inputs per input token; padding is none: what ``segment_lengths`` (fine-tuning rows) or an
    ``attention_mask`` leaves out. A scored position p has a masked target where the input at p + 1 is the mask token,
    and a clean target elsewhere; both losses are next-token losses. In pre-training the two kinds of targets are drawn
    alike; in fine-tuning masked targets are those of the copies, clean targets the answers of the originals.

    Sums stay on the device and are read once per interval. The model must return ``losses_BT``, as `NextTokenModel`
    does, for labels that are shifted already.

    Args:
        mask_id: Id of the mask token.
        interval: Batches between logs.

    Logs:
        masking/ratio: Masked share of input tokens.
        masking/loss_masked_targets, masking/loss_clean_targets: Mean losses, in nats, of the kinds that occurred.
    """

    def __init__(self, *, mask_id: int, interval: int) -> None:
        self._mask_id = mask_id
        self._interval = interval
        self._sums: torch.Tensor | None = None

    def after_forward(self, state: State, logger: Logger) -> None:
        """Add a micro-batch to the sums, without reading them."""
        batch, outputs = cast("Batch", state.batch), cast("ModelOutput", state.outputs)
        is_mask_BT = batch["input_ids"] == self._mask_id
        scored_BT = batch["labels"] != IGNORE_INDEX
        # The label at p is the token at p + 1; the last label lies beyond the row's inputs and is never masked.
        masked_target_BT = torch.zeros_like(is_mask_BT)
        masked_target_BT[:, :-1] = is_mask_BT[:, 1:]
        masked_target_BT &= scored_BT
        clean_target_BT = scored_BT & ~masked_target_BT
        losses_BT = outputs["losses_BT"]
        sums = torch.stack(
            [
                _count_inputs(batch),
                is_mask_BT.sum(),
                masked_target_BT.sum(),
                (losses_BT * masked_target_BT).sum(),
                clean_target_BT.sum(),
                (losses_BT * clean_target_BT).sum(),
            ]
        ).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def batch_end(self, state: State, logger: Logger) -> None:
        """Reduce over ranks and log, once per interval."""
        if int(state.timestamp.batch) % self._interval or self._sums is None:
            return
        dist.all_reduce(self._sums)
        inputs, masked_inputs, masked, masked_loss, clean, clean_loss = self._sums.tolist()
        self._sums = None
        metrics = {"masking/ratio": masked_inputs / inputs}
        if masked:
            metrics["masking/loss_masked_targets"] = masked_loss / masked
        if clean:
            metrics["masking/loss_clean_targets"] = clean_loss / clean
        logger.log_metrics(metrics)


class ProgressLines(LoggerDestination):
    """Print one line per interval: step, loss, mask statistics, learning rate, speed and time left.

    Args:
        interval: Batches between lines.
        tokens_per_batch: Input tokens of a global batch.
    """

    def __init__(self, *, interval: int, tokens_per_batch: int) -> None:
        self._interval = interval
        self._tokens_per_batch = tokens_per_batch
        self._metrics: dict[str, float] = {}
        self._mark: tuple[float, int] | None = None

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Remember the newest value of each metric."""
        self._metrics |= metrics

    def batch_start(self, state: State, logger: Logger) -> None:
        """Start the clock at the first batch."""
        if self._mark is None:
            self._mark = (time.perf_counter(), int(state.timestamp.batch))

    def batch_end(self, state: State, logger: Logger) -> None:
        """Print the line where the interval ends, and after the last batch."""
        step, total = int(state.timestamp.batch), _total_batches(state)
        if (step % self._interval and step != total) or self._mark is None:
            return
        now, (since, since_step) = time.perf_counter(), self._mark
        self._mark = (now, step)
        seconds_per_step = (now - since) / max(1, step - since_step)
        _print_on_rank_zero(
            " | ".join(
                part
                for part in (
                    f"step {step:>6,}/{total:,}" if total else f"step {step:>6,}",
                    f"loss {self._metrics.get('loss/train/total', float('nan')):.4f}",
                    self._masking_part(),
                    f"lr {state.optimizers[0].param_groups[0]['lr']:.2e}",
                    f"{self._tokens_per_batch / seconds_per_step:>9,.0f} tok/s",
                    f"{_clock((total - step) * seconds_per_step)} left" if total else "",
                )
                if part
            )
        )

    def eval_end(self, state: State, logger: Logger) -> None:
        """Print held-out losses, and leave the evaluation's time out of the training speed."""
        for name, metrics in state.eval_metrics.items():
            for metric in metrics.values():
                _print_on_rank_zero(
                    f"step {int(state.timestamp.batch):>6,} | {name} loss {float(metric.compute()):.4f}"
                )
        self._mark = (time.perf_counter(), int(state.timestamp.batch))

    def _masking_part(self) -> str:
        ratio = self._metrics.get("masking/ratio")
        if ratio is None:
            return ""
        if "masking/loss_masked_targets" not in self._metrics:
            return f"masked {ratio:.1%}"
        losses = (
            f"{kind} {self._metrics[f'masking/loss_{kind}_targets']:.4f}"
            for kind in ("masked", "clean")
            if f"masking/loss_{kind}_targets" in self._metrics
        )
        return f"masked {ratio:.1%} (targets: {', '.join(losses)})"


class MetricsFile(LoggerDestination):
    """Append one JSON object per batch to a file: the step, and every metric logged since the last.

    Args:
        path: File to append to. A resumed run appends; of several lines with the same step the last holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Collect metrics until the batch ends."""
        self._pending |= {name: float(value) for name, value in metrics.items()}

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write what was collected."""
        self._write(int(state.timestamp.batch))

    def eval_end(self, state: State, logger: Logger) -> None:
        """Write held-out losses under their own names."""
        for name, metrics in state.eval_metrics.items():
            self._pending |= {f"{name}/{key}": float(metric.compute()) for key, metric in metrics.items()}
        self._write(int(state.timestamp.batch))

    def _write(self, step: int) -> None:
        if self._pending and dist.get_global_rank() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **self._pending}) + "\n")
        self._pending = {}


def _count_inputs(batch: Batch) -> torch.Tensor:
    """Input tokens without padding, as a scalar on the batch's device, which is not asked for anything."""
    loaded = cast("dict[str, Any]", batch)
    if "attention_mask" in loaded:
        return (loaded["attention_mask"] != 0).sum()
    num_inputs = batch["input_ids"].numel()
    if "segment_lengths" in loaded:
        num_inputs = sum(map(sum, loaded["segment_lengths"]))
    return torch.full((), num_inputs, device=batch["input_ids"].device)


def _total_batches(state: State) -> int:
    """Batches of the whole run, 0 where that cannot be known."""
    duration = cast("Time[int] | None", state.max_duration)
    if duration is None:
        return 0
    if duration.unit == TimeUnit.BATCH:
        return duration.value
    elapsed = state.get_elapsed_duration()
    return round(int(state.timestamp.batch) / elapsed.value) if elapsed and elapsed.value else 0


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))


def _print_on_rank_zero(line: str) -> None:
    if dist.get_global_rank() == 0:
        print(line, flush=True)

"""Logs every step's loss without a device sync; stops before a checkpoint if a loss or a weight is not finite."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from composer.core import Callback, State, Timestamp
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.tensor import DTensor

from meap.errors import TrainingError

__all__ = ["StepLosses"]


class _Step(NamedTuple):
    number: int
    epoch: int
    sample_ids: torch.Tensor
    """This rank's, on the CPU."""


class StepLosses(Callback):
    """The loss of every step, read from the device once per interval, before each checkpoint and at the end.

    Args:
        interval: Batches between readings.

    Logs:
        loss/train/total: Mean loss over all ranks, each under the step it belongs to (the first step is 1).

    Raises:
        TrainingError: A loss is not finite; or, before a checkpoint, a weight.
    """

    def __init__(self, *, interval: int) -> None:
        self._interval = interval
        self._steps: list[_Step] = []
        self._losses: list[torch.Tensor] = []
        self._has_trained = False
        self._state: State | None = None
        self._logger: Logger | None = None

    def add(self, begun: Timestamp, loss: torch.Tensor, sample_ids: torch.Tensor) -> None:
        """Keep this rank's loss of a step, a scalar, on its device.

        Args:
            begun: The time at which the step began.
            loss: Of this rank.
            sample_ids: Of this rank's rows, on the CPU.
        """
        self._has_trained = True
        self._steps.append(_Step(int(begun.batch) + 1, int(begun.epoch), sample_ids))
        self._losses.append(loss)

    def init(self, state: State, logger: Logger) -> None:
        """Keep the logger."""
        self._state, self._logger = state, logger

    def batch_end(self, state: State, logger: Logger) -> None:
        """Read at the end of an interval, of an epoch and of the run: before loggers write what they have."""
        assert state.max_duration is not None
        time = state.timestamp
        if (
            int(time.batch) % self._interval == 0
            or time >= state.max_duration
            or (state.dataloader_len is not None and time.batch_in_epoch >= state.dataloader_len)
        ):
            self._read()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Read what is left."""
        self._read()

    def state_dict(self) -> dict[str, Any]:
        """Empty; but a run that resumes here begins after these steps, so their losses must be read by now."""
        self._read()
        self._require_weights()
        return {}

    def _read(self) -> None:
        if not self._losses or self._logger is None:
            return
        losses = torch.stack(self._losses)
        dist.all_reduce(losses)
        means = [loss / dist.get_world_size() for loss in losses.tolist()]
        steps, self._steps, self._losses = self._steps, [], []
        for step, loss in zip(steps, means, strict=True):
            if not math.isfinite(loss):
                raise _not_finite(step, loss)
            self._logger.log_metrics({"loss/train/total": loss}, step=step.number)

    def _require_weights(self) -> None:
        """A step of finite loss may still have made weights NaN or inf, which only the next loss would show.

        A checkpoint waits for the device anyway.
        """
        if self._state is None or not self._has_trained:  # weights are not initialised before a checkpoint is loaded
            return
        weights = [each.detach() for each in self._state.model.parameters()]
        own = [each.to_local() if isinstance(each, DTensor) else each for each in weights]
        num_broken = torch.stack([~each.isfinite().all() for each in own]).sum()
        dist.all_reduce(num_broken)
        if int(num_broken):
            step = int(self._state.timestamp.batch)
            raise TrainingError(
                f"weights contain NaN or inf after step {step:,} although its loss was finite, so they are not saved: "
                "a gradient overflowed. The same command tries again; if it ends here again, give another run.name a "
                "lower optimizer.lr or optimizer.grad_clip_norm"
            )


def _not_finite(step: _Step, loss: float) -> TrainingError:
    """Every rank has read the same losses, and comes here at the same step."""
    ids = sorted(i for of_rank in dist.all_gather_object(step.sample_ids.tolist()) for i in of_rank)
    return TrainingError(
        f"the loss of step {step.number:,} is {loss} (epoch {step.epoch}, samples {ids}), so nothing from there on is "
        "saved: the same command tries again; if it ends here again, look at those samples (meap inspect "
        f"training=<yaml> samples=[{ids[0]}] epoch={step.epoch}), or give another run.name a lower optimizer.lr"
    )

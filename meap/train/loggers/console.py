"""What a person sees while a run trains: a bar on a terminal; in pipes and job logs, one line per interval."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from composer.core import State
from composer.loggers import Logger, LoggerDestination

from meap.show.numbers import clock
from meap.show.progress import Display, Position, is_terminal
from meap.show.text import one_line
from meap.train.callbacks.throughput import last_step
from meap.train.run_folder import append_to_log

__all__ = ["ProgressBar", "ProgressLines", "build_console"]

_HELDOUT, _LOSS = "metrics/heldout/loss", "loss/train/total"
_MOST_CHARACTERS = 200
"""Shown of each text of a sample; of a prompt its end."""


def build_console(run_dir: Path, *, is_leader: bool, interval: int) -> list[LoggerDestination]:
    """Progress on rank 0: a bar if standard output is a terminal, else lines; lines in the log in any case.

    Args:
        run_dir: The run's folder.
        is_leader: Whether this is rank 0.
        interval: Batches between lines.
    """
    if not is_leader:
        return []
    log = partial(append_to_log, run_dir)
    if is_terminal(sys.stdout):
        return [ProgressLines(interval=interval, write=log), ProgressBar(interval=interval, file=sys.stdout)]

    def say(line: str) -> None:
        print(line, flush=True)
        log(line)

    return [ProgressLines(interval=interval, write=say)]


class _IntervalMetrics:
    """Metrics since the last line: the newest value of each, and the mean loss of all steps."""

    def __init__(self) -> None:
        self.newest: dict[str, float] = {}
        self._losses: list[float] = []

    def add(self, metrics: dict[str, Any]) -> None:
        """Add metrics."""
        self.newest |= metrics
        if _LOSS in metrics:
            self._losses.append(float(metrics[_LOSS]))

    def take(self) -> dict[str, float]:
        """Return them, and start the next interval."""
        taken, losses = self.newest, self._losses
        self.newest, self._losses = {}, []
        # A mean, as the losses of masked and clean targets are: the loss of one step could lie outside of both.
        return taken | ({_LOSS: sum(losses) / len(losses)} if losses else {})


class ProgressLines(LoggerDestination):
    """Write one line per interval: step, mean loss, mask statistics, learning rate, speed, memory and time left.

    A line has the metrics logged since the last one.

    Args:
        interval: Batches between lines.
        write: Takes a line.
    """

    def __init__(self, *, interval: int, write: Callable[[str], None]) -> None:
        self._interval = interval
        self._write = write
        self._interval_metrics = _IntervalMetrics()
        self._samples: list[str] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Collect metrics."""
        self._interval_metrics.add(metrics)

    def log_table(
        self, columns: list[str], rows: list[list[Any]], name: str = "Table", step: int | None = None
    ) -> None:
        """Keep samples, to be written below the held-out loss."""
        self._samples = _describe_table(columns, rows)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the line where the interval ends, and after the last batch."""
        step, total = int(state.timestamp.batch), last_step(state)
        if step % self._interval == 0 or step == total:
            self._write(" | ".join([_position(step, total), *_figures(state, self._interval_metrics.take())]))

    def eval_end(self, state: State, logger: Logger) -> None:
        """Write the held-out loss, and the samples in one block."""
        if (loss := self._interval_metrics.newest.pop(_HELDOUT, None)) is not None:
            line = f"step {int(state.timestamp.batch):>6,} | heldout loss {float(loss):.4f}"
            self._write("\n".join([line, *self._samples]))
            self._samples = []


class ProgressBar(LoggerDestination):
    """A bar at the foot of the terminal, with the figures of `ProgressLines`; other output scrolls above it.

    Args:
        interval: Batches between updates of the figures.
        file: Where to draw.
    """

    def __init__(self, *, interval: int, file: TextIO) -> None:
        self._interval = interval
        self._interval_metrics = _IntervalMetrics()
        self._figures = ["starting"]
        self._heldout: list[str] = []
        self._display = Display(file=file)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Collect metrics."""
        self._interval_metrics.add(metrics)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Draw the bar."""
        self._display.start()
        self._show(state, self._figures)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Advance the bar; figures change once per interval."""
        step = int(state.timestamp.batch)
        is_due = step % self._interval == 0 or step == last_step(state)
        if is_due:
            self._figures = _figures(state, self._interval_metrics.take())
        self._show(state, self._figures, now=is_due)

    def log_table(
        self, columns: list[str], rows: list[list[Any]], name: str = "Table", step: int | None = None
    ) -> None:
        """Print samples above the bar."""
        self._display.say("\n".join([f"{name} at step {step:,}", *_describe_table(columns, rows)]))

    def eval_start(self, state: State, logger: Logger) -> None:
        """Say why the bar pauses."""
        self._show(state, ["measuring held-out loss"])

    def eval_end(self, state: State, logger: Logger) -> None:
        """Show the held-out loss, from now on."""
        if (loss := self._interval_metrics.newest.pop(_HELDOUT, None)) is not None:
            self._heldout = [f"heldout loss {float(loss):.4f}"]
        self._show(state, self._figures)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leave the final bar on the screen."""
        self._display.stop()

    def close(self, state: State, logger: Logger) -> None:
        """Restore the terminal, also after an error."""
        self._display.stop()

    def _show(self, state: State, figures: list[str], *, now: bool = True) -> None:
        step, total = int(state.timestamp.batch), last_step(state)
        head = _position(step, total)
        text = " | ".join([*figures, *self._heldout])
        # Without a known length the bar pulses.
        position = Position(step, total or None, f"{head} | {text}", head=head, details=((text, ""),))
        if self._display.is_live:
            self._display.show(position, now=now)


def _describe_table(columns: list[str], rows: list[list[Any]]) -> list[str]:
    """Its texts, a line each; numbers are left out."""
    width = max(map(len, columns))
    return [
        f"  {column:<{width}}  {one_line(cell, most=_MOST_CHARACTERS, keep='end' if column == 'prompt' else 'start')}"
        for row in rows
        for column, cell in zip(columns, row, strict=True)
        if isinstance(cell, str)
    ]


def _position(step: int, total: int) -> str:
    return f"step {step:>6,}/{total:,}" if total else f"step {step:>6,}"


def _figures(state: State, metrics: dict[str, float]) -> list[str]:
    """Figures of the last interval, as text."""
    figures = [
        *([f"loss {metrics[_LOSS]:.4f}"] if _LOSS in metrics else []),
        *_masking(metrics),
        f"lr {state.optimizers[0].param_groups[0]['lr']:.2e}",
    ]
    if (speed := metrics.get("throughput/tokens_per_sec")) is not None:
        figures.append(f"{speed:>9,.0f} tok/s")
    if (mfu := metrics.get("throughput/device/mfu")) is not None:
        figures.append(f"MFU {mfu:.1%} (PaLM)")
    if (memory := metrics.get("memory/peak_allocated_mem")) is not None:
        figures.append(f"{memory:.1f} GB")
    if (hours := metrics.get("time/remaining_estimate")) is not None:
        figures.append(f"{clock(3600 * hours)} left")
    return figures


def _masking(metrics: dict[str, float]) -> list[str]:
    shares = {"masking/ratio": "", "masking/ratio_of_answers": " of the copied answers"}
    name = next((each for each in shares if each in metrics), None)
    if name is None:
        return []
    masked = f"masked {metrics[name]:.1%}{shares[name]}"
    if "masking/loss_masked_targets" not in metrics:
        return [masked]
    losses = (
        f"{kind} {metrics[f'masking/loss_{kind}_targets']:.4f}"
        for kind in ("masked", "clean")
        if f"masking/loss_{kind}_targets" in metrics
    )
    return [f"{masked} (targets: {', '.join(losses)})"]

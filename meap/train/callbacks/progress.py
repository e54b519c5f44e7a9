"""What a person sees while a run trains: a bar on a terminal; in pipes and job logs, one line per interval."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from meap.train.callbacks.throughput import last_step

__all__ = ["LOG_NAME", "ProgressBar", "ProgressLines", "append_to_log", "build_progress"]

LOG_NAME = "log.txt"

_HELDOUT, _LOSS = "metrics/heldout/loss", "loss/train/total"


def build_progress(run_dir: Path, *, is_leader: bool, interval: int) -> list[LoggerDestination]:
    """What shows this run, of rank 0 alone: a bar where standard output is a terminal, else lines; lines in the log.

    Args:
        run_dir: The run's folder.
        is_leader: Whether this process speaks for all.
        interval: Batches between lines.
    """
    if not is_leader:
        return []
    log = partial(append_to_log, run_dir)
    console = Console()
    if console.is_terminal:
        return [ProgressLines(interval=interval, write=log), ProgressBar(interval=interval, console=console)]

    def say(line: str) -> None:
        print(line, flush=True)
        log(line)

    return [ProgressLines(interval=interval, write=say)]


def append_to_log(run_dir: Path, text: str) -> None:
    """Keep in the run's folder what it has said."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOG_NAME).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


class _IntervalMetrics:
    """What was measured since the line before: the newest value of each metric, and the mean loss of all its steps."""

    def __init__(self) -> None:
        self.newest: dict[str, float] = {}
        self._losses: list[float] = []

    def add(self, metrics: dict[str, Any]) -> None:
        """Remember them."""
        self.newest |= metrics
        if _LOSS in metrics:
            self._losses.append(float(metrics[_LOSS]))

    def take(self) -> dict[str, float]:
        """Hand them over, and begin anew."""
        taken, losses = self.newest, self._losses
        self.newest, self._losses = {}, []
        # As those of masked and clean targets are: beside them the loss of one step could be outside of both.
        return taken | ({_LOSS: sum(losses) / len(losses)} if losses else {})


class ProgressLines(LoggerDestination):
    """Write one line per interval: step, mean loss, mask statistics, learning rate, speed, memory and time left.

    A line shows what was measured since the one before; what was not is left out.

    Args:
        interval: Batches between lines.
        write: Takes a line.
    """

    def __init__(self, *, interval: int, write: Callable[[str], None]) -> None:
        self._interval = interval
        self._write = write
        self._interval_metrics = _IntervalMetrics()

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Remember what was measured."""
        self._interval_metrics.add(metrics)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the line where the interval ends, and after the last batch."""
        step, total = int(state.timestamp.batch), last_step(state)
        if step % self._interval == 0 or step == total:
            self._write(" | ".join([_position(step, total), *_figures(state, self._interval_metrics.take())]))

    def eval_end(self, state: State, logger: Logger) -> None:
        """Write the held-out loss."""
        if (loss := self._interval_metrics.newest.pop(_HELDOUT, None)) is not None:
            self._write(f"step {int(state.timestamp.batch):>6,} | heldout loss {float(loss):.4f}")


class ProgressBar(LoggerDestination):
    """A bar at the foot of the terminal, with the figures of `ProgressLines`; what others print scrolls above it.

    Args:
        interval: Batches between updates of the figures.
        console: Where to draw.
    """

    def __init__(self, *, interval: int, console: Console) -> None:
        self._interval = interval
        self._interval_metrics = _IntervalMetrics()
        self._figures: list[str] = []
        self._heldout: list[str] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            expand=True,
        )
        self._task: TaskID | None = None

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Remember what was measured."""
        self._interval_metrics.add(metrics)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Draw the bar."""
        step, total = int(state.timestamp.batch), last_step(state)
        # Without a known length the bar pulses.
        self._task = self._progress.add_task(
            _position(step, total), total=total or None, completed=step, figures="starting"
        )
        self._progress.start()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Move on; figures change once per interval."""
        step, total = int(state.timestamp.batch), last_step(state)
        self._update(description=_position(step, total), total=total or None, completed=step)
        if step % self._interval == 0 or step == total:
            self._figures = _figures(state, self._interval_metrics.take())
            self._show_figures()

    def eval_start(self, state: State, logger: Logger) -> None:
        """Say that the bar stands still for a reason."""
        self._update(figures="measuring held-out loss")

    def eval_end(self, state: State, logger: Logger) -> None:
        """Show the held-out loss, from now on."""
        if (loss := self._interval_metrics.newest.pop(_HELDOUT, None)) is not None:
            self._heldout = [f"heldout loss {float(loss):.4f}"]
        self._show_figures()

    def fit_end(self, state: State, logger: Logger) -> None:
        """Leave the bar as it is."""
        self._progress.stop()

    def close(self, state: State, logger: Logger) -> None:
        """Give the terminal back, also after an error."""
        self._progress.stop()

    def _show_figures(self) -> None:
        self._update(figures=" | ".join([*self._figures, *self._heldout]))

    def _update(self, **changes: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, **changes)


def _position(step: int, total: int) -> str:
    return f"step {step:>6,}/{total:,}" if total else f"step {step:>6,}"


def _figures(state: State, metrics: dict[str, float]) -> list[str]:
    """What is known of the newest interval, in words."""
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
        figures.append(f"{timedelta(seconds=round(3600 * hours))} left")
    return figures


def _masking(metrics: dict[str, float]) -> list[str]:
    ratio = metrics.get("masking/ratio")
    if ratio is None:
        return []
    if "masking/loss_masked_targets" not in metrics:
        return [f"masked {ratio:.1%}"]
    losses = (
        f"{kind} {metrics[f'masking/loss_{kind}_targets']:.4f}"
        for kind in ("masked", "clean")
        if f"masking/loss_{kind}_targets" in metrics
    )
    return [f"masked {ratio:.1%} (targets: {', '.join(losses)})"]

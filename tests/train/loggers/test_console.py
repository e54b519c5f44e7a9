"""What is shown, on a terminal and elsewhere."""

import io
import re
from types import SimpleNamespace

import pytest
from composer.core import Time, Timestamp

from meap.train.loggers.console import ProgressBar, ProgressLines

METRICS = {
    "loss/train/total": 2.5,
    "masking/ratio": 0.15,
    "masking/loss_masked_targets": 3.0,
    "masking/loss_clean_targets": 2.25,
    "throughput/tokens_per_sec": 54_321.0,
    "throughput/device/mfu": 0.412,
    "memory/peak_allocated_mem": 71.23,
    "time/remaining_estimate": 1.5,
}


@pytest.fixture
def state() -> SimpleNamespace:
    optimizer = SimpleNamespace(param_groups=[{"lr": 4e-4}])
    return SimpleNamespace(timestamp=Timestamp(batch=0), max_duration=Time.from_batch(12), optimizers=[optimizer])


def test_a_line_per_interval_and_one_at_the_end(state):
    lines: list[str] = []
    progress = ProgressLines(interval=5, write=lines.append)
    for step in range(1, 13):
        state.timestamp = Timestamp(batch=step)
        progress.log_metrics(METRICS | {"loss/train/total": float(step)}, step=step)
        progress.batch_end(state, None)
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"step {step:>6}/12", f"loss {mean:.4f}"] for step, mean in ((5, 3), (10, 8), (12, 11.5))
    ]
    assert lines[0].endswith(
        "masked 15.0% (targets: masked 3.0000, clean 2.2500) | lr 4.00e-04 |    54,321 tok/s | MFU 41.2% (PaLM) | "
        "71.2 GB | 1:30:00 left"
    )


def test_a_line_repeats_nothing_of_the_one_before(state):
    lines: list[str] = []
    progress = ProgressLines(interval=5, write=lines.append)
    for step, metrics in ((10, METRICS), (12, {"loss/train/total": 2.25})):
        state.timestamp = Timestamp(batch=step)
        progress.log_metrics(metrics, step=step)
        progress.batch_end(state, None)
    assert lines[1] == "step     12/12 | loss 2.2500 | lr 4.00e-04"


def test_what_is_not_known_is_not_shown(state):
    lines: list[str] = []
    progress = ProgressLines(interval=1, write=lines.append)
    state.timestamp = Timestamp(batch=1)
    progress.log_metrics({"loss/train/total": 2.0, "masking/ratio": 0.0}, step=1)
    progress.batch_end(state, None)
    assert lines == ["step      1/12 | loss 2.0000 | masked 0.0% | lr 4.00e-04"]


def test_the_bar_shows_the_same_and_the_held_out_loss_and_gives_the_terminal_back(state, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    screen.isatty = lambda: True
    bar = ProgressBar(interval=5, file=screen)
    bar.fit_start(state, None)
    assert "step      0/12" in screen.getvalue()
    for step in range(1, 13):
        state.timestamp = Timestamp(batch=step)
        bar.log_metrics(METRICS, step=step)
        bar.batch_end(state, None)
    bar.eval_start(state, None)
    bar.log_metrics({"metrics/heldout/loss": 2.125}, step=12)
    bar.eval_end(state, None)
    bar.close(state, None)
    shown = screen.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    last = plain[plain.rindex("step     12/12") :]
    for part in ("100%", "loss 2.5000", "54,321 tok/s", "MFU 41.2% (PaLM)", "heldout loss 2.1250"):
        assert part in " ".join(last.split())
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") == 1  # the cursor is hidden once, and shown again

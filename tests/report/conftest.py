"""Folders of runs, written as training and evaluation write them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meap.config import RecipeConfig, load_config, save_config

NUM_STEPS = 200
EVAL_EVERY = 50


def metric_lines(num_steps: int = NUM_STEPS, *, offset: float = 0.0, ratio: float = 0.15) -> list[dict[str, Any]]:
    """Lines of a metrics file: an exponential towards 2 + offset."""
    lines: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        loss = 2 + offset + 6 * math.exp(-step / 30) + 0.05 * (-1) ** step
        line = {"step": step, "time/token": 0.0, "loss/train/total": loss, "lr-AdamW/group0": 1e-3 * step / num_steps}
        line |= {"time/total": step / 3600, "throughput/tokens_per_sec": 1000.0 + step % 7}
        if step % 10 == 0:
            line |= {"masking/ratio": ratio, "masking/loss_clean_targets": loss}
            line |= {"masking/loss_masked_targets": loss + 0.1} if ratio else {}
        lines.append(line)
        if step % EVAL_EVERY == 0:
            lines.append({"step": step, "metrics/heldout/loss": loss - 0.2, "heldout/loss": loss - 0.2})
    return lines


def evaluation(loss: float) -> dict[str, Any]:
    """A results.json in the form that `meap.evals.runner.run_tasks` writes."""
    return {
        "headline": {"held-out loss, nats per token": {"value": loss, "low": loss - 0.1, "high": loss + 0.1, "n": 62}},
        "tasks": {"perplexity": {"loss_by_position": [{"first": 1, "last": 2, "loss": loss + 1}]}},
        "config": {"model": f"hf-{loss}", "num_facts": 4},
        "data": "data/sample/mds",
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, *overrides: str, lines: list[dict[str, Any]] | None = None, loss: float | None = None) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        written = metric_lines() if lines is None else lines
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written), encoding="utf-8")
        sizes = ("data.seq_len=256", "train.global_batch_size=8", f"train.max_duration={NUM_STEPS}ba")
        save_config(load_config(RecipeConfig, None, ("run.name=x", *sizes, *overrides)), folder / "config.yaml")
        if loss is not None:
            (folder / "eval").mkdir()
            (folder / "eval" / "results.json").write_text(json.dumps(evaluation(loss)), encoding="utf-8")
        return folder

    return make

"""Trains by the recipe in this process, and notes every so many steps what the process holds.

    python long_run.py <yaml> <notes> <interval>

Writes a JSON line per sample: step, memory (RSS, bytes), open files, threads, mapped segments of shared memory,
bytes and files in the folder of checkpoints, and milliseconds per step since the sample before.
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from meap.config import RecipeConfig, load_config
from meap.train.model import NextTokenModel

ROOT = Path(__file__).resolve().parents[3]


def note_what_is_held(path: Path, checkpoints: Path, interval: int) -> None:
    """From inside a step of every interval, half an interval away from checkpoints and logs."""
    process, notes = psutil.Process(), path.open("w", buffering=1)
    step, since = 0, time.perf_counter()

    def hook(module: torch.nn.Module, *_: Any) -> None:
        nonlocal step, since
        if not isinstance(module, NextTokenModel):
            return
        step += 1
        if step % interval != interval // 2:
            return
        files = [each.stat().st_size for each in checkpoints.rglob("*") if each.is_file()]
        held = {
            "step": step,
            "memory": process.memory_info().rss,
            "files": process.num_fds(),
            "threads": process.num_threads(),
            "shared": sum("/dev/shm/" in each.path for each in process.memory_maps()),
            "disk": sum(files),
            "checkpoint_files": len(files),
            "ms": 1000 * (time.perf_counter() - since) / interval,
        }
        notes.write(json.dumps(held) + "\n")
        since = time.perf_counter()

    torch.nn.modules.module.register_module_forward_hook(hook)


def main() -> None:
    """Train."""
    torch.set_num_threads(1)
    config = load_config(RecipeConfig, sys.argv[1])
    note_what_is_held(Path(sys.argv[2]), Path(config.checkpoint.folder), int(sys.argv[3]))
    runpy.run_path(str(ROOT / "recipes/meap_1b.py"))["main"](config)


if __name__ == "__main__":
    main()

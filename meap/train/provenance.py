"""Where a run comes from, kept in its folder: program, packages, machines, data, and every start of it."""

from __future__ import annotations

import json
import platform
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist
from torch.version import cuda as torch_cuda

from meap.data import Shards
from meap.places.redaction import clean_arguments
from meap.places.whole import write_whole
from meap.schema import MANIFEST_NAME
from meap.train.machine import Machine

__all__ = ["STARTS_NAME", "VERSIONS_NAME", "record_start"]

VERSIONS_NAME = "versions.json"
STARTS_NAME = "starts.jsonl"
_DATA_DIR = "data"

_PACKAGES = (
    "flash-attn",
    "liger-kernel",
    "mosaicml",
    "mosaicml-streaming",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
)


def record_start(run_dir: Path, machine: Machine, splits: Sequence[Shards], *, from_step: int, steps: int) -> None:
    """Keep what this start is; every rank calls, rank 0 writes.

    ``versions.json`` and ``data/<stream>/<split>/manifest.json`` are those of the first start and stay as they are.
    ``starts.jsonl`` gets a line for each: the same facts, when, on how many ranks, from which step, of how many,
    on data from where.

    Args:
        run_dir: The run's folder.
        machine: Device, precision and ranks.
        splits: The splits that are read.
        from_step: Steps that the run had behind it.
        steps: Steps of the whole run.
    """
    gpu = torch.cuda.get_device_name() if machine.on_gpu else None
    devices: list[Any] = dist.all_gather_object((socket.gethostname(), gpu))
    if not machine.is_leader:
        return
    facts: dict[str, Any] = {
        **_revision(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "cuda": torch_cuda,
        "gpus": dict(Counter(name for _, name in devices if name)),
        "nodes": len({host for host, _ in devices}),
        "world_size": machine.world_size,
        "precision": machine.precision,
        "command": shlex.join(clean_arguments([*sys.argv])),
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / VERSIONS_NAME).is_file():
        write_whole(run_dir / VERSIONS_NAME, json.dumps(facts, indent=2) + "\n", several_writers=True)
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "steps": steps,
        "data": {stream.key: stream.remote for shards in splits for stream in shards.streams},
        **facts,
    }
    with (run_dir / STARTS_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")
    for shards in splits:
        for stream in shards.streams:
            path = run_dir / _DATA_DIR / (stream.name or "") / shards.split / MANIFEST_NAME
            if not path.is_file() or not from_step:
                write_whole(path, stream.manifest.to_json(), several_writers=True)


def _revision(project: Path) -> dict[str, Any]:
    """Git's name of what runs, and whether files differ from it; nothing where it was installed without git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(project), *arguments], capture_output=True, text=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if not (project / ".git").exists():
        return {"git_revision": None, "git_dirty": None}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"git_revision": git("rev-parse", "HEAD"), "git_dirty": None if changes is None else bool(changes)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

"""Where a run comes from: printed when it starts, and kept in its folder with program, packages, machines and data."""

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
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.version import cuda as torch_cuda

from meap.config import RecipeConfig
from meap.data import Shards
from meap.places.redaction import clean_arguments
from meap.places.whole import append_whole, write_whole
from meap.run_files import DATA_DIR, STARTS_NAME, VERSIONS_NAME
from meap.schema import MANIFEST_NAME
from meap.train.data import RunData
from meap.train.header import describe_run
from meap.train.machine import Machine
from meap.train.model import NextTokenModel
from meap.train.run_folder import append_to_log

__all__ = ["RunStart", "record_start"]

_PACKAGES = (
    "flash-attn",
    "liger-kernel",
    "mosaicml",
    "mosaicml-streaming",
    "numpy",
    "peft",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
)


class RunStart(Callback):
    """Print the header of a run and record its start, once it is known from which step.

    Args:
        config: The whole configuration.
        machine: Device, precision and ranks.
        data: What the run reads.
        model: The model, before anything wraps it.
    """

    def __init__(self, config: RecipeConfig, machine: Machine, data: RunData, model: NextTokenModel) -> None:
        self._run_dir = Path(config.run.dir)
        self._machine = machine
        self._splits = [data.shards, *([data.heldout] if data.heldout is not None else [])]
        self._steps, self._branch_from = data.timetable.steps, config.train.branch_from
        self._header = "\n".join(describe_run(config, machine, data, model))

    def after_load(self, state: State, logger: Logger) -> None:
        """Print and record; the checkpoint, if there is one, has been loaded."""
        if self._machine.is_leader:
            print(self._header, flush=True)
            append_to_log(self._run_dir, self._header)
        step = int(state.timestamp.batch)
        record_start(
            self._run_dir,
            self._machine,
            self._splits,
            from_step=step,
            steps=self._steps,
            branch_from=self._branch_from,
        )


def record_start(
    run_dir: Path,
    machine: Machine,
    splits: Sequence[Shards],
    *,
    from_step: int,
    steps: int,
    branch_from: str | None = None,
) -> None:
    """Record a start of the run; every rank calls, rank 0 writes.

    ``versions.json`` and ``data/<stream>/<split>/manifest.json`` are those of the first start and stay as they are.
    ``starts.jsonl`` gets a line for each: the same facts, when, on how many ranks, from which step, of how many,
    on data from where.

    Args:
        run_dir: The run's folder.
        machine: Device, precision and ranks.
        splits: The splits that are read.
        from_step: Steps that were trained before.
        steps: Steps of the whole run.
        branch_from: Checkpoint of the run that this one branches from.
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
        write_whole(run_dir / VERSIONS_NAME, json.dumps(facts, indent=2) + "\n")
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "steps": steps,
        "branch_from": branch_from,
        "data": {stream.key: stream.remote for shards in splits for stream in shards.streams},
        **facts,
    }
    append_whole(run_dir / STARTS_NAME, json.dumps(start) + "\n")
    for shards in splits:
        for stream in shards.streams:
            path = run_dir / DATA_DIR / (stream.name or "") / shards.split / MANIFEST_NAME
            if not path.is_file() or not from_step:
                write_whole(path, stream.manifest.to_json())


def _revision(project: Path) -> dict[str, Any]:
    """Git's revision of the program, and whether files differ from it; None where it was installed without git."""

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

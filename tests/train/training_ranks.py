"""Runs a training recipe as the ranks of a launcher would, with the slow imports done once and every rank forked.

Reads one job per line from stdin:

    {"world": 2, "nodes": false, "recipe": "meap_1b.py", "config": "run.yaml", "out": "folder", "faults": {},
     "environment": {}}                                                                      gives    {"pids": [1, 2]}
    {"wait": [1, 2]}                                                                         gives    {"exit": [0, -9]}

With ``nodes`` each rank is a node, with a working folder of its own. Faults are by rank, see `faults.py`. Each rank
leads a session, so that what it starts can be found when it is gone.

Each rank writes ``<out>/rank<R>.log`` (what it prints) and ``<out>/rank<R>.jsonl`` (ids and hashes of the masked rows
of each forward pass). A rank that is not done in time is killed by the kernel: a hang is a failure, never a wait.
"""

import meap.processes  # isort: skip  (before torch, as in every entry point: else the interpreter tears all down)

import gc
import hashlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # (imported for those who are forked)
from composer.utils.collect_env import get_composer_env_dict

from meap.config import RecipeConfig, run_command
from meap.train import attention, fitting, trainer  # noqa: F401 (imported for those who are forked)
from meap.train.model import NextTokenModel

sys.path.insert(0, str(Path(__file__).parent))
from faults import inject

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 200


def note_rows(path: Path) -> None:
    """Append what every forward pass is given to a file."""
    notes = path.open("a", buffering=1)

    def note(module: torch.nn.Module, given: Any) -> None:
        if isinstance(module, NextTokenModel) and "sample_id" in given[0]:  # not a trial before the start
            (batch,) = given
            hashes = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in batch["input_ids"]]
            notes.write(json.dumps(list(zip(batch["sample_id"].tolist(), hashes, strict=True))) + "\n")

    torch.nn.modules.module.register_module_forward_pre_hook(note)


def be_rank(job: dict[str, Any], rank: int, port: int) -> None:
    """Never returns."""
    os.setsid()
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    log = os.open(out / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    world, is_node = str(job["world"]), job["nodes"]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0" if is_node else str(rank), "WORLD_SIZE": world}
    os.environ |= {"NODE_RANK": str(rank) if is_node else "0", "LOCAL_WORLD_SIZE": "1" if is_node else world}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **job["environment"]}
    if is_node:
        node = out / f"node{rank}"
        node.mkdir()
        os.chdir(node)
    signal.alarm(SECONDS)
    note_rows(out / f"rank{rank}.jsonl")
    if (fault := job["faults"].get(str(rank))) is not None:
        inject(fault)
    tempfile.tempdir = None  # those who are forked have their own
    main = runpy.run_path(str(ROOT / "recipes" / job["recipe"]))["main"]
    meap.processes.leave(run_command, RecipeConfig, main, doc="", argv=[job["config"]])


def main() -> None:
    """Serve jobs until stdin ends."""
    torch.set_num_threads(1)
    get_composer_env_dict()  # every Trainer asks, which takes a second the first time
    gc.freeze()  # a collection in those who are forked would copy what it looks at
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in iter(sys.stdin.readline, ""):
        job = json.loads(line)
        if "wait" in job:
            ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in job["wait"]]
            answers.write(json.dumps({"exit": ended}) + "\n")
            continue
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = []
        for rank in range(job["world"]):
            if (pid := os.fork()) == 0:
                be_rank(job, rank, port)
            pids.append(pid)
        answers.write(json.dumps({"pids": pids}) + "\n")


if __name__ == "__main__":
    main()

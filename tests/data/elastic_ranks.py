"""Runs legs of a training run as the ranks of a launcher would, with the slow imports done once and every rank forked.

Reads one job per line from stdin, prints one line per finished job:

    {"world": 2, "workers": 1, "state": null, "steps": 5, "epochs": 2, "out": "folder", "seconds": 60, "config": {...}}
    {"exit": [0, 0]}

Each rank writes ``<out>/rank<R>.json``. A rank that is not done after `seconds` dumps its stack and is killed by the
kernel, and what it started dies with the leg's process group: a hang is a failure, never a wait.
"""

import atexit
import contextlib
import faulthandler
import hashlib
import json
import os
import signal
import sys
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

from meap.config import DataConfig, MaskingConfig, SftConfig, StreamConfig
from meap.data import build_loader, build_mask_rule, build_sft_loader, open_shards
from meap.manifest import CONVERSATIONS

SEED, GLOBAL_BATCH = 17, 8
CONTENT = ("input_ids", "position_ids", "segment_lengths", "num_targets")


def train(job: dict[str, Any], rank: int) -> dict[str, Any]:
    """Iterate as Composer does and note what a step saw: Composer counts batches, and asks rank 0 for the state."""
    streams = {name: StreamConfig(**stream) for name, stream in job["config"].get("streams", {}).items()}
    data = DataConfig(**job["config"] | {"streams": streams}, num_workers=job["workers"])
    shards = open_shards(data, "train", kind=None)
    is_sft = shards.streams[0].manifest.kind == CONVERSATIONS
    loader = (partial(build_sft_loader, sft=SftConfig()) if is_sft else build_loader)(
        data,
        shards,
        rule=build_mask_rule(MaskingConfig(ratio=0.25), shards.tokenizer, seed=SEED),
        seed=SEED,
        global_batch_size=GLOBAL_BATCH,
        world_size=job["world"],
        cache_dir=Path(job["out"], "cache"),
        shuffle=True,
    )
    dataset: Any = loader.dataset
    epoch, batch_in_epoch = job["state"]["trainer"] if job["state"] else (0, 0)
    if job["state"]:
        dataset.load_state_dict(job["state"]["dataset"])
    steps, states, boundaries = [], [], []
    while len(steps) < job["steps"] and epoch < job["epochs"]:
        for batch in loader:
            batch_in_epoch += 1
            ids = batch["sample_id"].tolist()
            columns = [batch[name] for name in CONTENT if name in batch]
            hashes = [digest(row) for row in zip(*columns, strict=True)]
            steps.append({"epoch": epoch, "samples": list(zip(ids, hashes, strict=True))})
            state = dataset.state_dict(batch_in_epoch * GLOBAL_BATCH, True)
            states.append({"trainer": (epoch, batch_in_epoch), "dataset": state})
            if len(steps) == job["steps"]:
                break
        else:
            epoch, batch_in_epoch = epoch + 1, 0
            # What a checkpoint at the end of an epoch would hold, as with an interval of 1ep.
            boundaries.append({"trainer": (epoch, 0), "dataset": dataset.state_dict(0, True)})
    return {"steps": steps, "states": states, "boundaries": boundaries}


def digest(row: tuple[Any, ...]) -> str:
    content = b"".join(each.numpy().tobytes() if torch.is_tensor(each) else repr(each).encode() for each in row)
    return hashlib.sha256(content).hexdigest()[:16]


def run_rank(job: dict[str, Any], rank: int) -> None:
    world, out = job["world"], Path(job["out"])
    signal.alarm(job["seconds"])
    faulthandler.dump_traceback_later(job["seconds"] - 2)
    environment = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "NODE_RANK": 0}
    os.environ |= {name: str(value) for name, value in environment.items()}
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{out}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=job["seconds"]),
    )
    result = train(job, rank)
    (out / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.barrier()  # the first to leave takes the shared memory with it


def run_job(job: dict[str, Any]) -> list[int]:
    """Exit statuses of the ranks."""
    group, pids = 0, []
    for rank in range(job["world"]):
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, group)
            status = 1
            try:
                run_rank(job, rank)
                status = 0
            except BaseException:  # noqa: BLE001 (the status tells the parent)
                traceback.print_exc()
            finally:
                atexit._run_exitfuncs()
                os._exit(status)
        group = group or pid
        with contextlib.suppress(OSError):  # it was quicker
            os.setpgid(pid, group)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return statuses


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps({"exit": run_job(json.loads(line))}), flush=True)

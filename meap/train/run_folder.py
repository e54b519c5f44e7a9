"""The folder of a run: its resolved configuration, metrics and checkpoints; guards a resumed run against changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from meap.config import TrainingConfig, load_resolved, save_config
from meap.errors import MismatchError

__all__ = ["CONFIG_NAME", "METRICS_NAME", "open_run"]

CONFIG_NAME = "config.yaml"
METRICS_NAME = "metrics.jsonl"

# A resumed run must be the same run: these keys decide its order of samples, its masks, its weights or its updates.
_FIXED = (
    "run.seed",
    "tokenizer",
    "data.remote",
    "data.streams",
    "data.seq_len",
    "data.num_canonical_nodes",
    "data.shuffle",  # also its algorithm and block size
    "data.sampling_method",
    "data.batching_method",
    "masking",
    "sft",
    "model",
    "optimizer",
    "scheduler",
    "train.global_batch_size",
)


def open_run(config: TrainingConfig, *, is_leader: bool) -> Path:
    """Create the run's folder and store the configuration; refuse to continue a run under other settings.

    Args:
        config: The whole configuration.
        is_leader: Whether this process writes; the others only learn the path.

    Raises:
        MismatchError: The folder holds a run with another value of a key that must not change.
    """
    folder = Path(config.run.dir)
    if not is_leader:
        return folder
    stored = folder / CONFIG_NAME
    # A run that never finished a step has nothing to contradict.
    if stored.is_file() and (folder / METRICS_NAME).is_file():
        before, now = _flat(load_resolved(TrainingConfig, stored)), _flat(config)
        for key in sorted(now.keys() | before.keys()):
            was, given = before.get(key), now.get(key)
            if was == given:
                continue
            if key.startswith(_FIXED):
                raise MismatchError(
                    f"{folder} holds a run with {key}={was}, not {given}: "
                    "give this run another run.name, or delete the folder"
                )
            print(f"continuing {folder} with {key}={given} (was {was})", flush=True)
    save_config(config, stored)
    return folder


def _flat(config: TrainingConfig) -> dict[str, Any]:
    def leaves(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from leaves(cast("dict[str, Any]", value), f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(leaves(cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.structured(config))), ""))

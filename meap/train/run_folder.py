"""The folder of a run: its resolved configuration, metrics and checkpoints; guards a resumed run against changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from meap.config import TrainingConfig, from_values, load_resolved, save_config, to_values
from meap.errors import MismatchError
from meap.train.resuming import newest_record

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
        MismatchError: The run's newest checkpoint, or its folder, has another value of a key that must not change.
        CheckpointError: The folder or store of checkpoints cannot be read.
    """
    folder = Path(config.run.dir)
    if not is_leader:
        return folder
    stored = folder / CONFIG_NAME
    if (found := _settings_before(config, folder)) is not None:
        place, before = found
        _require_same_run(place, _flat(before), _flat(config))
    save_config(config, stored)
    return folder


def _settings_before(config: TrainingConfig, folder: Path) -> tuple[str, TrainingConfig] | None:
    """Those of the newest checkpoint, which this run would continue; else those that the run's folder holds."""
    record = newest_record(config.checkpoint.folder) if config.checkpoint.autoresume else None
    if record is not None:
        place = f"{config.checkpoint.folder}/{record.name}"
        return place, from_values(TrainingConfig, record.config, origin=place)
    stored = folder / CONFIG_NAME
    # A run that never finished a step has nothing to contradict.
    if not (stored.is_file() and (folder / METRICS_NAME).is_file()):
        return None
    print(f"there is no checkpoint in {config.checkpoint.folder}: {folder} begins at step 0", flush=True)
    return str(folder), load_resolved(TrainingConfig, stored)


def _require_same_run(place: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in sorted(now.keys() | before.keys()):
        was, given = before.get(key), now.get(key)
        if was == given:
            continue
        if key.startswith(_FIXED):
            raise MismatchError(
                f"{place} holds a run with {key}={was}, not {given}: "
                "give this run another run.name, or delete the folder"
            )
        print(f"continuing {place} with {key}={given} (was {was})", flush=True)


def _flat(config: TrainingConfig) -> dict[str, Any]:
    def leaves(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from leaves(cast("dict[str, Any]", value), f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(leaves(to_values(config), ""))

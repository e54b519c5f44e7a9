"""The folder of a run: its log, and what of its settings must not change when it resumes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from meap.checkpoints import newest_record
from meap.checkpoints.reading import read_record, recorded_config
from meap.config import RecipeConfig, Role, flatten, from_values, load_resolved, role_of, to_values
from meap.errors import MismatchError
from meap.places.whole import append_whole
from meap.run_files import CONFIG_NAME, LOG_NAME, METRICS_NAME

__all__ = ["append_to_log", "require_same_settings"]

_STREAM = re.compile(r"data\.streams\.([^.]+)\.")
_REMEDIES = {
    "model.base": "a run that resumes takes its weights from its checkpoints, and does not read its base again: leave "
    "model.base as it was",
}
_OTHER_RUN = "give this run another run.name, or delete the folder"
_OF_BRANCH = (
    "of what decides the result, a branch may change keys of masking and scheduler alone, but not "
    "masking.reversed_ratio, which adds a token: leave it as it was, or train anew, without train.branch_from"
)
_FREE_IN_BRANCH = ("masking.", "scheduler.", "train.branch_from")
_EFFECTS = {"train.max_duration": "; schedules that go by the length of the run are stretched to it"}
_NO_WARM_UP = "; not read, as a branch begins at the peak"
_EFFECTS_IN_BRANCH = {"scheduler.warmup_duration": _NO_WARM_UP, "scheduler.warmup_ratio": _NO_WARM_UP}


def append_to_log(run_dir: Path, text: str) -> None:
    """Append to the log in the run's folder."""
    append_whole(run_dir / LOG_NAME, f"{text}\n")


def require_same_settings(config: RecipeConfig) -> None:
    """Refuse to continue a run under other settings; what may change is logged. Writes nothing.

    Raises:
        MismatchError: The run's newest checkpoint or its folder, or the checkpoint that it branches from, has another
            value of a key that must not change.
        CheckpointError: The folder or store of checkpoints cannot be read.
    """
    branch_from, free = config.train.branch_from, ()
    found = _settings_before(config)
    if found is None and branch_from is not None:
        record = read_record(branch_from, key="train.branch_from")
        found, free = (branch_from, recorded_config(record, branch_from)), _FREE_IN_BRANCH
    if found is not None:
        place, before = found
        _require_same_run(place, flatten(to_values(before)), flatten(to_values(config)), free=free)


def _settings_before(config: RecipeConfig) -> tuple[str, RecipeConfig] | None:
    """Those of the newest checkpoint, which this run would continue; else those that the run's folder holds."""
    record = newest_record(config.checkpoint.folder) if config.checkpoint.autoresume else None
    if record is not None:
        place = f"{config.checkpoint.folder}/{record.name}"
        return place, from_values(RecipeConfig, record.config, origin=place)
    folder = Path(config.run.dir)
    stored = folder / CONFIG_NAME
    # A run that never finished a step constrains nothing.
    if not (stored.is_file() and (folder / METRICS_NAME).is_file()):
        return None
    print(f"there is no checkpoint in {config.checkpoint.folder}: {folder} begins at step 0", flush=True)
    return str(folder), load_resolved(RecipeConfig, stored)


def _require_same_run(place: str, before: dict[str, Any], now: dict[str, Any], *, free: tuple[str, ...] = ()) -> None:
    """Refuse what would make it another run, and log other changes; rows are compared when they are opened.

    Args:
        place: Where the run is.
        before: Its settings.
        now: Those given.
        free: What keys may begin with that a branch may change; empty for a run that resumes.
    """
    verb = "branching from" if free else "continuing"
    if (was := _streams(before)) != (given := _streams(now)):
        raise MismatchError(
            f"{place} holds a run on {was}, not on {given}: a stream cannot come, go or change its name, by which rows "
            "are numbered and masked; give this run another run.name, or delete the folder"
        )
    for key in sorted(now.keys() | before.keys()):
        was, given = before.get(key), now.get(key)
        role = role_of(key)
        if key == "model.base" and now.get("lora.rank"):
            role = Role.SOURCE  # it is read again, and known by its fingerprint
        if was == given or (role is Role.SOURCE and key.startswith("data.")):
            continue
        if free and (role is Role.PLACE or key == "train.branch_from"):
            continue  # it is what makes the branch
        if role is Role.RESULT and (not key.startswith(free) or key == "masking.reversed_ratio"):
            remedy = _OF_BRANCH if free else _REMEDIES.get(key, _OTHER_RUN)
            raise MismatchError(f"{place} holds a run with {key}={was}, not {given}: {remedy}")
        effect = (_EFFECTS_IN_BRANCH if free else _EFFECTS).get(key, "")
        print(f"{verb} {place} with {key}={given} (was {was}){effect}", flush=True)


def _streams(flat: dict[str, Any]) -> str:
    names = sorted({found[1] for found in map(_STREAM.match, flat) if found})
    return f"data.streams {', '.join(names)}" if names else "data.remote alone"

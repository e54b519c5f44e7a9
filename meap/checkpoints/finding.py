"""Finds the newest whole checkpoint of a run."""

from __future__ import annotations

import re
from pathlib import Path

from meap.checkpoints.store import CheckpointStore, DamagedError, checkpoint_name
from meap.errors import CheckpointError

__all__ = ["find_checkpoint", "require_checkpoint", "require_checkpoint_at", "store_and_step"]

_STEP = re.compile(r"ba(\d+)(\.pt)?")
_MOST_NAMED = 10


def find_checkpoint(folder: str, *, key: str = "checkpoint.folder") -> str:
    """Path or URL of the newest whole checkpoint in `folder`; prints a line about each damaged one.

    Every byte of a local checkpoint is verified. Behind a URL only sizes are compared, since nothing is downloaded yet.

    Raises:
        CheckpointError: No checkpoint is whole, or the folder cannot be read.
    """
    store = CheckpointStore(folder, key=key)
    steps = store.steps()
    for step in steps:
        if problem := _problem_of(store, step):
            print(f"checkpoint {store.location}/ba{step} is damaged ({problem}): the one before it is used", flush=True)
        else:
            return f"{store.location}/{store.record(step).name}"
    raise _none_whole(f"{key}={folder}", num_records=len(steps))


def require_checkpoint(folder: str) -> None:
    """Raise `CheckpointError` unless `folder` holds a checkpoint record; no checkpoint is read."""
    if not CheckpointStore(folder).steps():
        raise _none_whole(f"checkpoint.folder={folder}", num_records=0)


def require_checkpoint_at(location: str, *, key: str = "export.checkpoint") -> None:
    """Raise `CheckpointError` if nothing of a checkpoint is at `location`, and name those beside it; none is read."""
    store, step = store_and_step(location, key=key)
    if store.holds(step):
        return
    nearest = sorted(store.steps(), key=lambda each: abs(each - step))
    named = ", ".join(map(checkpoint_name, sorted(nearest[:_MOST_NAMED])))
    more = f" and {len(nearest) - _MOST_NAMED} more" if len(nearest) > _MOST_NAMED else ""
    remedy = f"choose from {named}{more} in {store.location}" if nearest else "there is none at all, correct the path"
    raise CheckpointError(f"{key}={location} does not exist: {remedy}")


def store_and_step(location: str, *, key: str = "export.checkpoint") -> tuple[CheckpointStore, int]:
    """The store of the checkpoint at `location`, and its step.

    Raises:
        CheckpointError: It has another name than checkpoints have.
    """
    parent, _, name = location.rstrip("/").rpartition("/")
    step = _STEP.fullmatch(name)
    if step is None:
        raise CheckpointError(f"{key}={location} is not called ba<step>.pt or ba<step>: give one that a run wrote")
    return CheckpointStore(parent or ("/" if location.startswith("/") else "."), key=key), int(step[1])


def _none_whole(place: str, *, num_records: int) -> CheckpointError:
    return CheckpointError(
        f"{place} holds no whole checkpoint (of {num_records} with a record, ba<step>.json): train first, or give the "
        "path of a checkpoint, ba<step>.pt or ba<step>"
    )


def _problem_of(store: CheckpointStore, step: int) -> str:
    try:
        record = store.record(step)
        if store.is_remote:
            store.require_sizes(record)
        else:
            store.fetch(record, Path(store.location))
    except DamagedError as error:
        return str(error)
    return ""

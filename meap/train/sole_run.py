"""One run at a time in a folder: two would resume from, log beside and delete what the other writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from meap.checkpoints import CheckpointStore
from meap.config import RecipeConfig
from meap.data.ranks import gather_from_ranks
from meap.errors import ConfigError
from meap.places.locks import NoLocksError, describe_holder, lock_in_time
from meap.places.problems import place_errors

__all__ = ["sole_run"]


@contextmanager
def sole_run(config: RecipeConfig, *, is_leader: bool) -> Iterator[None]:
    """Hold `run.dir` and a local `checkpoint.folder` within the block; every rank calls.

    The kernel releases them when rank 0 ends in any way. Where a file system has no locks, nobody is kept out.

    Args:
        config: The whole configuration.
        is_leader: Whether this is rank 0, which holds them for all ranks.

    Raises:
        ConfigError: Another run holds one of them, or it cannot be written.
    """
    places, store = {Path(config.run.dir).resolve(): "run.dir"}, CheckpointStore(config.checkpoint.folder)
    if not store.is_remote:
        places.setdefault(Path(store.location).resolve(), "checkpoint.folder")
    with ExitStack() as held:
        problem = ""
        try:
            for folder, key in places.items() if is_leader else ():
                held.enter_context(_held(folder, key))
        except ConfigError as error:  # a rank that raises alone leaves the others waiting
            problem = str(error)
        if problem := gather_from_ranks(problem)[0]:
            raise ConfigError(problem)
        yield


@contextmanager
def _held(folder: Path, key: str) -> Iterator[None]:
    path, was_there, handle = folder / ".in_use", folder.exists(), None
    try:
        with place_errors(f"{key}={folder}", cannot_be="written", kind=ConfigError):
            handle = _lock(path, f"{key}={folder}", f"give each run its own {key}")
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)
        if not was_there:
            with suppress(OSError):  # the run has written there
                folder.rmdir()


def _lock(path: Path, place: str, remedy: str) -> int | None:
    try:
        handle = lock_in_time(path)
    except NoLocksError:
        path.unlink(missing_ok=True)
        return None
    if handle is None:
        raise ConfigError(f"{place} is in use by {describe_holder(path)}: wait until that has ended, or {remedy}")
    return handle

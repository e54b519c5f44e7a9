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
from meap.processes import wait_with_ranks

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
    with ExitStack() as held:
        problem = ""
        try:
            for folder, key in _places(config).items() if is_leader else ():
                held.enter_context(_held(folder, key, patience=config.train.dist_timeout / 4))
        except ConfigError as error:  # a rank that raises alone leaves the others waiting
            problem = str(error)
        if problem := wait_with_ranks(lambda: gather_from_ranks(problem))[0]:
            raise ConfigError(problem)
        yield


def _places(config: RecipeConfig) -> dict[Path, str]:
    """The folders that are held, each once, and their keys."""
    places, store = {_resolved(config.run.dir, "run.dir"): "run.dir"}, CheckpointStore(config.checkpoint.folder)
    if not store.is_remote:
        folder = _resolved(store.location, "checkpoint.folder")
        if not any(_are_one(folder, other) for other in places):
            places[folder] = "checkpoint.folder"
    return places


def _are_one(folder: Path, other: Path) -> bool:
    """Also where one is mounted at two places."""
    try:
        return folder == other or folder.samefile(other)
    except OSError:  # one is not there yet
        return False


def _resolved(folder: str, key: str) -> Path:
    try:
        return Path(folder).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle, with this or that version of Python
        raise ConfigError(f"{key}={folder} cannot be resolved ({error}): choose another folder") from error


@contextmanager
def _held(folder: Path, key: str, *, patience: float) -> Iterator[None]:
    path, was_there, handle = folder / ".in_use", folder.exists(), None
    try:
        with place_errors(f"{key}={folder}", cannot_be="written", kind=ConfigError):
            handle = _lock(path, f"{key}={folder}", f"give each run its own {key}", patience=patience)
        yield
    finally:
        is_ours = handle is None
        if handle is not None:
            with suppress(OSError):  # the folder was removed, which NFS calls a stale handle
                # Else it was made again, and is another run's now.
                is_ours = os.path.samestat(path.stat(), os.fstat(handle))
                if is_ours:
                    path.unlink()
            os.close(handle)
        if is_ours and not was_there:
            with suppress(OSError):  # the run has written there
                folder.rmdir()


def _lock(path: Path, place: str, remedy: str, *, patience: float) -> int | None:
    try:
        handle = lock_in_time(path, patience=patience)
    except NoLocksError:
        path.unlink(missing_ok=True)
        return None
    if handle is None:
        raise ConfigError(f"{place} is in use by {describe_holder(path)}: wait until that has ended, or {remedy}")
    return handle

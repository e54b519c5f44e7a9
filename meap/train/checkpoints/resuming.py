"""Where a run resumes: the newest intact checkpoint, the same for all ranks and fetched once per node."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

from composer.utils import dist

from meap.checkpoints import CheckpointRecord, CheckpointStore, DamagedError, MissingError, ModelRecord, newest_record
from meap.checkpoints.finding import store_and_step
from meap.checkpoints.reading import read_record
from meap.config import RecipeConfig, from_values
from meap.config.sharding import spreading_modes
from meap.data import Shards
from meap.errors import CheckpointError, ConfigError, MeapError, MismatchError
from meap.places.whole import remove_drafts
from meap.train.checkpoints.writing import STAGING_NAME, local_folder
from meap.train.optim import build_schedule
from meap.train.timetable import Timetable

__all__ = ["ResumePoint", "find_resume_point", "model_to_continue"]

ResultT = TypeVar("ResultT")

_SHARED_SECONDS = 10.0
"""A file of one node may take a moment to appear on others."""


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint on this machine's disk, every byte of it verified."""

    path: Path
    record: CheckpointRecord
    is_branch: bool = False
    """Whether it is of another run, that of `train.branch_from`."""


def model_to_continue(config: RecipeConfig, shards: Shards) -> ModelRecord | None:
    """The model of a run that resumes or branches, by the record there; None if it starts. Every rank calls.

    Its rows must be those of `shards`, wherever they are now; a changed address is logged.

    Raises:
        ConfigError: It branches where the learning rate is not at its peak.
        MismatchError: The run has been trained on other rows.
        CheckpointError: The folder or store of checkpoints cannot be read.
    """

    def look() -> ModelRecord | None:
        record = newest_record(config.checkpoint.folder) if config.checkpoint.autoresume else None
        place = f"{config.checkpoint.folder}/{record.name}" if record is not None else config.train.branch_from
        if place is None:
            return None
        is_branch = record is None
        record = record or read_record(place, key="train.branch_from")
        _require_same_rows(place, record.data, shards.identity)
        recorded = from_values(RecipeConfig, record.config, origin=place)
        if is_branch:
            _require_peak(place, recorded, record.step, shards)
        before = _addresses(recorded)
        for key, given in _addresses(config).items():
            if key in shards.identity and given != before[key]:
                print(f"continuing {place} with {key}={given} (was {before[key]}), same rows", flush=True)
        return record.model

    return _on_leader(look)


def find_resume_point(config: RecipeConfig, run_dir: Path) -> ResumePoint | None:
    """The newest intact checkpoint, that which a branch begins with, or None where there is neither; every rank calls.

    A damaged one is logged, and the one before it is used. Half-written files of killed runs are deleted.

    Args:
        config: The whole configuration.
        run_dir: The run's folder.

    Raises:
        CheckpointError: There are checkpoints but none is intact, the store cannot be read, or the kind does not fit.
        ConfigError: `checkpoint.autoresume` is off but the folder has checkpoints; or nodes do not share the folder.
    """
    store, copies = CheckpointStore(config.checkpoint.folder), local_folder(config, run_dir)
    if dist.get_local_rank() == 0:
        shutil.rmtree(copies / STAGING_NAME, ignore_errors=True)
    if not store.is_remote:
        _require_shared(copies)
    if dist.get_global_rank() == 0:  # before any node fetches
        remove_drafts(copies)
    steps = _on_leader(store.steps)
    if steps and not config.checkpoint.autoresume:
        raise ConfigError(
            f"checkpoint.autoresume=false, but {store.location} holds checkpoints up to ba{steps[0]}: set "
            "checkpoint.autoresume=true to continue, or choose another run.name or checkpoint.folder to start anew"
        )
    for step in steps:
        point, problem = _fetched(store, step, copies)
        if point is not None:
            _require_loadable(config, point.record)
            _say(f"resumes    from {store.location}/{point.record.name}, step {step:,} (epoch {point.record.epoch})")
            return point
        _say(f"checkpoint {store.location}/ba{step} is damaged ({problem}): the one before it is used")
    if steps:
        raise CheckpointError(
            f"none of the {len(steps)} checkpoints in {store.location} is whole: restore one from a copy, or delete "
            "them to start anew"
        )
    return _branch_point(config, config.train.branch_from, run_dir) if config.train.branch_from else None


def _branch_point(config: RecipeConfig, branch_from: str, run_dir: Path) -> ResumePoint:
    store, step = store_and_step(branch_from, key="train.branch_from")
    point, problem = _fetched(store, step, run_dir / "cache" / "branch")
    if point is None:
        raise CheckpointError(f"train.branch_from={branch_from} is damaged ({problem}): give another checkpoint")
    _require_loadable(config, point.record)
    _say(f"branches   from {branch_from}, step {point.record.step:,} (epoch {point.record.epoch})")
    return replace(point, is_branch=True)


def _fetched(store: CheckpointStore, step: int, copies: Path) -> tuple[ResumePoint | None, str]:
    """The checkpoint, fetched on every node; or what is wrong with it on one of them."""
    several_nodes = dist.get_world_size() > dist.get_local_world_size()
    until = time.monotonic() + (_SHARED_SECONDS if several_nodes and not store.is_remote else 0.0)

    def fetch() -> tuple[CheckpointRecord | None, Path | None, str]:
        while True:
            try:
                record = store.record(step)
                return record, store.fetch(record, copies), ""
            except DamagedError as error:
                if not isinstance(error, MissingError) or time.monotonic() > until:
                    return None, None, str(error)
            time.sleep(0.5)

    found = _on_node_leaders(fetch)
    for _, _, problem in found:
        if problem:
            return None, problem
    record, path, _ = found[0]
    assert record is not None
    assert path is not None
    return ResumePoint(path.resolve(), record), ""


def _on_leader(act: Callable[[], ResultT]) -> ResultT:
    """The result of rank 0, or its error, on every rank."""
    return cast("ResultT", _everyone(act if dist.get_global_rank() == 0 else None)[0])


def _on_node_leaders(act: Callable[[], ResultT]) -> list[ResultT]:
    """The results of the first rank of each node, or the error of one of them, on every rank."""
    return [each for each in _everyone(act if dist.get_local_rank() == 0 else None) if each is not None]


def _everyone(act: Callable[[], ResultT] | None) -> list[ResultT | None]:
    result, problem = None, None
    try:
        result = act() if act is not None else None
    except MeapError as error:
        problem = error
    outcomes = dist.all_gather_object((result, problem))
    for _, each in outcomes:
        if each is not None:
            raise each
    return [each for each, _ in outcomes]


def _require_shared(folder: Path) -> None:
    """Refuse a local folder that other nodes do not see: they could not resume from what rank 0 writes."""
    if dist.get_world_size() == dist.get_local_world_size():
        return
    probe = folder / f".probe-{_on_leader(lambda: uuid.uuid4().hex)}"

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()

    def look() -> bool:
        deadline = time.monotonic() + _SHARED_SECONDS
        while not probe.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        return probe.exists()

    _on_leader(write)
    is_seen = _on_node_leaders(look)
    if dist.get_global_rank() == 0:
        probe.unlink(missing_ok=True)
    if not all(is_seen):
        raise ConfigError(
            f"checkpoint.folder={folder} is a local folder that {is_seen.count(False)} of {len(is_seen)} nodes do not "
            "see: choose a folder on a file system that all nodes share, or a URL (s3://...)"
        )


def _require_loadable(config: RecipeConfig, record: CheckpointRecord) -> None:
    if record.kind == "sharded" and not config.train.sharding_mode.spreads_weights:
        raise CheckpointError(
            f"checkpoint {record.name} is sharded, but train.sharding={config.train.sharding}: set train.sharding="
            f"{spreading_modes()} to resume from it, on any number of devices"
        )


def _require_peak(place: str, config: RecipeConfig, step: int, shards: Shards) -> None:
    """Refuse a checkpoint from the warm-up or the decay of its run, from where no rate could go on."""
    factor = build_schedule(config.scheduler, Timetable.of(config, shards)).factor(step)
    if factor != 1.0:
        raise ConfigError(
            f"train.branch_from={place}: its run has {factor:.2f} of the peak learning rate at step {step:,}, with "
            f"scheduler.schedule={config.scheduler.schedule}: branch where the rate is at its peak, of a run with "
            "scheduler.schedule=constant or wsd, after its warm-up"
        )


def _require_same_rows(place: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Rows are compared by content: data may have moved, or been prepared anew at the same address."""
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise MismatchError(
                f"{place} has been trained on {before.get(key, 'no rows')} of {key}, which now holds "
                f"{now.get(key, 'none')}: give the same data, wherever it is now, or give this run another run.name"
            )


def _addresses(config: RecipeConfig) -> dict[str, str]:
    streams = {f"data.streams.{name}.remote": stream.remote for name, stream in config.data.streams.items()}
    return {"data.remote": config.data.remote, **streams}


def _say(line: str) -> None:
    if dist.get_global_rank() == 0:
        print(line, flush=True)

"""Passes over the whole corpus before the one that writes shards; a rerun does not repeat a finished one.

A task of a stage writes a record when everything it wrote is in place. A record names the files with their sizes, and
is valid only while they exist. A rerun runs the tasks without a valid record, and overwrites what a killed task left.
The job's identity covers the configuration: a folder that was begun with another one is refused before.

    <remote>/.prep/dedup/{done/<stage>/TTTTT.json, logs, ...}            removed before the data set is published
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from datatrove.pipeline.base import PipelineStep

from meap.errors import IncompleteError
from meap.json_text import parse_json
from meap.places.folder import Folder
from meap.prep.executors import build_executor
from meap.prep.job import Job
from meap.prep.live import Progress
from meap.prep.progress import Tally
from meap.prep.resolved import ResolvedPrep
from meap.prep.task_records import PREP_DIR

__all__ = ["WORK_DIR", "FinishStage", "Stage", "StartStage", "run_stage"]

WORK_DIR = f"{PREP_DIR}/dedup"
"""Folder below the output for everything that stages write."""


@dataclass(frozen=True)
class Stage:
    """One pass."""

    name: str
    about: str
    """What it does, for the console."""
    tasks: int
    written: tuple[str, ...]
    """Patterns of the files below `WORK_DIR` that a task writes; ``{task}`` is its number, ``*`` any name."""
    steps: Callable[[Tally], list[PipelineStep]]
    """Makes the steps; the first starts the tally, and `FinishStage` is added as the last."""
    reads_documents: bool = False
    """Whether each of its tasks reads the files of that task of the job."""


@dataclass(frozen=True)
class _StageTasks:
    """The tasks of a stage, as an executor knows them."""

    job: Job[ResolvedPrep]
    stage: Stage
    completed: frozenset[int]
    progress: Progress
    tally: Tally

    @property
    def config(self) -> Any:
        return self.job.config

    @property
    def folder(self) -> Folder:
        return self.job.folder

    @property
    def num_tasks(self) -> int:
        return self.stage.tasks

    @property
    def num_workers(self) -> int:
        return min(self.job.num_workers, self.stage.tasks)

    @property
    def logging_dir(self) -> str:
        return f"{self.job.logging_dir}/dedup/logs/{self.stage.name}"

    def records(self) -> frozenset[int]:
        return _completed(self.stage, self.job.folder)


class StartStage(PipelineStep):
    """Starts the tally of a task that reads no documents."""

    type = "STAGE"
    name = "start"

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:  # type: ignore[override]
        """Start it, and raise the limit of open files as far as allowed: datatrove opens one per task at once."""
        del data, world_size
        self.tally.start(rank)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class FinishStage(PipelineStep):
    """Writes the record of a task of a stage."""

    type = "STAGE"
    name = "record"

    def __init__(self, folder: Folder, tally: Tally, stage: str, written: tuple[str, ...]) -> None:
        super().__init__()
        self.folder = folder
        self.tally = tally
        self.stage = stage
        self.written = written

    def run(  # type: ignore[override]  # the last step yields nothing
        self, data: Iterable[Any] | None, rank: int = 0, world_size: int = 1
    ) -> None:
        """Run the steps before to their end, then write the record."""
        del world_size
        for _ in data or ():
            pass
        sizes: dict[str, int] = {}
        for pattern in self.written:
            sizes |= _sizes_of(self.folder, pattern.format(task=f"{rank:05d}"))
        self.folder.write(_record_name(self.stage, rank), json.dumps({"files": sizes}, sort_keys=True).encode())
        self.tally.finish()


def run_stage(stage: Stage, job: Job[ResolvedPrep]) -> None:
    """Run the tasks of a stage that are not completed.

    Raises:
        IncompleteError: Some of its tasks are still not complete.
    """
    completed = _completed(stage, job.folder)
    if len(completed) == stage.tasks:
        return
    print(f"{stage.about}: {stage.tasks - len(completed)} of {stage.tasks} tasks to do", file=sys.stderr, flush=True)
    sizes = job.inputs.sizes if stage.reads_documents else ()
    done_files = [number for task in completed for number in job.inputs.of_task(task, stage.tasks)] if sizes else []
    progress = Progress(
        job.progress.folder,
        tasks=stage.tasks,
        completed=completed,
        total_bytes=sum(sizes),
        done_bytes=sum(sizes[number] for number in done_files),
        interval=job.config.progress_interval,
        title=stage.about,
    )
    progress.announces_bad_lines = False  # the last pass does
    tally = Tally(job.progress.folder, interval=job.tally.interval)
    steps = [*stage.steps(tally), FinishStage(job.folder, tally, stage.name, stage.written)]
    executor = build_executor(steps, _StageTasks(job, stage, completed, progress, tally))
    with progress.shown():
        executor.run()
    if missing := sorted(set(range(stage.tasks)) - _completed(stage, job.folder)):
        raise IncompleteError(
            f"{job.folder.url}: task {missing[0]} and {len(missing) - 1} more of {stage.tasks} of the stage "
            f"{stage.name} are not complete: run the same command again"
        )


def _completed(stage: Stage, folder: Folder) -> frozenset[int]:
    names = [_record_name(stage.name, task) for task in range(stage.tasks)]
    contents = folder.read_all(names)
    if not contents:
        return frozenset()
    sizes: dict[str, int] = {}
    for pattern in stage.written:
        sizes |= folder.matching(f"{WORK_DIR}/{pattern.format(task='*')}")
    return frozenset(
        task for task, name in enumerate(names) if name in contents and _is_in_place(contents[name], sizes)
    )


def _sizes_of(folder: Folder, pattern: str) -> dict[str, int]:
    """Bytes of the files of one task, by name.

    Where it has a file of one name in each of several folders, as all tasks have, nothing of the others is listed: with
    thousands of tasks that would be most of the work.
    """
    parents, _, name = pattern.rpartition("/*/")
    if not parents or "*" in name:
        return folder.matching(f"{WORK_DIR}/{pattern}")
    within = Folder(folder.url_of(f"{WORK_DIR}/{parents}"))
    names = [f"{WORK_DIR}/{parents}/{each}/{name}" for each in within.subfolders()]
    return {each: size for each in names if (size := folder.size(each)) is not None}


def _record_name(stage: str, task: int) -> str:
    return f"{WORK_DIR}/done/{stage}/{task:05d}.json"


def _is_in_place(record: bytes, sizes: dict[str, int]) -> bool:
    try:
        return all(sizes.get(name) == size for name, size in parse_json(record)["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False

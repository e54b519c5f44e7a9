"""A job: what is prepared from which files, where to, and which of its tasks are done."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from meap.config.executors import ExecutorConfig
from meap.config.prep import SftPrepConfig
from meap.manifest import CONVERSATIONS, ROWS
from meap.places.folder import Folder
from meap.prep.claims import Claim
from meap.prep.inputs import InputFiles
from meap.prep.live import Progress
from meap.prep.progress import Tally
from meap.prep.resolved import ResolvedJob
from meap.prep.task_records import PREP_DIR, TASKS_DIR, TaskRecord, task_record_name
from meap.tokenizer import Tokenizer

__all__ = ["ConfigT_co", "Job", "output_config", "valid_records"]

_NOT_IN_OUTPUT = {"remote", "engine", "id_key", *(item.name for item in dataclasses.fields(ExecutorConfig))}
"""Keys that do not affect the output."""
_ONLY_WHEN_ENABLED = ("filters", "dedup")
"""Sections that do not affect the output while they are off."""

ConfigT_co = TypeVar("ConfigT_co", bound=ResolvedJob, covariant=True)


@dataclass(frozen=True)
class Job(Generic[ConfigT_co]):
    """A preparation whose output folder is claimed."""

    config: ConfigT_co
    identity: str
    """Hash of what decides the output, see `meap.prep.identity`; task records and manifests carry it."""
    inputs: InputFiles
    tokenizer: Tokenizer
    folder: Folder
    scratch_dir: Path
    """Local folder of the command, removed when it ends."""
    completed: frozenset[int]
    """Tasks that an earlier command has finished."""
    place: Claim
    """Hold on the output folder."""
    is_published: bool
    """Whether an earlier command has finished the data set."""
    progress: Progress
    tally: Tally
    """What the steps count into."""

    @property
    def kind(self) -> str:
        """What rows hold, see `meap.manifest`."""
        return CONVERSATIONS if isinstance(self.config, SftPrepConfig) else ROWS

    @property
    def num_tasks(self) -> int:
        """Tasks of the whole job."""
        return self.config.tasks

    @property
    def num_workers(self) -> int:
        """Tasks to run at the same time."""
        if not self.config.runs_here:
            return min(self.config.workers or self.num_tasks, self.num_tasks)
        # The cores this process may use, which a scheduler may have made fewer than there are.
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.config.workers or num_cores, self.num_tasks)

    @property
    def logging_dir(self) -> str:
        """Where datatrove puts its folders logs, stats and completions."""
        return str(self.folder.local_path(PREP_DIR)) if self.folder.is_local else self.folder.url_of(PREP_DIR)

    @cached_property
    def final_records(self) -> dict[int, TaskRecord]:
        """The same once all tasks have run, read once."""
        return self.records()

    def records(self) -> dict[int, TaskRecord]:
        """Records of the tasks whose shards are all in place, by task."""
        return valid_records(self.folder, self.identity, self.num_tasks)


def output_config(config: ResolvedJob) -> dict[str, Any]:
    """The keys that affect the output, for the manifest and the job's identity."""
    is_off = {key for key in _ONLY_WHEN_ENABLED if not getattr(getattr(config, key, None), "is_on", False)}
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in _NOT_IN_OUTPUT | is_off}


def valid_records(folder: Folder, identity: str, num_tasks: int) -> dict[int, TaskRecord]:
    """Records of the tasks of a job whose shards are all in place, by task; those of other jobs do not count."""
    names = [task_record_name(task) for task in range(num_tasks)]
    there = folder.sizes(TASKS_DIR)  # a store takes one request for a thousand names, and one for each file
    contents = folder.read_all([name for name in names if name.rpartition("/")[2] in there])
    written: dict[int, TaskRecord] = {}
    for task in range(num_tasks):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # absent or damaged: the task runs again
            record = TaskRecord.from_json(contents.pop(names[task]))
            if record.job == identity:
                written[task] = record
    sizes = {part: folder.sizes(part) for part in {part for record in written.values() for part in record.splits}}
    return {
        task: record
        for task, record in written.items()
        if all(
            sizes[part].get(shard.basename) == shard.bytes
            for part, split in record.splits.items()
            for shard in split.shards
        )
    }

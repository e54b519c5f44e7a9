"""A preparation from its first task to the published data set: a rerun of the same command continues it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from datatrove.pipeline.base import PipelineStep

from meap.errors import DataError, MeapError
from meap.manifest import Manifest
from meap.mds.index import INDEX_NAME
from meap.places.folder import Folder
from meap.places.locks import NoLocksError, describe_holder, lock_file
from meap.places.problems import place_errors
from meap.places.whole import temporary_folder
from meap.prep.claims import Claim, held
from meap.prep.executors import build_executor, has_submitted_tasks
from meap.prep.identity import claim, require_own, stored_identity
from meap.prep.inputs import InputFiles
from meap.prep.job import Job, valid_records
from meap.prep.live import Progress
from meap.prep.progress import Tally
from meap.prep.publish import publish
from meap.prep.resolved import ResolvedJob
from meap.prep.sampling import MAX_HASHES
from meap.prep.task_records import PREP_DIR, TaskRecord, parts_of
from meap.schema import MANIFEST_NAME, TRAIN_SPLIT
from meap.tokenizer import Tokenizer

__all__ = ["open_job", "run_job"]

ResolvedT = TypeVar("ResolvedT", bound=ResolvedJob)

_TALLIES = f"{PREP_DIR}/tallies"
_CLAIM = f"{PREP_DIR}/claim.json"


@contextmanager
def open_job(config: ResolvedT, inputs: InputFiles, tokenizer: Tokenizer) -> Iterator[Job[ResolvedT]]:
    """Claim the output folder, new or begun by the same job.

    Args:
        config: Resolved.
        inputs: The raw files.
        tokenizer: Stored with the data.

    Where that fails and the job's data set is complete, nothing has to be written: it may lie on a read-only disk.

    Raises:
        DataError: The folder cannot be used, or another process prepares it.
        MismatchError: The folder holds something else.
    """
    folder = Folder(config.remote)
    with ExitStack() as stack:
        require_own(folder)
        try:
            with ExitStack() as held_so_far:
                place = held_so_far.enter_context(_locked(folder) if folder.is_local else held(folder, _CLAIM))
                identity = claim(folder, config, inputs, tokenizer)
                scratch_dir = held_so_far.enter_context(_scratch(folder))
                tally_folder = held_so_far.enter_context(_tallies(folder, scratch_dir, runs_here=config.runs_here))
                stack.push(held_so_far.pop_all())
        except DataError:
            if (stored := _complete_identity(folder, config, inputs, tokenizer)) is None:
                raise
            place, identity = Claim(), stored
            tally_folder = scratch_dir = stack.enter_context(temporary_folder("meap-prep-"))
        records = valid_records(folder, identity, config.tasks)
        completed = frozenset(records)
        done_files = [number for task in completed for number in inputs.of_task(task, config.tasks)]
        # A cluster may have a thousand tasks that report on one file system.
        interval = 1.0 if config.runs_here else 10.0
        yield Job(
            config=config,
            identity=identity,
            place=place,
            inputs=inputs,
            tokenizer=tokenizer,
            folder=folder,
            scratch_dir=scratch_dir,
            completed=completed,
            is_published=_is_complete(folder, identity, records, config.tasks),
            tally=Tally(tally_folder, interval=interval, max_hashes=MAX_HASHES // config.tasks),
            progress=Progress(
                tally_folder,
                tasks=config.tasks,
                completed=completed,
                total_bytes=sum(inputs.sizes),
                done_bytes=sum(inputs.sizes[number] for number in done_files),
                interval=config.progress_interval,
                poll_seconds=interval / 2,
                title=f"preparing {folder.url}",
            ),
        )


def run_job(job: Job[ResolvedJob], steps: Sequence[PipelineStep]) -> None:
    """Run the steps for every task that is not completed, and publish the data set.

    Args:
        job: Whose tasks.
        steps: Reader first, writer last.

    Raises:
        MeapError: A task failed; the finished tasks stay for the next command.
    """
    executor = build_executor(steps, job)
    with job.progress.shown():
        executor.run()
    publish(job)


def _complete_identity(folder: Folder, config: ResolvedJob, inputs: InputFiles, tokenizer: Tokenizer) -> str | None:
    """The job's hash if the folder holds its finished data set, as far as that can be read."""
    with suppress(DataError):
        identity = stored_identity(folder, config, inputs, tokenizer)
        if identity is not None:
            records = valid_records(folder, identity, config.tasks)
            return identity if _is_complete(folder, identity, records, config.tasks) else None
    return None


def _is_complete(folder: Folder, identity: str, records: dict[int, TaskRecord], tasks: int) -> bool:
    return len(records) == tasks and _is_published(folder, identity, records)


def _is_published(folder: Folder, identity: str, records: dict[int, TaskRecord]) -> bool:
    """Whether every part that training reads has this job's manifest, and its index, which is written last."""
    parts = [part for part in parts_of(records.values()) if part.endswith(TRAIN_SPLIT)]
    names = [f"{part}/{name}" for part in parts for name in (MANIFEST_NAME, INDEX_NAME)]
    found = folder.read_all(names)
    try:
        jobs = [
            Manifest.from_json(content, origin=name).job
            for name, content in found.items()
            if name.endswith(MANIFEST_NAME)
        ]
    except MeapError:
        return False  # it is written again
    return bool(names) and len(found) == len(names) and set(jobs) == {identity}


@contextmanager
def _locked(folder: Folder) -> Iterator[Claim]:
    """Lock a local folder; the kernel releases the lock when this process ends, however it ends.

    Where the file system has no locks, claim it, as a store is claimed.
    """
    path = folder.local_path(PREP_DIR) / "lock"
    try:
        with place_errors(folder.url):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = lock_file(path)
    except DataError as error:
        if not isinstance(error.__cause__, NoLocksError):
            raise
        path.unlink(missing_ok=True)
        with held(folder, _CLAIM) as claim:
            yield claim
        return
    if handle is None:
        raise DataError(f"{folder.url} is being prepared by {describe_holder(path)}: wait for it, or end it")
    try:
        yield Claim()
    finally:
        os.close(handle)


@contextmanager
def _scratch(folder: Folder) -> Iterator[Path]:
    if not folder.is_local:
        with temporary_folder("meap-prep-") as path:
            yield path
        return
    # On the disk of the shards, so that finished ones are renamed. What a killed command left is removed, unless tasks
    # that it submitted still use it.
    path = folder.local_path(PREP_DIR) / "scratch"
    with place_errors(folder.url):
        _remove_unless_used(path, folder)
        path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        _remove_unless_used(path, folder)


def _remove_unless_used(scratch_dir: Path, folder: Folder) -> None:
    if not has_submitted_tasks(folder):
        shutil.rmtree(scratch_dir, ignore_errors=True)


@contextmanager
def _tallies(folder: Folder, scratch_dir: Path, *, runs_here: bool) -> Iterator[Path | Folder]:
    """Where all tasks can store their progress."""
    if folder.is_local or runs_here:
        with place_errors(folder.url):
            (path := scratch_dir / "progress").mkdir(exist_ok=True)
        yield path
        return
    yield Folder(folder.url_of(_TALLIES))
    if not has_submitted_tasks(folder):
        folder.remove(_TALLIES)

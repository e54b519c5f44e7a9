"""What a folder is being prepared from: a job has an identity, and a rerun of the same one continues it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from meap.config.litpkds_prep import LitpkdsPrepConfig
from meap.config.loading import flatten
from meap.config.prep import PrepConfig
from meap.config.sft_prep import SftPrepConfig
from meap.errors import DataError, MismatchError
from meap.locks import describe_holder, lock_file
from meap.manifest import CONVERSATIONS, FORMAT_VERSION, ROWS
from meap.mds.index import INDEX_NAME
from meap.places.folder import Folder
from meap.places.problems import place_errors
from meap.prep.executors.slurm_array import ARRAY_NAME
from meap.prep.inputs import InputFiles
from meap.prep.live import Progress
from meap.prep.progress import Tally
from meap.prep.removal.languages import model_fingerprint
from meap.prep.removal.report import REMOVED_DIR, describe_removed
from meap.prep.selection import describe_selection
from meap.prep.sft.report import describe_packing
from meap.prep.task_records import TaskRecord, parts_of, task_record_name, unpublished_streams
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT
from meap.tokenizer import Tokenizer

__all__ = ["Job", "open_job"]

AnyPrepConfig = PrepConfig | SftPrepConfig | LitpkdsPrepConfig

_PREP_DIR = ".prep"
_JOB_NAME = f"{_PREP_DIR}/job.json"
_TALLIES = f"{_PREP_DIR}/tallies"
_PASSING_KEYS = ("remote", "engine", "executor", "workers", "slurm", "ray", "progress_interval")
"""Keys that leave no trace in what is written."""
_SWITCHED_KEYS = ("filters", "dedup")
"""Sections that leave no trace either while they are off."""
_PATIENCE_KEYS = ("max_bad_lines", "max_bad_records")
"""Decide whether a task succeeds, not what it writes: a rerun may raise them."""


@dataclass(frozen=True)
class Job:
    """Everything the steps need, with nothing left to default."""

    config: AnyPrepConfig
    """Resolved: every key has a value."""
    inputs: InputFiles
    tokenizer: Tokenizer
    folder: Folder
    scratch_dir: Path
    """Local folder of the command, gone when it ends."""
    completed: frozenset[int]
    """Tasks that an earlier command has finished."""
    is_published: bool
    """Whether an earlier command has finished them all."""
    progress: Progress
    tally: Tally
    """What the steps count into."""
    kind: str
    """What is made of the inputs, see `meap.manifest`."""

    @property
    def seq_len(self) -> int:
        """Input tokens per row."""
        return cast("int", self.config.seq_len)

    @property
    def text_key(self) -> str:
        """Field that holds a document."""
        return cast("str", cast("PrepConfig", self.config).text_key)

    @property
    def heldout_ratio(self) -> float:
        """Share of documents kept for validation."""
        return cast("float", self.config.heldout_ratio)

    @property
    def num_tasks(self) -> int:
        """Tasks of the whole job."""
        return cast("int", self.config.tasks)

    @property
    def num_workers(self) -> int:
        """Tasks to run at the same time."""
        if self.config.executor != "local":
            return min(self.config.workers or self.num_tasks, self.num_tasks)
        # The cores this process may use, which a scheduler may have made fewer than there are.
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(self.config.workers or num_cores, self.num_tasks)

    @property
    def logging_dir(self) -> str:
        """Where datatrove puts its folders logs, stats and completions."""
        return str(self.folder.local_path(_PREP_DIR)) if self.folder.is_local else self.folder.url_of(_PREP_DIR)

    @property
    def task_files(self) -> list[list[str]]:
        """Input files of each task."""
        urls = self.inputs.urls
        return [[urls[n] for n in self.inputs.of_task(task, self.num_tasks)] for task in range(self.num_tasks)]

    @property
    def lasting_config(self) -> dict[str, Any]:
        """The keys that decide what is written, for the manifest and the job's identity."""
        return _lasting_config(self.config)

    def records(self) -> dict[int, TaskRecord]:
        """Records of the tasks whose shards are all in place, by task."""
        return _valid_records(self.folder, self.num_tasks)

    def summary(self) -> str:
        """One line about the published data set, this command's speed where it did anything, and what was removed."""
        noun, things = ("documents", "lines") if self.kind == ROWS else ("conversations", "records")
        records = self.records()
        by_part = [each for record in records.values() for each in record.splits.items()]
        splits = [split for _, split in by_part]
        documents, tokens = sum(each.documents for each in splits), sum(each.tokens for each in splits)
        heldout_rows = sum(split.rows for part, split in by_part if part.endswith(VALIDATION_SPLIT))
        stored = sum(shard.bytes for each in splits for shard in each.shards)
        line = (
            f"{documents:,} {noun}, {tokens:,} tokens, {sum(each.rows for each in splits):,} rows "
            f"({heldout_rows:,} of them for validation), {stored / 1e6:,.1f} MB at {self.folder.url}"
        )
        if self.kind == CONVERSATIONS:
            line += f"; {self._packing(records)}"
        selected = describe_selection(
            sum((Counter(split.counts) for split in splits), Counter[str]()),
            tokens=tokens,
            train_tokens=sum(split.tokens for part, split in by_part if part.endswith(TRAIN_SPLIT)),
            max_tokens=self.config.max_tokens if isinstance(self.config, PrepConfig) else None,
        )
        if selected:
            line += f"; {selected}"
        if unpublished := unpublished_streams(records.values()):
            streams = ", ".join(f"{stream} ({count:,} tokens)" for stream, count in unpublished.items())
            line += f"; too little for a row to train on: {streams}"
        removed = describe_removed(records.values(), f"{self.folder.url}/{REMOVED_DIR}")
        if self.is_published:
            return f"already complete: {line}{removed}"
        bad_lines = sum(record.bad_lines for record in records.values())
        seconds = self.progress.seconds or 1e-9
        speed = f"{self.progress.text_bytes / 1e6 / seconds:,.2f} MB of text/s"
        return (
            f"complete: {line}; {bad_lines:,} bad {things} left out; {seconds:,.1f} s, {speed}, "
            f"{self.progress.tokens / seconds:,.0f} tokens/s{removed}"
        )

    def _packing(self, records: dict[int, TaskRecord]) -> str:
        parts = [record.splits[TRAIN_SPLIT] for record in records.values()]
        return "for training " + describe_packing(
            sum((Counter(part.counts) for part in parts), Counter[str]()),
            conversations=sum(part.documents for part in parts),
            rows=sum(part.rows for part in parts),
            seq_len=self.seq_len,
        )


@contextmanager
def open_job(config: AnyPrepConfig, inputs: InputFiles, tokenizer: Tokenizer, *, kind: str = ROWS) -> Iterator[Job]:
    """Claim the output folder: new, or begun by the same job.

    Args:
        config: Resolved: every key has a value.
        inputs: The raw files.
        tokenizer: Stored with the data.
        kind: What is made of them, see `meap.manifest`.

    Raises:
        DataError: The folder cannot be used, or another process is at work on it.
        MismatchError: The folder holds something else.
    """
    folder = Folder(cast("str", config.remote))
    with ExitStack() as stack:
        _refuse_foreign(folder)
        if folder.is_local:
            stack.enter_context(_locked(folder))
        _claim(folder, _identity(config, inputs, tokenizer, kind))
        scratch_dir = stack.enter_context(_scratch(folder))
        tally_folder = stack.enter_context(_tallies(folder, scratch_dir, config.executor))
        num_tasks = cast("int", config.tasks)
        records = _valid_records(folder, num_tasks)
        completed = frozenset(records)
        done_files = [number for task in completed for number in inputs.of_task(task, num_tasks)]
        yield Job(
            config=config,
            inputs=inputs,
            tokenizer=tokenizer,
            folder=folder,
            scratch_dir=scratch_dir,
            completed=completed,
            is_published=len(completed) == num_tasks and _is_published(folder, records),
            kind=kind,
            tally=Tally(tally_folder, interval=_report_seconds(config.executor)),
            progress=Progress(
                tally_folder,
                tasks=num_tasks,
                completed=completed,
                total_bytes=sum(inputs.sizes),
                done_bytes=sum(inputs.sizes[number] for number in done_files),
                interval=config.progress_interval,
                poll_seconds=_report_seconds(config.executor) / 2,
                title=f"preparing {folder.url}",
            ),
        )


def _report_seconds(executor: str) -> float:
    # A cluster may have a thousand tasks at work on one file system.
    return 1.0 if executor == "local" else 10.0


def _lasting_config(config: AnyPrepConfig) -> dict[str, Any]:
    left_out = {*_PASSING_KEYS, *(key for key in _SWITCHED_KEYS if not getattr(getattr(config, key, None), "is_on", 0))}
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in left_out}


def _identity(config: AnyPrepConfig, inputs: InputFiles, tokenizer: Tokenizer, kind: str) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "config": {key: value for key, value in _lasting_config(config).items() if key not in _PATIENCE_KEYS},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "inputs": [list(each) for each in zip(inputs.urls, inputs.sizes, strict=True)],
    }
    if kind == CONVERSATIONS:
        identity["chat_template"] = tokenizer.source_config["chat_template"]
    if isinstance(config, PrepConfig) and config.filters.languages:
        identity["language_model"] = model_fingerprint(config.filters)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    # As it is read back: JSON knows no tuples.
    return json.loads(canonical) | {"identity": "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()}


def _refuse_foreign(folder: Folder) -> None:
    folder.require_bucket()
    entries = folder.entries()
    if set(entries) - {_PREP_DIR} and folder.read(_JOB_NAME) is None:
        raise MismatchError(
            f"{folder.url} is not empty and was not begun by this program (it holds {', '.join(entries[:5])}): choose "
            "another remote, or delete the folder"
        )


def _claim(folder: Folder, identity: dict[str, Any]) -> None:
    content = folder.read(_JOB_NAME)
    if content is None:
        folder.write(_JOB_NAME, json.dumps(identity, indent=1, sort_keys=True).encode())
        return
    try:
        stored = cast("dict[str, Any]", json.loads(content))
        if stored["identity"] == identity["identity"]:
            return
        differences = _differences(stored, identity)
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(
            f"{folder.url_of(_JOB_NAME)} is not readable ({type(error).__name__}: {error}): choose another remote, or "
            "delete the folder"
        ) from error
    raise MismatchError(
        f"{folder.url} holds another data set; {'; '.join(differences)}: choose another remote, or delete the folder"
    )


def _differences(stored: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    before, now = flatten(stored["config"]), flatten(ours["config"])
    found = [
        f"{key}={before.get(key)} there, {key}={now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if stored["inputs"] != ours["inputs"]:
        there, here = ({url: size for url, size in each["inputs"]} for each in (stored, ours))  # noqa: C416  checks pairs
        url = next(url for url in sorted(there.keys() | here.keys()) if there.get(url) != here.get(url))
        found.append(
            f"{len(there)} input files there, {len(here)} here, of which {url} is the first that differs "
            f"({_bytes(there.get(url))} there, {_bytes(here.get(url))} here)"
        )
    if stored["tokenizer_fingerprint"] != ours["tokenizer_fingerprint"]:
        found.append("the tokenizers give different ids")
    if stored.get("chat_template") != ours.get("chat_template"):
        found.append("the chat templates differ")
    if stored.get("language_model") != ours.get("language_model") and not found:
        found.append("the models of languages differ")
    if stored["format_version"] != ours["format_version"]:
        found.append(f"format version {stored['format_version']} there, {ours['format_version']} here")
    return found or ["its record has been changed"]


def _bytes(size: int | None) -> str:
    return "none" if size is None else f"{size} bytes"


def _valid_records(folder: Folder, num_tasks: int) -> dict[int, TaskRecord]:
    contents = folder.read_all([task_record_name(task) for task in range(num_tasks)])
    written: dict[int, TaskRecord] = {}
    for task in range(num_tasks):
        with suppress(ValueError, KeyError, TypeError):  # absent or damaged: the task is done again
            written[task] = TaskRecord.from_json(contents[task_record_name(task)])
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


def _is_published(folder: Folder, records: dict[int, TaskRecord]) -> bool:
    """Whether the index of every part that training reads is there; they are written last."""
    names = [f"{part}/{INDEX_NAME}" for part in parts_of(records.values()) if part.endswith(TRAIN_SPLIT)]
    return bool(names) and len(folder.read_all(names)) == len(names)


@contextmanager
def _locked(folder: Folder) -> Iterator[None]:
    """Keep other processes off a local folder; the kernel lets go of the lock when this one ends, however it ends."""
    with place_errors(folder.url):
        path = folder.local_path(_PREP_DIR) / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = lock_file(path)
    if handle is None:
        raise DataError(f"{folder.url} is being prepared by {describe_holder(path)}: wait for it, or end it")
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def _scratch(folder: Folder) -> Iterator[Path]:
    if not folder.is_local:
        with tempfile.TemporaryDirectory(prefix="meap-prep-", ignore_cleanup_errors=True) as path:
            yield Path(path)
        return
    # On the disk of the shards, so that finished ones are renamed; what a killed command left there is removed, unless
    # it is at work: a Slurm array outlives the command that waits for it.
    path = folder.local_path(_PREP_DIR) / "scratch"
    with place_errors(folder.url):
        _remove_unless_used(path, folder)
        path.mkdir(exist_ok=True)
    try:
        yield path
    finally:
        _remove_unless_used(path, folder)


def _remove_unless_used(scratch_dir: Path, folder: Folder) -> None:
    if folder.read(ARRAY_NAME) is None:
        shutil.rmtree(scratch_dir, ignore_errors=True)


@contextmanager
def _tallies(folder: Folder, scratch_dir: Path, executor: str) -> Iterator[Path | Folder]:
    """Where all tasks can leave their counts."""
    if folder.is_local or executor == "local":
        (path := scratch_dir / "progress").mkdir(exist_ok=True)
        yield path
        return
    yield Folder(folder.url_of(_TALLIES))
    if folder.read(ARRAY_NAME) is None:
        folder.remove(_TALLIES)

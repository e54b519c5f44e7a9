"""Which documents duplicate an earlier one: datatrove's deduplication in stages, and the filters that remove them.

    signatures    documents -> exact/signatures, minhash/signatures      a task per task of the job; filters applied
    exact         -> exact/duplicates                                    equal hashes of whole texts
    minhash_pairs -> minhash/pairs                                       a task per bucket
    minhash       -> minhash/removed                                     clusters of pairs; one task, pairs in memory

Of equal or similar documents the first in reading order stays: the first of the lowest task. datatrove by itself keeps
others (exact: the lowest position within its task; minhash: the root of a union by size), but its priorities and
cluster numbers allow this. Texts are compared by 64 bits of hash.
"""

from __future__ import annotations

import copy
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from datatrove.data import Document
from datatrove.io import DataFolder, get_datafolder
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.typeshelper import ExtensionHelperSD
from numpy.typing import NDArray

from meap.config.removal import DedupConfig
from meap.errors import ConfigError
from meap.places.folder import Folder
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.reader import ReadDocuments
from meap.prep.removal.documents import AsDocuments
from meap.prep.removal.filters import filter_steps, words_of
from meap.prep.removal.report import Excluded
from meap.prep.removal.stages import WORK_DIR, Stage, StartStage, run_stage
from meap.prep.removal.words import load_words
from meap.prep.resolved import ResolvedPrep
from meap.show.numbers import size

__all__ = ["MAX_TASKS", "duplicate_filters", "find_duplicates"]

_FINDERS = 16
"""Most tasks that look for equal texts; each task of the job writes a file of signatures for each of them."""
_BUFFERED_RECORDS = 1024
"""Signatures of a file that are read at once; datatrove's default would make a request per 5 on remote storage."""
_STORED_BYTES_OF_PAIR = 16
_BYTES_OF_PAIR = 240
"""Memory that datatrove's clustering takes for one, measured; less where pairs share documents."""
_OTHER_FILES = 100
"""What a process has open besides the files of a stage, at most."""
MAX_TASKS = 65_535
"""datatrove has no more priorities."""


def find_duplicates(job: Job[ResolvedPrep]) -> None:
    """Find what `duplicate_filters` will remove; does nothing unless deduplication is configured.

    Raises:
        ConfigError: So many tasks take more files than may be open.
        IncompleteError: Some tasks are not complete.
    """
    if job.config.dedup.is_on and len(job.completed) < job.num_tasks:
        _require_files(job)
        for stage in _stages(job):
            if stage.name == "minhash" and (warning := _memory_warning(job)):
                print(f"warning: {warning}", file=sys.stderr, flush=True)
            run_stage(stage, job)


def _require_files(job: Job[ResolvedPrep]) -> None:
    """Refuse more tasks than a stage can open the files of at once; other machines may allow more than this one."""
    each = 3 if job.config.dedup.exact else 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = each * job.num_tasks + _OTHER_FILES
    is_here = job.config.executor == "local" and job.folder.is_local  # what a store holds takes no file each
    if is_here and most != resource.RLIM_INFINITY and needed > most:
        raise ConfigError(
            f"tasks={job.num_tasks:,}: deduplication opens up to {needed:,} files at once, and a process may open "
            f"{most:,} here: raise that (ulimit -Hn), or set tasks={max(1, (most - _OTHER_FILES) // each)} at most, in "
            "another remote"
        )


def _memory_warning(job: Job[ResolvedPrep]) -> str:
    """What to do if the pairs may need more memory than there is where their one task runs; empty if they do not."""
    pairs = sum(job.folder.matching(f"{WORK_DIR}/minhash/pairs/*").values()) // _STORED_BYTES_OF_PAIR
    config, needed = job.config, pairs * _BYTES_OF_PAIR
    room, whose = _usable_memory(), "of this machine"
    if config.executor == "ray" and config.ray.memory_gb:
        room, whose = int(config.ray.memory_gb * 2**30), "of ray.memory_gb"
    elif config.executor == "slurm":
        room = config.slurm.mem_per_cpu_gb * config.slurm.cpus_per_task * 2**30
        whose = "of slurm.mem_per_cpu_gb times slurm.cpus_per_task"
    if needed <= room:
        return ""
    return (
        f"{pairs:,} pairs of similar texts take up to {size(needed)} of memory in one task, more than the {size(room)} "
        f"{whose}: if that task is killed, run the same command again where there is more, or in another remote with "
        "dedup.exact=true, a larger dedup.hashes_per_bucket, or a part of source"
    )


def _usable_memory() -> int:
    """Bytes of the machine, or fewer where a container or scheduler says so."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # no cgroups, or no limit ("max")
        return min(most, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return most


def duplicate_filters(config: DedupConfig, tally: Tally, folder: Folder) -> list[PipelineStep]:
    """The steps that remove the duplicates that were found.

    Args:
        config: Which deduplication.
        tally: Where they count what they remove.
        folder: The job's output folder.
    """
    work, steps = _work(folder), list[PipelineStep]()
    if config.exact:
        excluded: Any = Excluded("exact_dedup", tally, "same_text")
        steps.append(_DropExact(f"{work}/exact/duplicates", _exact_config(), excluded))
    if config.minhash:
        excluded = Excluded("minhash_dedup", tally, "similar_text")
        steps.append(MinhashDedupFilter(f"{work}/minhash/removed", exclusion_writer=excluded))
    return steps


class _SignExact(ExactDedupSignature):
    """Passes the documents on, so that minhash can sign them in the same pass."""

    def __init__(self, folder: str, config: ExactDedupConfig, finders: int) -> None:
        super().__init__(folder, config)
        self.finder_workers = finders  # set here, since datatrove's argument prints a reminder

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None
        self, data: Iterable[Document], rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        del world_size
        signatures: list[Any] = []
        for number, document in enumerate(data):
            signatures += self.get_hashes(document, number)
            yield document
        self.save_hashes(rank, signatures)


class _SignMinhash(MinhashDedupSignature):
    """Loads the word splitter where it runs instead of pickling it."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        self.word_tokenizer = load_words(self.language)
        super().run(data, rank, world_size)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"word_tokenizer": None}


class _CountDocuments(PipelineStep):
    """Counts documents for the progress line."""

    type = "STAGE"
    name = "count"

    def __init__(self, source: AsDocuments, tally: Tally) -> None:
        super().__init__()
        self.source = source
        self.tally = tally

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None
        self, data: Iterable[Document], rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        del rank, world_size
        for document in self.source.named(data):
            self.tally.documents[""] += 1
            yield document


class _KeepFirst(MinhashDedupCluster):
    """Clusters, of which the first document stays; numbers those to remove as they come out of exact deduplication.

    Args:
        pairs: Folder or URL of the pairs.
        removed: Folder or URL to write.
        config: As for the signatures.
        exact: Folder or URL of what exact deduplication removes before, if it does.
    """

    def __init__(self, pairs: str, removed: str, config: MinhashConfig, exact: str | None) -> None:
        super().__init__(pairs, removed, config, save_cluster_id=True, lines_to_buffer=_BUFFERED_RECORDS)
        self.exact = None if exact is None else get_datafolder(exact)

    def run(self, data: Any = None, _: int = 0, world_size: int = 1) -> None:
        super().run(data, _, world_size)
        gone = self._gone_before()
        highest = -1
        for name in sorted(self.output_folder.list_files(glob_pattern="*.clusters")):
            documents, clusters = _read_numbers(self.output_folder, name).reshape(-1, 2).T
            # Clusters were numbered as their first documents came up: a new highest number is a first document.
            before = np.maximum.accumulate(np.concatenate([[highest], clusters]))
            highest = int(before[-1])
            later = documents[clusters <= before[:-1]]
            stem = name.removesuffix(".clusters")
            earlier = gone.get(int(stem), np.array([], "<u4"))
            later = later[~np.isin(later, earlier)]
            with self.output_folder.open(f"{stem}.remove", "wb") as file:
                file.write((later - np.searchsorted(earlier, later)).astype("<u4").tobytes())

    def _gone_before(self) -> dict[int, NDArray[np.uint32]]:
        if self.exact is None:
            return {}
        by_task: dict[int, list[NDArray[np.uint32]]] = {}
        for name in self.exact.list_files(glob_pattern=f"*/*{ExtensionHelperSD.stage_2_duplicates}"):
            by_task.setdefault(int(Path(name).name.split(".")[0]), []).append(_read_numbers(self.exact, name))
        return {task: np.sort(np.concatenate(parts)) for task, parts in by_task.items()}


def _stages(job: Job[ResolvedPrep]) -> list[Stage]:
    config, work, tasks = job.config, _work(job.folder), job.num_tasks
    dedup = config.dedup
    minhash = MinhashConfig(dedup.n_grams, dedup.num_buckets, dedup.hashes_per_bucket)
    finders = min(_FINDERS, tasks)
    exact_duplicates = f"{work}/exact/duplicates" if dedup.exact else None

    def sign(tally: Tally) -> list[PipelineStep]:
        source = AsDocuments(words_of(config.filters))
        steps = [
            ReadDocuments.of(job, tally),
            source,
            *filter_steps(config.filters, tally),
            _CountDocuments(source, tally),
        ]
        if dedup.exact:
            steps.append(_SignExact(f"{work}/exact/signatures", _exact_config(), finders))
        if dedup.minhash:
            steps.append(_SignMinhash(f"{work}/minhash/signatures", minhash, dedup.words))
        return steps

    def find_exact(tally: Tally) -> list[PipelineStep]:
        find = ExactFindDedups(
            f"{work}/exact/signatures", f"{work}/exact/duplicates", _exact_config(), lines_to_buffer=_BUFFERED_RECORDS
        )
        return [StartStage(tally), find]

    def find_pairs(tally: Tally) -> list[PipelineStep]:
        pairs = MinhashDedupBuckets(
            f"{work}/minhash/signatures", f"{work}/minhash/pairs", config=minhash, lines_to_buffer=_BUFFERED_RECORDS
        )
        return [StartStage(tally), pairs]

    def cluster(tally: Tally) -> list[PipelineStep]:
        keep_first = _KeepFirst(f"{work}/minhash/pairs", f"{work}/minhash/removed", minhash, exact_duplicates)
        return [StartStage(tally), keep_first]

    signed = (f"exact/signatures/*/{{task}}{ExtensionHelperSD.stage_1_signature}",) * dedup.exact
    signed += ("minhash/signatures/*/{task}.minhash.sig",) * dedup.minhash
    stages = [Stage("signatures", "deduplication: signatures", tasks, signed, sign, reads_documents=True)]
    if dedup.exact:
        stages.append(Stage("exact", "deduplication: equal texts", finders, ("exact/duplicates/{task}/*",), find_exact))
    if dedup.minhash:
        about = "deduplication: pairs of similar texts"
        stages.append(Stage("minhash_pairs", about, dedup.num_buckets, ("minhash/pairs/{task}_*",), find_pairs))
        about = "deduplication: clusters of similar texts"
        stages.append(Stage("minhash", about, 1, ("minhash/removed/*",), cluster))
    return stages


def _work(folder: Folder) -> str:
    return str(folder.local_path(WORK_DIR)) if folder.is_local else folder.url_of(WORK_DIR)


class _DropExact(ExactDedupFilter):
    """datatrove's, which takes the listed folder itself for one of those in it, by a name that some stores refuse."""

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        own: Any = copy.copy(self)  # the next task of this process has the same folder
        own.data_folder = _WithoutItself(self.data_folder)
        yield from ExactDedupFilter.run(own, data, rank, world_size)


class _WithoutItself:
    """A folder that is none of those it lists."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._folder, name)

    def list_files(self, **given: Any) -> list[str]:
        return [each for each in self._folder.list_files(**given) if each]


def _exact_config() -> ExactDedupConfig:
    return ExactDedupConfig(content_getter=_text, document_priority=_priority)


def _text(document: Document) -> str:
    return document.text


def _priority(document: Document) -> int:
    return MAX_TASKS - cast("int", document.metadata["task"])


def _read_numbers(folder: DataFolder, name: str) -> NDArray[np.uint32]:
    with folder.open(name, "rb") as file:
        return np.frombuffer(cast("bytes", file.read()), "<u4")

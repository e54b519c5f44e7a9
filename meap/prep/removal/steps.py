"""The steps between the reader and the packer: filters, then what removes the duplicates that were found before."""

from __future__ import annotations

from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from meap.errors import ConfigError
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.removal.documents import AsBatches, AsDocuments
from meap.prep.removal.duplicates import MAX_TASKS, duplicate_filters
from meap.prep.removal.filters import filter_steps, require_word_splitter, words_of
from meap.prep.resolved import ResolvedPrep

__all__ = ["removal_steps", "require_removal"]


def removal_steps(job: Job[ResolvedPrep]) -> list[PipelineStep]:
    """The steps between the reader and the packer; none unless filters or deduplication are configured."""
    config = job.config
    if not (config.filters.is_on or config.dedup.is_on):
        return []
    source = AsDocuments(words_of(config.filters))
    return [
        source,
        *filter_steps(config.filters, job.tally),
        *duplicate_filters(config.dedup, job.tally, job.folder),
        AsBatches(source, job.tally, job.folder),
    ]


def require_removal(config: ResolvedPrep) -> None:
    """Check what filters and deduplication need.

    Raises:
        ConfigError: A package or a model is missing, or there are too many tasks.
    """
    filter_steps(config.filters, Tally(Path()))
    if config.dedup.minhash:
        require_word_splitter("dedup.words", config.dedup.words)
    if config.dedup.exact and config.tasks > MAX_TASKS:
        raise ConfigError(f"tasks={config.tasks} is too many for dedup.exact: {MAX_TASKS} is the most")

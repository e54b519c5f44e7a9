"""The steps between the reader and the packer: filters, then what removes the duplicates that were found before."""

from __future__ import annotations

from datatrove.pipeline.base import PipelineStep

from meap.config.prep import PrepConfig
from meap.prep.job import Job
from meap.prep.removal.documents import AsBatches, AsDocuments
from meap.prep.removal.duplicates import duplicate_filters
from meap.prep.removal.filters import filter_steps, words_of

__all__ = ["removal_steps"]


def removal_steps(job: Job) -> list[PipelineStep]:
    """The steps between the reader and the packer; none unless the configuration asks for some."""
    config = job.config
    if not isinstance(config, PrepConfig) or not (config.filters.is_on or config.dedup.is_on):
        return []
    source = AsDocuments(words_of(config.filters))
    return [
        source,
        *filter_steps(config.filters, job.tally),
        *duplicate_filters(config.dedup, job.tally, job.folder),
        AsBatches(source, job.tally, job.folder),
    ]

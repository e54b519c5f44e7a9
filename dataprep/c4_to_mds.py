"""Turn C4, SlimPajama, FineWeb, or any JSON, CSV, parquet or plain text into shards of fixed-length rows.

    python dataprep/c4_to_mds.py                                              # the built-in sample, no network needed
    python dataprep/c4_to_mds.py yamls/prep_c4.yaml remote=s3://bucket/c4     # English C4 from the Hugging Face hub
    python dataprep/c4_to_mds.py yamls/prep_slimpajama.yaml                   # a data set for each of its seven sources
    python dataprep/c4_to_mds.py source='crawl/*.jsonl.gz' remote=data/crawl/mds tokenizer.name=meta-llama/Llama-2-7b-hf

Writes <remote>/train, <remote>/validation and <remote>/tokenizer, or with stream_key= the same below <remote>/<stream>
for each value of that field. A split with an index.json is complete. The same command continues after an interruption,
and does nothing once the data set is complete. The output depends on the input files and the configuration alone, never
on the number of workers.
"""

from __future__ import annotations

from meap.config import PrepConfig, run_command
from meap.processes import leave


def prepare(config: PrepConfig) -> None:
    from meap.prep.corpora import resolve
    from meap.prep.preparation import open_job, run_job
    from meap.prep.reader import ReadDocuments
    from meap.prep.removal.duplicates import find_duplicates
    from meap.prep.removal.steps import removal_steps, require_removal
    from meap.prep.shards import WriteShards
    from meap.prep.steps import PackRows
    from meap.prep.summary import summary
    from meap.tokenizer import load_tokenizer

    resolved, inputs = resolve(config)
    require_removal(resolved)
    with open_job(resolved, inputs, load_tokenizer(resolved.tokenizer)) as job:
        if not job.is_published:
            find_duplicates(job)
            run_job(job, [ReadDocuments.of(job), *removal_steps(job), PackRows.of(job), WriteShards.of(job)])
        print(summary(job))


def check(config: PrepConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.prep.corpora import check_config

    check_config(config)


if __name__ == "__main__":
    leave(run_command, PrepConfig, prepare, doc=__doc__, check=check, loads="datatrove", starts_bare=True)

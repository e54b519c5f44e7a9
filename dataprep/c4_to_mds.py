"""Turn C4, SlimPajama, FineWeb, or any JSON lines, parquet or plain text, into shards of fixed-length rows.

    python dataprep/c4_to_mds.py                                              # the built-in sample, no network needed
    python dataprep/c4_to_mds.py yamls/prep_c4.yaml remote=s3://bucket/c4     # English C4 from the Hugging Face hub
    python dataprep/c4_to_mds.py yamls/prep_slimpajama.yaml                   # a data set for each of its seven sources
    python dataprep/c4_to_mds.py source='crawl/*.jsonl.gz' remote=data/crawl/mds tokenizer.name=meta-llama/Llama-2-7b-hf

Writes <remote>/train, <remote>/validation and <remote>/tokenizer, with stream_key= below <remote>/<stream> for each
value of that field; an index.json stands for a complete data set. The same command continues after an interruption, and
does nothing when all is done. The output depends on the input files and the configuration alone, never on the number of
workers.
"""

from __future__ import annotations

from meap.config import PrepConfig, run_command
from meap.processes import leave


def prepare(config: PrepConfig) -> None:
    from meap.places.addresses import use_one_s3_endpoint
    from meap.prep.corpora import resolve
    from meap.prep.encoding import build_encoder
    from meap.prep.executors import build_executor
    from meap.prep.job import open_job
    from meap.prep.publish import publish
    from meap.prep.reader import ReadDocuments
    from meap.prep.removal.duplicates import find_duplicates, remove_working_files, require_removal
    from meap.prep.removal.steps import removal_steps
    from meap.prep.selection import SelectionRule
    from meap.prep.shards import WriteShards
    from meap.prep.steps import PackRows
    from meap.schema import mds_columns
    from meap.tokenizer import load_tokenizer

    use_one_s3_endpoint()
    config, inputs = resolve(config)
    require_removal(config)
    tokenizer = load_tokenizer(config.tokenizer)
    with open_job(config, inputs, tokenizer) as job:
        if not job.is_published:
            find_duplicates(job)
            steps = [
                ReadDocuments.of(job, job.tally),
                *removal_steps(job),
                PackRows(
                    build_encoder(tokenizer, engine=config.engine),
                    tokenizer,
                    job.tally,
                    seq_len=job.seq_len,
                    heldout_ratio=job.heldout_ratio,
                    seed=config.seed,
                    selection=SelectionRule(inputs, config.long, config.max_tokens, config.streams),
                ),
                WriteShards(
                    job.folder,
                    job.tally,
                    files=job.task_files,
                    columns=mds_columns(job.seq_len, tokenizer.vocab_size),
                    compression=config.compression,
                    shard_size=config.shard_size,
                ),
            ]
            executor = build_executor(steps, job)
            with job.progress.shown():
                executor.run()
            publish(job)
        remove_working_files(job)
        print(job.summary())


def check(config: PrepConfig) -> None:
    """What can be told from the configuration alone."""
    from meap.prep.corpora import check_settings

    check_settings(config)


if __name__ == "__main__":
    leave(run_command(PrepConfig, prepare, doc=__doc__, check=check, loads="datatrove", starts_bare=True))

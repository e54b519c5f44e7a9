"""Turn packed chunks of the official code (lit-gpt's .bin files) into shards, without tokenizing again.

    python dataprep/litpkds_to_mds.py source='lit_c4/*.bin' remote=data/c4/mds tokenizer.name=meta-llama/Llama-2-7b-hf
    python dataprep/litpkds_to_mds.py source=s3://bucket/lit_c4 remote=s3://bucket/c4 tokenizer.name=llama2

A chunk's blocks of seq_len + 1 tokens become rows, in order; the filling of last chunks is left out and counted. Writes
<remote>/train, <remote>/validation and <remote>/tokenizer; an index.json stands for a complete data set. The same
command continues after an interruption, and does nothing when all is done.
"""

from __future__ import annotations

from meap.config import LitpkdsPrepConfig, run_command
from meap.processes import leave


def prepare(config: LitpkdsPrepConfig) -> None:
    from meap.places.addresses import use_one_s3_endpoint
    from meap.prep.executors import build_executor
    from meap.prep.job import open_job
    from meap.prep.litpkds import ReadChunks, resolve_chunks
    from meap.prep.publish import publish
    from meap.prep.shards import WriteShards
    from meap.schema import mds_columns
    from meap.tokenizer import load_tokenizer

    use_one_s3_endpoint()
    config, inputs = resolve_chunks(config)
    tokenizer = load_tokenizer(config.tokenizer)
    with open_job(config, inputs, tokenizer) as job:
        if not job.is_published:
            steps = [
                ReadChunks(
                    inputs,
                    tokenizer,
                    job.tally,
                    seq_len=job.seq_len,
                    heldout_ratio=config.heldout_ratio,
                    seed=config.seed,
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
        print(job.summary())


def check(config: LitpkdsPrepConfig) -> None:
    """What can be told from the configuration alone."""
    from meap.prep.corpora import check_import

    check_import(config)


if __name__ == "__main__":
    leave(run_command(LitpkdsPrepConfig, prepare, doc=__doc__, check=check, loads="datatrove"))

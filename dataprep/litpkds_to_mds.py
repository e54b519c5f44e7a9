"""Turn packed chunks of the official code (lit-gpt's .bin files) into shards, without tokenizing again.

    python dataprep/litpkds_to_mds.py source='lit_c4/*.bin' remote=data/c4/mds tokenizer.name=meta-llama/Llama-2-7b-hf
    python dataprep/litpkds_to_mds.py source=s3://bucket/lit_c4 remote=s3://bucket/c4 tokenizer.name=llama2

A chunk's blocks of seq_len + 1 tokens become rows, in order; the padding of last chunks is left out and counted. Writes
<remote>/train, <remote>/validation and <remote>/tokenizer; a split with an index.json is complete. The same command
continues after an interruption, and does nothing once the data set is complete.
"""

from __future__ import annotations

from meap.config import LitpkdsPrepConfig, run_command
from meap.processes import leave


def prepare(config: LitpkdsPrepConfig) -> None:
    from meap.prep.lit_chunks import resolve_chunks
    from meap.prep.litpkds import ReadChunks
    from meap.prep.preparation import open_job, run_job
    from meap.prep.shards import WriteShards
    from meap.prep.summary import summary
    from meap.tokenizer import load_tokenizer

    resolved, inputs = resolve_chunks(config)
    with open_job(resolved, inputs, load_tokenizer(resolved.tokenizer)) as job:
        if not job.is_published:
            run_job(job, [ReadChunks.of(job), WriteShards.of(job)])
        print(summary(job))


def check(config: LitpkdsPrepConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.prep.lit_chunks import check_config

    check_config(config)


if __name__ == "__main__":
    leave(run_command, LitpkdsPrepConfig, prepare, doc=__doc__, check=check, loads="datatrove")

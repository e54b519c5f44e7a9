"""Turn instruction or chat data into shards of packed conversations, with the answers marked.

    python dataprep/sft_to_mds.py                                             # made-up instructions, no network needed
    python dataprep/sft_to_mds.py yamls/prep_alpaca.yaml remote=s3://bucket/alpaca
    python dataprep/sft_to_mds.py source='chats/*.jsonl.gz' remote=data/chats/mds tokenizer.name=Qwen/Qwen2.5-14B

Reads Alpaca's instruction/input/output, ShareGPT's conversations and OpenAI's messages, from .json, .jsonl or .parquet.
Writes <remote>/train, <remote>/validation and <remote>/tokenizer (with the chat template); an index.json stands for a
complete data set. The same command continues after an interruption, and does nothing when all is done.
"""

from __future__ import annotations

from meap.config import SftPrepConfig, run_command
from meap.processes import leave


def prepare(config: SftPrepConfig) -> None:
    from meap.manifest import CONVERSATIONS
    from meap.places.addresses import use_one_s3_endpoint
    from meap.prep.executors import build_executor
    from meap.prep.job import open_job
    from meap.prep.publish import publish
    from meap.prep.sft.records import BadRecords, ReadConversations
    from meap.prep.sft.rendering import ChatTemplate
    from meap.prep.sft.source import load_chat_tokenizer, resolve_conversations
    from meap.prep.sft.steps import PackConversations
    from meap.prep.shards import WriteShards
    from meap.schema import conversation_columns

    use_one_s3_endpoint()
    config, inputs = resolve_conversations(config)
    config, tokenizer = load_chat_tokenizer(config)
    with open_job(config, inputs, tokenizer, kind=CONVERSATIONS) as job:
        if not job.is_published:
            bad = BadRecords(job.tally, config.max_bad_records)
            template = ChatTemplate(tokenizer, config.template, tokenizer.source_config["chat_template"])
            steps = [
                ReadConversations(inputs, job.tally, bad, form=config.format),
                PackConversations(template, job.tally, bad, config=config, seq_len=job.seq_len),
                WriteShards(
                    job.folder,
                    job.tally,
                    files=job.task_files,
                    columns=conversation_columns(tokenizer.vocab_size),
                    compression=config.compression,
                    shard_size=config.shard_size,
                ),
            ]
            executor = build_executor(steps, job)
            with job.progress.shown():
                executor.run()
            publish(job)
        print(job.summary())


def check(config: SftPrepConfig) -> None:
    """What can be told from the configuration alone."""
    from meap.prep.sft.source import check_settings

    check_settings(config)


if __name__ == "__main__":
    leave(run_command(SftPrepConfig, prepare, doc=__doc__, check=check, loads="datatrove", starts_bare=True))

"""Turn instruction or chat data into shards of packed conversations, with the answers marked.

    python dataprep/sft_to_mds.py                                             # made-up instructions, no network needed
    python dataprep/sft_to_mds.py yamls/prep_alpaca.yaml remote=s3://bucket/alpaca
    python dataprep/sft_to_mds.py source='chats/*.jsonl.gz' remote=data/chats/mds tokenizer.name=Qwen/Qwen2.5-14B

Reads Alpaca's instruction/input/output, ShareGPT's conversations, OpenAI's messages and TRL's prompt/completion, with
system prompts, histories, tools and calls, from .json, .jsonl, .csv or .parquet; docs/fine-tune.md lists the fields.
Writes <remote>/train, <remote>/validation and <remote>/tokenizer (with the chat template). A split with an index.json
is complete. The same command continues after an interruption, and does nothing once the data set is complete.
"""

from __future__ import annotations

from meap.config import SftPrepConfig, run_command
from meap.processes import leave


def prepare(config: SftPrepConfig) -> None:
    from meap.prep.preparation import open_job, run_job
    from meap.prep.sft.records import ReadConversations
    from meap.prep.sft.source import load_chat_tokenizer, resolve_conversations
    from meap.prep.sft.steps import PackConversations
    from meap.prep.shards import WriteShards
    from meap.prep.summary import summary

    resolved, inputs = resolve_conversations(config)
    resolved, tokenizer = load_chat_tokenizer(resolved)
    with open_job(resolved, inputs, tokenizer) as job:
        if not job.is_published:
            run_job(job, [ReadConversations.of(job), PackConversations.of(job), WriteShards.of(job)])
        print(summary(job))


def check(config: SftPrepConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.prep.sft.source import check_config

    check_config(config)


if __name__ == "__main__":
    leave(run_command, SftPrepConfig, prepare, doc=__doc__, check=check, loads="datatrove", starts_bare=True)

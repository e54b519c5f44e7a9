"""What is prepared: the configuration with every default filled in, and the files it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from meap.config import PrepConfig
from meap.config.sft_prep import SftPrepConfig
from meap.errors import ConfigError
from meap.prep.corpora import SAMPLE_DIR, InputFiles, check_shards, find_inputs, make_sample
from meap.prep.sft.rendering import choose_template
from meap.prep.sft.sample import write_sample_instructions
from meap.storage import require_plain_url
from meap.tokenizer import Tokenizer, load_tokenizer

__all__ = ["load_chat_tokenizer", "resolve_conversations"]

SAMPLE = "sample"
SAMPLE_SFT_DIR = Path("data/sample_sft")

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst", ".parquet")
_BYTES_PER_POSITION = 5 + 5
"""Of a row: a token, its answer flag, and at worst a length and a copy flag for it."""


def resolve_conversations(config: SftPrepConfig) -> tuple[SftPrepConfig, InputFiles]:
    """Fill in every default but the template, and list the input files; the sample is made on the way.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no file.
    """
    require_plain_url("source", config.source)
    require_plain_url("remote", config.remote or "")
    is_sample = config.source == SAMPLE
    remote = config.remote or (f"{SAMPLE_SFT_DIR}/mds" if is_sample else None)
    if remote is None:
        raise ConfigError(
            f"remote is not set: for source={config.source} say where to write, as remote=data/alpaca/mds"
        )
    if config.tokenizer.name is None and not is_sample:
        raise ConfigError(
            f"tokenizer.name is not set: for source={config.source} give the folder or hub name of the model to tune, "
            "such as tokenizer.name=meta-llama/Meta-Llama-3-8B"
        )
    seq_len = config.seq_len or config.longest
    check_shards(config, row_bytes=_BYTES_PER_POSITION * seq_len, seq_len=seq_len)
    source, tokenizer = config.source, config.tokenizer
    if is_sample:
        source = str(write_sample_instructions(SAMPLE_SFT_DIR / "corpus" / "instructions.json", seed=config.seed))
        if tokenizer.name is None:
            make_sample(PrepConfig())
            tokenizer = dataclasses.replace(tokenizer, name=str(SAMPLE_DIR / "tokenizer"))
    inputs = find_inputs(source, suffixes=_SUFFIXES, kind="conversations, or source=sample for made-up ones")
    tasks = config.tasks or 1
    if tasks > len(inputs.names):
        raise ConfigError(
            f"tasks={tasks} is more than the {len(inputs.names)} input files: a task reads whole files, so "
            f"tasks={len(inputs.names)} is the most"
        )
    return dataclasses.replace(config, remote=remote, tokenizer=tokenizer, seq_len=seq_len, tasks=tasks), inputs


def load_chat_tokenizer(config: SftPrepConfig) -> tuple[SftPrepConfig, Tokenizer]:
    """The tokenizer with the chosen chat template in it, which is stored with the data and with exported models.

    Raises:
        ConfigError: The tokenizer has no special tokens, or no chat template where its own is asked for.
        DataError: It cannot be read.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    name, template = choose_template(tokenizer, config.template)
    source_config = tokenizer.source_config | {"chat_template": template}
    return dataclasses.replace(config, template=name), dataclasses.replace(tokenizer, source_config=source_config)

"""What is prepared: the configuration with every default filled in, and the files it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from meap.config import PrepConfig
from meap.config.sections import TokenizerConfig
from meap.config.sft_prep import SftPrepConfig
from meap.errors import ConfigError, MismatchError
from meap.places.addresses import require_plain_url
from meap.prep.corpora import CORPORA, SAMPLE_DIR, check_shards, make_sample
from meap.prep.inputs import InputFiles, find_inputs
from meap.prep.sample import recorded_seed
from meap.prep.sft.rendering import check_template, choose_template
from meap.prep.sft.sample import write_sample_instructions
from meap.schema import TOKENIZER_DIR
from meap.tokenizer import Tokenizer, load_tokenizer

__all__ = ["check_settings", "load_chat_tokenizer", "resolve_conversations"]

SAMPLE = "sample"
SAMPLE_SFT_DIR = Path("data/sample_sft")

_MAX_LENGTH, _SAMPLE_MAX_LENGTH = 4096, 128
"""The sample's rows are as long as those of the built-in corpus, so that a model of one takes the other."""
_MIN_ANSWER_TOKENS, _SAMPLE_MIN_ANSWER_TOKENS = 50, 12

_SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst", ".parquet")
_BYTES_PER_POSITION = 5 + 5
"""Of a row: a token, its answer flag, and at worst a length and a copy flag for it."""


def check_settings(config: SftPrepConfig) -> SftPrepConfig:
    """What can be told before the input is looked at; gives the configuration with the defaults that this settles.

    Raises:
        ConfigError: A key is missing, holds a secret, or does not fit another.
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
    config = _with_lengths(config, is_sample=is_sample)
    seq_len = config.seq_len or config.longest
    check_shards(config, row_bytes=_BYTES_PER_POSITION * seq_len, seq_len=seq_len)
    return dataclasses.replace(config, remote=remote, seq_len=seq_len)


def resolve_conversations(config: SftPrepConfig) -> tuple[SftPrepConfig, InputFiles]:
    """Fill in every default but the template, and list the input files; the sample is made on the way.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no file.
        MismatchError: The built-in corpus was prepared with another tokenizer than the one made for it.
    """
    config = check_settings(config)
    is_sample = config.source == SAMPLE
    source, tokenizer = config.source, config.tokenizer
    if is_sample:
        source = str(write_sample_instructions(SAMPLE_SFT_DIR / "corpus" / "instructions.json", seed=config.seed))
        if tokenizer.name is None:
            tokenizer = _sample_tokenizer(tokenizer)
    inputs = find_inputs(source, suffixes=_SUFFIXES, kind="conversations, or source=sample for made-up ones")
    tasks = config.tasks or 1
    if tasks > len(inputs.names):
        raise ConfigError(
            f"tasks={tasks} is more than the {len(inputs.names)} input files: a task reads whole files, so "
            f"tasks={len(inputs.names)} is the most"
        )
    return dataclasses.replace(config, tokenizer=tokenizer, tasks=tasks), inputs


def _with_lengths(config: SftPrepConfig, *, is_sample: bool) -> SftPrepConfig:
    max_length, least = config.max_length, config.min_answer_tokens
    if max_length is None:
        max_length = _SAMPLE_MAX_LENGTH if is_sample else _MAX_LENGTH
    if least is None:
        least = _SAMPLE_MIN_ANSWER_TOKENS if is_sample else _MIN_ANSWER_TOKENS
    return dataclasses.replace(config, max_length=max_length, min_answer_tokens=least)


def _sample_tokenizer(asked: TokenizerConfig) -> TokenizerConfig:
    """The tokenizer of the built-in corpus: whichever of the two samples is prepared first makes it, for both."""
    made = make_sample(PrepConfig(seed=recorded_seed(SAMPLE_DIR / "corpus")))
    named = dataclasses.replace(asked, name=str(made))
    stored = Path(f"{CORPORA['sample'].remote}/{TOKENIZER_DIR}")
    if stored.is_dir():
        of_corpus = load_tokenizer(dataclasses.replace(asked, name=str(stored)))
        if of_corpus.fingerprint != load_tokenizer(named).fingerprint:
            raise MismatchError(
                f"{stored} is not the tokenizer in {made}, so a model trained on the one could not be tuned on the "
                f"other: delete {SAMPLE_DIR} and prepare it again, or set tokenizer.name={stored}"
            )
    return named


def load_chat_tokenizer(config: SftPrepConfig) -> tuple[SftPrepConfig, Tokenizer]:
    """The tokenizer with the chosen chat template in it, which is stored with the data and with exported models.

    Raises:
        ConfigError: The tokenizer has no special tokens or does not read them in text, or it has no chat template where
            its own is asked for, or a broken one.
        DataError: It cannot be read.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    for token, number in ((tokenizer.bos_token, tokenizer.bos_id), (tokenizer.eos_token, tokenizer.eos_id)):
        # Templates write them as text; where tokenizer.json knows the id but not the token, that text falls to pieces.
        if tokenizer.encode(token) != [number]:
            raise ConfigError(
                f"tokenizer {tokenizer.name!r} does not read {token!r} as its token {number}, which is not among the "
                "added_tokens of its tokenizer.json: load it with transformers, save it, and name that folder"
            )
    name, template = choose_template(tokenizer, config.template)
    check_template(template, owner=tokenizer.name)
    source_config = tokenizer.source_config | {"chat_template": template}
    return dataclasses.replace(config, template=name), dataclasses.replace(tokenizer, source_config=source_config)

"""What is prepared: the configuration with every default set, and the files it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from meap.config.data import TokenizerConfig
from meap.config.prep import SftPrepConfig
from meap.errors import ConfigError, MismatchError
from meap.prep.corpora import CORPORA, SAMPLE_DIR, make_sample
from meap.prep.formats import names_of, suffixes_of
from meap.prep.inputs import InputFiles, find_inputs
from meap.prep.resolved import ResolvedSft, check_addresses, check_shard_settings, patterns_of, require_tasks
from meap.prep.sample import recorded_seed
from meap.prep.sft.sample import write_sample_instructions
from meap.prep.sft.templates import check_template, choose_template
from meap.schema import TOKENIZER_DIR
from meap.tokenizer import Tokenizer, load_tokenizer, model_context

__all__ = ["check_config", "load_chat_tokenizer", "resolve_conversations"]

SAMPLE = "sample"
SAMPLE_SFT_DIR = Path("data/sample_sft")

_MAX_LENGTH, _SAMPLE_MAX_LENGTH = 4096, 128
"""The sample's rows are as long as those of the built-in corpus, so that one model reads both."""
_MIN_ANSWER_TOKENS, _SAMPLE_MIN_ANSWER_TOKENS = 50, 12

_BYTES_PER_POSITION = 5 + 5
"""A token, its flags, and at worst a length and a copy flag."""


def check_config(config: SftPrepConfig, *, context: int | None = None) -> ResolvedSft:
    """Check the configuration before any input is read; returns it with every default but the template.

    Args:
        config: The configuration.
        context: Positions of the model to tune, in which the longest conversation and its copy must fit where their
            length is not set; None where that is not known.

    Raises:
        ConfigError: A key is missing, holds a secret, or does not fit another.
    """
    is_sample = config.source == SAMPLE
    config = dataclasses.replace(config, remote=config.remote or (f"{SAMPLE_SFT_DIR}/mds" if is_sample else None))
    check_addresses(config, example="data/alpaca/mds")
    if config.tokenizer.name is None and not is_sample:
        raise ConfigError(
            f"tokenizer.name is not set: for source={','.join(patterns_of(config.source))} give the folder or hub name "
            "of the model to tune, such as tokenizer.name=meta-llama/Meta-Llama-3-8B"
        )
    max_length = config.max_length
    if max_length is None:
        room = [each // config.views for each in (config.seq_len, context) if each]
        max_length = min([_SAMPLE_MAX_LENGTH if is_sample else _MAX_LENGTH, *room])
    min_answer_tokens = config.min_answer_tokens
    if min_answer_tokens is None:
        min_answer_tokens = _SAMPLE_MIN_ANSWER_TOKENS if is_sample else _MIN_ANSWER_TOKENS
    seq_len = config.seq_len or max_length * config.views
    check_shard_settings(config, row_bytes=_BYTES_PER_POSITION * seq_len, seq_len=seq_len)
    return ResolvedSft.of(
        config,
        max_length=max_length,
        min_answer_tokens=min_answer_tokens,
        seq_len=seq_len,
        tasks=config.tasks or 1,
    )


def resolve_conversations(config: SftPrepConfig) -> tuple[ResolvedSft, InputFiles]:
    """Set every default but the template, and list the input files; the sample is made on the way.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no file, or the tokenizer's folder cannot be read.
        MismatchError: The built-in corpus was prepared with another tokenizer than the one made for it.
    """
    model = config.tokenizer.name if config.max_length is None else None
    resolved = check_config(config, context=model_context(model) if model is not None else None)
    source, tokenizer = resolved.source, resolved.tokenizer
    if source == SAMPLE:
        source = str(write_sample_instructions(SAMPLE_SFT_DIR / "corpus" / "instructions.json", seed=config.seed))
        if tokenizer.name is None:
            tokenizer = _sample_tokenizer(tokenizer)
    kind = f"conversations ({names_of(with_fields=True)}), or source=sample for made-up ones"
    inputs = find_inputs(source, suffixes=suffixes_of(with_fields=True), kind=kind)
    require_tasks(resolved.tasks, inputs)
    return dataclasses.replace(resolved, tokenizer=tokenizer), inputs


def _sample_tokenizer(asked: TokenizerConfig) -> TokenizerConfig:
    """The tokenizer of the built-in corpus; made here if this sample is prepared first."""
    made = make_sample(recorded_seed(SAMPLE_DIR / "corpus"))
    named = dataclasses.replace(asked, name=str(made))
    stored = Path(f"{CORPORA['sample'].remote}/{TOKENIZER_DIR}")
    if stored.is_dir():
        of_corpus = load_tokenizer(dataclasses.replace(asked, name=str(stored)))
        if of_corpus.fingerprint != load_tokenizer(named).fingerprint:
            raise MismatchError(
                f"{stored} is not the tokenizer in {made}, so a model trained on one could not be tuned on the "
                f"other: delete {SAMPLE_DIR} and prepare it again, or set tokenizer.name={stored}"
            )
    return named


def load_chat_tokenizer(config: ResolvedSft) -> tuple[ResolvedSft, Tokenizer]:
    """The tokenizer with the chosen chat template in it, which is stored with the data and with exported models.

    Raises:
        ConfigError: The tokenizer has no special tokens or does not read them in text; or its own chat template is
            wanted, and it has none or an invalid one.
        DataError: It cannot be read.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    for token, number in ((tokenizer.bos_token, tokenizer.bos_id), (tokenizer.eos_token, tokenizer.eos_id)):
        if token is None:
            continue
        # Templates write them as text, which a tokenizer.json that knows the id but not the token would split.
        if tokenizer.encode(token) != [number]:
            raise ConfigError(
                f"tokenizer {tokenizer.name!r} does not read {token!r} as its token {number}, which is not among the "
                "added_tokens of its tokenizer.json: load it with transformers, save it, and name that folder"
            )
    name, template = choose_template(tokenizer, config.template)
    check_template(template, owner=tokenizer.name)
    source_config = tokenizer.source_config | {"chat_template": template}
    return dataclasses.replace(config, template=name), dataclasses.replace(tokenizer, source_config=source_config)

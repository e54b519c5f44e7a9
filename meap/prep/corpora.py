"""Corpora by name: one row each. A new corpus is one row here and a yaml.

A source that is no name in the table stands for files: a path, a glob, a folder or a URL.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meap.config.prep import PrepConfig
from meap.errors import ConfigError
from meap.places.addresses import require_plain_url
from meap.prep.formats import format_of, names_of
from meap.prep.inputs import InputFiles, find_inputs, with_validation
from meap.prep.resolved import (
    ResolvedPrep,
    check_addresses,
    check_shard_settings,
    default_tasks,
    patterns_of,
    require_tasks,
)

__all__ = ["CORPORA", "SAMPLE_DIR", "Corpus", "check_config", "make_sample", "resolve"]

SAMPLE_DIR = Path("data/sample")

_HELDOUT_RATIO = 0.01


@dataclass(frozen=True)
class Corpus:
    """Where a corpus is stored, and defaults for its preparation."""

    files: str
    """Path, glob, folder or URL."""
    about: str = "files"
    validation: str | None = None
    """The same for its validation set. Unset: a share of the documents is held out."""
    seq_len: int = 4096
    remote: str | None = None
    """Where its shards go by default. Unset: `remote` must be given."""
    make: Callable[[int], Path] | None = None
    """Makes the files by a seed, if they are not downloaded, and returns the folder of a tokenizer for them."""


def make_sample(seed: int) -> Path:
    """Make the built-in corpus and its tokenizer unless they exist; returns the tokenizer's folder."""
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus

    files = write_sample_corpus(SAMPLE_DIR / "corpus", seed=seed)
    return train_sample_tokenizer(files, SAMPLE_DIR / "tokenizer")


_C4 = "hf://datasets/allenai/c4"
_SLIMPAJAMA = "hf://datasets/cerebras/SlimPajama-627B"
_FINEWEB = "hf://datasets/HuggingFaceFW"

CORPORA = {
    "sample": Corpus(
        f"{SAMPLE_DIR}/corpus/*.json.gz",
        "built in, 6 MB of synthetic English: for trying the whole flow without a network",
        seq_len=256,
        remote=f"{SAMPLE_DIR}/mds",
        make=make_sample,
    ),
    "c4": Corpus(f"{_C4}/en/c4-train.*.json.gz", "English C4, 365 M documents in 1,024 files (305 GB): the paper's"),
    "c4_validation": Corpus(f"{_C4}/en/c4-validation.*.json.gz", "C4's own validation set, 365 thousand documents"),
    "c4_realnewslike": Corpus(f"{_C4}/realnewslike/c4-train.*.json.gz", "C4's news subset, 14 M documents (15 GB)"),
    "slimpajama": Corpus(
        f"{_SLIMPAJAMA}/train/chunk*/*.jsonl.zst",
        "SlimPajama, 627 B tokens of seven sources (895 GB in 59,166 files)",
        validation=f"{_SLIMPAJAMA}/validation/chunk*/*.jsonl.zst",
    ),
    "fineweb_10bt": Corpus(f"{_FINEWEB}/fineweb/sample/10BT/*.parquet", "FineWeb's sample of about 10 B tokens"),
    "fineweb_edu_10bt": Corpus(
        f"{_FINEWEB}/fineweb-edu/sample/10BT/*.parquet", "FineWeb-Edu's sample of about 10 B tokens"
    ),
}


def check_config(config: PrepConfig) -> PrepConfig:
    """Check the configuration before any input is read; returns it with the defaults of its corpus.

    Raises:
        ConfigError: A key is missing, holds a secret, or does not fit another.
    """
    corpora = _corpora_of(config)
    config = dataclasses.replace(
        config,
        remote=config.remote or (corpora[0].remote if len(corpora) == 1 else None),
        seq_len=config.seq_len or corpora[0].seq_len,
    )
    assert config.seq_len is not None
    check_addresses(config, example="data/c4/mds")
    for pattern in patterns_of(config.validation_source):
        require_plain_url("validation_source", pattern)
    if config.tokenizer.name is None and not any(corpus.make for corpus in corpora):
        raise ConfigError(
            f"tokenizer.name is not set: for source={','.join(patterns_of(config.source))} give a local folder with a "
            "tokenizer.json, or a hub name such as tokenizer.name=meta-llama/Llama-2-7b-hf"
        )
    check_shard_settings(config, row_bytes=4 * (config.seq_len + 1), seq_len=config.seq_len)
    return config


def resolve(config: PrepConfig) -> tuple[ResolvedPrep, InputFiles]:
    """Set every default, and list the input files; a sample corpus is made on the way.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no file.
    """
    config = check_config(config)
    corpora, tokenizer = _corpora_of(config), config.tokenizer
    for make in filter(None, (corpus.make for corpus in corpora)):
        made = make(config.seed)
        tokenizer = dataclasses.replace(tokenizer, name=tokenizer.name or str(made))
    validation_source = config.validation_source
    if validation_source is None and config.heldout_ratio is None and len(corpora) == 1:
        validation_source = corpora[0].validation
    inputs = _find(config.source, "source")
    if validation_source is not None:
        inputs = with_validation(inputs, _find(validation_source, "validation_source"))
    heldout_ratio = config.heldout_ratio
    if heldout_ratio is None:
        heldout_ratio = _HELDOUT_RATIO if validation_source is None else 0.0
    resolved = ResolvedPrep.of(
        config,
        tokenizer=tokenizer,
        validation_source=validation_source,
        heldout_ratio=heldout_ratio,
        tasks=require_tasks(config.tasks or default_tasks(inputs), inputs),
    )
    return resolved, inputs


def _corpora_of(config: PrepConfig) -> list[Corpus]:
    return [CORPORA.get(pattern) or Corpus(pattern) for pattern in patterns_of(config.source)]


def _find(source: str | tuple[str, ...], key: str) -> InputFiles:
    known = "; ".join(f"{name}: {each.about}" for name, each in CORPORA.items())
    inputs = find_inputs(
        tuple((CORPORA.get(pattern) or Corpus(pattern)).files for pattern in patterns_of(source)),
        kind=f"{names_of()}, or one of the known corpora ({known})",
        key=key,
    )
    formats = Counter(format_of(url).name for url in inputs.urls)
    if len(formats) > 1:  # a README.txt beside the data, perhaps
        counts = ", ".join(f"{count:,} of {name}" for name, count in formats.most_common())
        print(f"note: {key} holds files of several formats, and all are read: {counts}", file=sys.stderr, flush=True)
    return inputs

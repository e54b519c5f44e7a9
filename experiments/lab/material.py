"""Corpora, tokenizers and shards of an experiment, made once and by the product's own preparation."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from meap.errors import ConfigError, DataError
from meap.places.whole import write_whole

from .declaration import DatasetConfig
from .launching import run_command_line
from .texts import TEXTS, TextKind

__all__ = ["folder_of", "prepare"]

DATA_DIR, SHARDS_DIR = "data", "mds"
_NUM_PASSAGES = 100


def folder_of(out_dir: Path, name: str) -> Path:
    """Folder of a data set: corpus/, tokenizer/, mds/, and what evaluations read: passages.jsonl, prompts.jsonl."""
    return out_dir / DATA_DIR / name


def prepare(datasets: dict[str, DatasetConfig], out_dir: Path) -> None:
    """Make all data sets that are not there yet."""
    for name, config in datasets.items():
        folder = folder_of(out_dir, name)
        if not (folder / "done").is_file():
            _prepare(config, folder, out_dir)
            (folder / "done").touch()


def _prepare(config: DatasetConfig, folder: Path, out_dir: Path) -> None:
    from meap.evals.passages import generate_record_passages, write_passages
    from meap.prep.sample import train_sample_tokenizer

    if config.texts not in TEXTS:
        raise ConfigError(f"texts={config.texts} is not known: choose one of {', '.join(TEXTS)}")
    kind = TEXTS[config.texts]
    train = _write(config, folder / "corpus", config.source, config.megabytes)
    if config.tokenizer_of is not None:
        tokenizer = folder_of(out_dir, config.tokenizer_of) / "tokenizer"
    else:
        tokenizer = train_sample_tokenizer(train, folder / "tokenizer", vocab_size=config.vocab_size)
    if kind.prompts is not None:
        lines = [json.dumps(prompt) + "\n" for prompt in kind.prompts(config.seed)]
        write_whole(folder / "prompts.jsonl", "".join(lines))
    if config.texts == "records":
        write_passages(generate_record_passages(config.seed, _NUM_PASSAGES), folder / "passages.jsonl")
    held_out = []
    if config.heldout:
        _write(config, folder / "heldout", config.heldout, config.megabytes / 4)
        held_out = [f"validation_source={folder / 'heldout'}/*.json.gz"]
    run_command_line(
        folder / "prepare.txt",
        f"dataprep/{kind.preparation}.py",
        f"source={folder / 'corpus'}/*.json.gz",
        f"tokenizer.name={tokenizer}",
        f"remote={folder / SHARDS_DIR}",
        *held_out,
        *config.settings,
    )


def _write(config: DatasetConfig, folder: Path, source: Sequence[str], megabytes: float) -> list[Path]:
    """The texts as files in C4's format, conversations as their fields."""
    from meap.prep.sample import write_sample_corpus

    kind = TEXTS[config.texts]
    if kind.preparation == "sft_to_mds":
        return [_write_lines(kind, config, folder / "sample.json.gz", megabytes)]
    if kind.reads is None:
        assert kind.text_of is not None
        return write_sample_corpus(folder, seed=config.seed, megabytes=megabytes, text_of=kind.text_of)
    texts = kind.reads(source)
    if (found := sum(map(len, texts)) / 1e6) < megabytes:
        raise DataError(f"{', '.join(source)} hold {found:.2f} MB of text, but {megabytes} are asked for: add sources")
    return write_sample_corpus(folder, megabytes=megabytes, text_of=partial(_entry, texts))


def _write_lines(kind: TextKind, config: DatasetConfig, path: Path, megabytes: float) -> Path:
    """Records of conversations, which are JSON already, as JSON lines."""
    assert kind.text_of is not None
    lines, written = list[str](), 0
    while written < megabytes * 1e6:
        lines.append(kind.text_of(config.seed, len(lines)))
        written += len(lines[-1])
    write_whole(path, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    return path


def _entry(texts: Sequence[str], seed: int, index: int) -> str:
    del seed
    return texts[index]

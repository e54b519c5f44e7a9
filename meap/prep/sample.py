"""Makes a corpus in C4's format and a tokenizer for it, so that the whole flow runs without a network.

    meap.synthetic -> sample-train.00000-of-00004.json.gz ...     write_sample_corpus
                   -> tokenizer.json, tokenizer_config.json       train_sample_tokenizer

Both store a record (sample.json, sample_tokenizer.json) of their arguments and the hashes of their files; called again
with the same, they check it and reuse the files. Files are made in a temporary folder beside their place and moved once
complete, so that none is ever half written. The texts are the same on every platform; the compressed bytes depend on
the zlib that Python was built with.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from meap.errors import BadInputError, ConfigError, DataError
from meap.json_text import parse_json, read_small
from meap.places.whole import whole_files
from meap.synthetic import generate_document

__all__ = ["recorded_seed", "train_sample_tokenizer", "write_sample_corpus"]

CORPUS_RECORD = "sample.json"
TOKENIZER_RECORD = "sample_tokenizer.json"
MAX_FILES = 1000

BOS_TOKEN, EOS_TOKEN = "<s>", "</s>"
MIN_VOCAB_SIZE = 258
"""The 256 bytes and the two special tokens: the smallest vocabulary that can write every text."""

_COMPRESSION_LEVEL = 6
_TextOf = Callable[[int, int], str]
"""The text of a document, by seed and index."""

_FIRST_CRAWL = datetime(2019, 4, 18, tzinfo=UTC)
_CRAWL_SECONDS = 9 * 24 * 3600
_NO_TOKEN_LIMIT = 10**9


def _text_of_document(seed: int, index: int) -> str:
    return generate_document(seed, index).text


def write_sample_corpus(
    out_dir: Path,
    *,
    seed: int = 0,
    megabytes: float = 6.0,
    num_files: int = 4,
    text_of: _TextOf = _text_of_document,
) -> list[Path]:
    """Write synthetic documents as C4 does: gzip files of JSON lines with the keys text, timestamp and url.

    Args:
        out_dir: Folder to write to; it is made if need be. A record named sample.json is left beside the files.
        seed: Which corpus; any integer.
        megabytes: Characters of text in all, in millions, greater than 0; the document that reaches it is the last.
        num_files: How many files the documents are dealt out to in turn, in [1, 1000]; each gets one at least.
        text_of: The text of each document, by seed and index.

    Returns:
        The files, in order. The same arguments give the same bytes; files that are there already and match are reused.

    Raises:
        ConfigError: If megabytes or num_files is out of its range.
    """
    if not 0 < megabytes < float("inf"):
        raise ConfigError(f"megabytes is {megabytes}, but must be finite and greater than 0; 6 is enough for the demo")
    if not 1 <= num_files <= MAX_FILES:
        raise ConfigError(f"num_files is {num_files}, but must be in [1, {MAX_FILES}]; 4 is enough for the demo")
    names = [f"sample-train.{number:05d}-of-{num_files:05d}.json.gz" for number in range(num_files)]
    paths = [out_dir / name for name in names]
    asked = {
        "seed": seed,
        "megabytes": megabytes,
        "num_files": num_files,
        "generator": _generator_fingerprint(text_of, seed),
    }
    if _read_record(out_dir / CORPUS_RECORD) == {**asked, "sha256": {path.name: _sha256(path) for path in paths}}:
        return paths

    with whole_files(out_dir, [*names, CORPUS_RECORD]) as folder:
        drafts = [folder / name for name in names]
        _write_files(drafts, text_of, seed, num_characters=megabytes * 1e6)
        _write_json(folder / CORPUS_RECORD, {**asked, "sha256": {draft.name: _sha256(draft) for draft in drafts}})
        for stale in set(out_dir.glob("sample-train.*-of-*.json.gz")) - set(paths):
            stale.unlink()  # else a glob would mix two corpora
    return paths


def recorded_seed(corpus_dir: Path) -> int:
    """The seed of the corpus that `write_sample_corpus` left in a folder, or its default where there is none."""
    seed = _read_record(corpus_dir / CORPUS_RECORD).get("seed")
    return seed if isinstance(seed, int) else 0


def train_sample_tokenizer(corpus_files: Sequence[Path], out_dir: Path, *, vocab_size: int = 2048) -> Path:
    """Train a byte-level BPE on C4-format files: every text comes back exactly, and each digit is a token.

    Single digits let a model copy a number token by token. The tokens <s> and </s> have ids 0 and 1; there is no mask
    token, since the project adds it when it loads a tokenizer.

    Args:
        corpus_files: Files as `write_sample_corpus` writes them, read in this order.
        out_dir: Folder to write tokenizer.json and tokenizer_config.json to; it is made if need be.
        vocab_size: Number of ids, at least 258: the 256 bytes and the two special tokens.

    Returns:
        `out_dir`. The same arguments give the same bytes; files that are there already and match are reused.

    Raises:
        ConfigError: If vocab_size is below 258.
        DataError: If there are no files, a file is missing, or there is too little text for the vocabulary.
        BadInputError: If a line is not a JSON object with a text.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"vocab_size is {vocab_size}, but must be at least {MIN_VOCAB_SIZE} (256 bytes and 2 special tokens); "
            "2048 is enough for the demo"
        )
    if not corpus_files:
        raise DataError("corpus_files is empty, but a tokenizer needs at least 1 file; run write_sample_corpus first")
    inputs = [_sha256(path) for path in corpus_files]
    if None in inputs:
        missing = corpus_files[inputs.index(None)]
        raise DataError(f"corpus file {missing} does not exist; run write_sample_corpus first or correct the path")
    outputs = [out_dir / "tokenizer.json", out_dir / "tokenizer_config.json"]
    asked = {"vocab_size": vocab_size, "inputs": inputs}
    if _read_record(out_dir / TOKENIZER_RECORD) == {**asked, "sha256": {path.name: _sha256(path) for path in outputs}}:
        return out_dir

    tokenizer = _train(corpus_files, vocab_size)
    config = {
        "bos_token": BOS_TOKEN,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS_TOKEN,
        "model_max_length": _NO_TOKEN_LIMIT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    with whole_files(out_dir, [*(path.name for path in outputs), TOKENIZER_RECORD]) as folder:
        drafts = [folder / path.name for path in outputs]
        drafts[0].write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        _write_json(drafts[1], config)
        record = {**asked, "sha256": {draft.name: _sha256(draft) for draft in drafts}}
        _write_json(folder / TOKENIZER_RECORD, record)
    return out_dir


def _train(corpus_files: Sequence[Path], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable(map(_read_texts, corpus_files)), trainer)
    if (found := tokenizer.get_vocab_size()) != vocab_size:
        raise DataError(
            f"vocab_size is {vocab_size}, but the {len(corpus_files)} corpus files have text for {found} tokens only; "
            f"write a larger corpus or ask for at most {found}"
        )
    return tokenizer


def _read_texts(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield parse_json(line)["text"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"corpus file {path} is not gzip with one JSON object with a text in each line ({error!r}); "
            "remove it and run write_sample_corpus again"
        ) from error


def _write_files(paths: Sequence[Path], text_of: _TextOf, seed: int, *, num_characters: float) -> None:
    with ExitStack() as stack:
        # No name and no time in the headers: the bytes depend on the text alone.
        raw_files = [stack.enter_context(path.open("wb")) for path in paths]
        files = [
            stack.enter_context(gzip.GzipFile("", "wb", compresslevel=_COMPRESSION_LEVEL, fileobj=raw_file, mtime=0))
            for raw_file in raw_files
        ]
        index = 0
        written = 0
        while written < num_characters or index < len(files):
            text = text_of(seed, index)
            files[index % len(files)].write(_c4_line(text, seed, index))
            written += len(text)
            index += 1


def _c4_line(text: str, seed: int, index: int) -> bytes:
    rng = random.Random(f"meap/c4-line/{seed}/{index}")  # noqa: S311
    crawled = _FIRST_CRAWL + timedelta(seconds=int(rng.random() * _CRAWL_SECONDS))
    site, page = int(rng.random() * 1000), int(rng.random() * 10**6)
    line = {
        "text": text,
        "timestamp": crawled.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "url": f"https://example.invalid/{site:03d}/{index}-{page:06d}.html",
    }
    return json.dumps(line).encode() + b"\n"


def _generator_fingerprint(text_of: _TextOf, seed: int) -> str:
    """Hash of a few documents: when the generator changes, a corpus of the earlier one is not taken for its own."""
    digest = hashlib.sha256()
    for index in range(16):
        digest.update(_c4_line(text_of(seed, index), seed, index))
    return digest.hexdigest()


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = parse_json(read_small(path).decode())
    except (OSError, ValueError):
        return {}  # absent or damaged: there is nothing to reuse
    return record if isinstance(record, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

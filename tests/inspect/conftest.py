"""Small shards of both kinds, made of text of every sort."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meap.answers import END, SCORED, with_long_answers
from meap.config import load_config
from meap.config.commands import InspectConfig
from meap.manifest import CONVERSATIONS, ROWS, Manifest, ShardRecord, TokenizerRecord
from meap.packing import RowPacker
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR, conversation_columns, mds_columns

TEXTS = (
    "The harbour lay quiet under a grey sky.\nThe boats rocked without a sound.",
    "Grüße aus Zürich, déjà vu; 東京の夜、привет, 👩🏽\u200d🚀 and \N{REPLACEMENT CHARACTER}!",
    '<script>alert(1)</script> red \x1b[31malert\x1b[0m, bell \x07, \u202eturned\u202c, return\r, & "more" ⟦x⟧',
    "She counted the letters twice, tied them with a ribbon and put them back into the drawer.",
)
SEQ_LEN, SFT_SEQ_LEN, MIN_ANSWER = 64, 512, 20


def _write(folder: Path, tokenizer, columns: dict[str, str], rows: list[dict], **facts) -> None:
    from streaming import MDSWriter

    with MDSWriter(columns=columns, out=str(folder), compression="zstd", hashes=["xxh3_64"], size_limit=4096) as writer:
        for row in rows:
            writer.write(row)
    index = json.loads((folder / "index.json").read_text())
    shards = tuple(
        ShardRecord(name, len(content), hashlib.sha256(content).hexdigest(), shard["samples"])
        for shard in index["shards"]
        for name in [shard["zip_data"]["basename"]]
        for content in [(folder / name).read_bytes()]
    )
    recorded = TokenizerRecord(
        tokenizer.name,
        tokenizer.fingerprint,
        tokenizer.vocab_size,
        tokenizer.bos_id,
        tokenizer.eos_id,
        tokenizer.mask_id,
    )
    manifest = Manifest(
        split=folder.name,
        dtype="uint16",
        hash_algorithm="xxh3_64",
        rows=len(rows),
        dropped_tail_tokens=0,
        bad_lines=0,
        tokenizer=recorded,
        shards=shards,
        sources=(),
        versions={},
        **facts,
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json())


@pytest.fixture(scope="session")
def documents(tokenizer) -> list[list[int]]:
    return [tokenizer.encode(f"{number}: {TEXTS[number % len(TEXTS)]}") for number in range(160)]


@pytest.fixture(scope="session")
def rows_remote(tokenizer, documents, tmp_path_factory) -> Path:
    remote = tmp_path_factory.mktemp("rows")
    packer = RowPacker(SEQ_LEN + 1, borders=tokenizer.record.borders, dtype=np.dtype(np.uint16))
    rows = packer.pack([np.array(each) for each in documents])
    rows = rows[: len(rows) // 4 * 4]  # so that a loader of four rows a batch leaves none out
    for split, kept in (("train", rows), ("validation", rows[:5])):
        _write(
            remote / split,
            tokenizer,
            mds_columns(SEQ_LEN, tokenizer.vocab_size),
            [{"tokens": row} for row in kept],
            kind=ROWS,
            seq_len=SEQ_LEN,
            documents=len(documents),
            tokens=len(kept) * (SEQ_LEN + 1),
            config={},
        )
    tokenizer.save(remote / TOKENIZER_DIR)
    return remote


def _flags(question: int, answer: int) -> np.ndarray:
    """Of a question and an answer that ends with EOS."""
    flags = np.array([0] * question + [SCORED] * (answer - 1) + [SCORED | END], np.uint8)
    return with_long_answers(flags, MIN_ANSWER)


@pytest.fixture(scope="session")
def sft_remote(tokenizer, tmp_path_factory) -> Path:
    """Rows of two or three conversations, of which some have a copy, after a chat template of no words."""
    remote = tmp_path_factory.mktemp("sft")
    rows = []
    for number in range(24):
        conversations = []
        for turn in range(2 + number % 2):
            question = [tokenizer.bos_id, *tokenizer.encode(TEXTS[(number + turn) % len(TEXTS)][:20])]
            answer = [*tokenizer.encode(TEXTS[(number + turn + 1) % len(TEXTS)][: 8 + 20 * turn]), tokenizer.eos_id]
            conversations.append((question, answer))
        rows.append(
            {
                "tokens": np.concatenate([question + answer for question, answer in conversations]).astype(np.uint16),
                "answer": np.concatenate([_flags(len(q), len(a)) for q, a in conversations]),
                "lengths": np.array([len(q) + len(a) for q, a in conversations], np.uint32),
                "copied": np.array([len(a) - 1 > MIN_ANSWER for _, a in conversations], np.uint8),
            }
        )
    _write(
        remote / "train",
        tokenizer,
        conversation_columns(tokenizer.vocab_size),
        rows,
        kind=CONVERSATIONS,
        seq_len=SFT_SEQ_LEN,
        documents=sum(len(row["lengths"]) for row in rows),
        tokens=sum(len(row["tokens"]) for row in rows),
        config={"min_answer_tokens": MIN_ANSWER, "copies": True},
        counts={"conversations_copied": sum(int(row["copied"].sum()) for row in rows)},
    )
    tokenizer.save(remote / TOKENIZER_DIR)
    return remote


@pytest.fixture
def open_split(tmp_path) -> Callable:
    """Open a data set as the command line would: ``open_split(remote, "epoch=1")``."""
    from meap.inspect.samples import open_data

    opened = iter(range(1000))

    def open_it(remote: Path, *arguments: str):
        config = load_config(InspectConfig, None, [f"remote={remote}", *arguments])
        return open_data(config, str(tmp_path / f"cache{next(opened)}"))

    return open_it


@pytest.fixture
def with_manifest() -> Callable:
    """The same data with another manifest."""
    return lambda data, **changed: dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, **changed))

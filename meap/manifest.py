"""The manifest of a finished split: its files, hashes, configuration and tokenizer, beside its ``index.json``.

`meap.prep` writes it, `meap.data` refuses to train without it. The index is written last, so that a folder with an
index is a complete split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, cast

from meap.errors import DataError
from meap.json_text import parse_json, require_types

__all__ = ["CONVERSATIONS", "FORMAT_VERSION", "ROWS", "Manifest", "ShardRecord", "TokenizerRecord"]

FORMAT_VERSION = 2

ROWS, CONVERSATIONS = "rows", "conversations"
"""Kinds of a split: packed rows of documents, or packed rows of whole conversations for fine-tuning."""


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer that made the ids."""

    name: str
    fingerprint: str
    vocab_size: int
    bos_id: int | None
    eos_id: int
    mask_id: int
    separator: str = "bos_eos"
    """What stands around each document of packed rows, `bos_eos` or `eos`."""
    direction_id: int | None = None
    """Begins rows that are read right to left; None where training has not added it."""

    @property
    def borders(self) -> tuple[int, ...]:
        """Ids around each document of packed rows: BOS before it and EOS after it, or EOS alone."""
        return (self.eos_id,) if self.bos_id is None or self.separator == "eos" else (self.bos_id, self.eos_id)


@dataclass(frozen=True)
class ShardRecord:
    """One shard file as stored (compressed where the data set is)."""

    basename: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """Facts about one split."""

    split: str
    seq_len: int
    """Input tokens per row; rows hold one more."""
    dtype: str
    """Integer type of the ``tokens`` column."""
    hash_algorithm: str
    """The hash in ``index.json`` that readers validate shards with."""
    documents: int
    tokens: int
    """Tokens of all documents, BOS and EOS included: rows * (seq_len + 1) + dropped_tail_tokens."""
    rows: int
    dropped_tail_tokens: int
    """Tokens at the end of each task that did not fill a row."""
    bad_lines: int
    """Unreadable lines that were counted, reported and skipped: those of the whole job, the same in every split."""
    tokenizer: TokenizerRecord
    shards: tuple[ShardRecord, ...]
    sources: tuple[str, ...]
    """Input files in the order in which they were read."""
    config: dict[str, Any]
    """The resolved configuration."""
    versions: dict[str, str]
    kind: str = ROWS
    """`rows` or `conversations`; `documents` then counts conversations, and `tokens` excludes copies."""
    text_bytes: int | None = None
    """UTF-8 bytes of all documents; None for imported rows, which come without their text."""
    dropped_tail_documents: int = 0
    """Documents whose end is among the dropped tail's tokens; `documents` counts them, too."""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """Further counts of preparation, such as conversations cut to length."""
    stop_ids: tuple[int, ...] = ()
    """Ids of the tokens that end scored answers, the most frequent first; empty for packed rows of documents."""
    job: str = ""
    """Identity of the preparation that wrote the split; empty where shards were made in another way."""
    format_version: int = FORMAT_VERSION

    @property
    def identity(self) -> str:
        """Fingerprint of the split's content, wherever it is: its number of rows, and a hash of the shards' hashes.

        Shard borders decide the order of an epoch. Data may be copied and moved, but the same rows in other shards, or
        with another compression, have another fingerprint.
        """
        digest = hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()
        return f"{self.rows:,} rows in {len(self.shards):,} shards (sha256 {digest[:12]})"

    def to_json(self) -> str:
        """The manifest as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str) -> Manifest:
        """Parse what `to_json` wrote.

        Args:
            text: JSON text.
            origin: Path or URL it was read from, for the error message.

        Raises:
            DataError: The text is not a manifest, or one of another format version, or it names files elsewhere.
        """
        remedy = "prepare the data again"
        try:
            values = cast("dict[str, Any]", parse_json(text))
            version = values["format_version"]
            if version != FORMAT_VERSION:
                raise DataError(f"{origin} has format version {version}, this program reads {FORMAT_VERSION}: {remedy}")
            for shard in values["shards"]:
                name = PurePosixPath(shard["basename"])
                if name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{origin} names a shard {name} outside its folder: {remedy}")
            manifest = cls(
                **values
                | {
                    "tokenizer": TokenizerRecord(**values["tokenizer"]),
                    "shards": tuple(ShardRecord(**shard) for shard in values["shards"]),
                    "sources": tuple(values["sources"]),
                    "stop_ids": tuple(values["stop_ids"]),
                }
            )
            require_types(manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{origin} is not a manifest ({type(error).__name__}: {error}): {remedy}") from error
        return manifest

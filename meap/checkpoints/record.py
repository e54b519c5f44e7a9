"""The record of a checkpoint: its files with sizes and hashes, the run that wrote them, and how to use them."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import xxhash

from meap.errors import CheckpointError
from meap.json_text import parse_json, require_types
from meap.manifest import TokenizerRecord
from meap.usage import Usage

__all__ = ["CheckpointFile", "CheckpointRecord", "ModelRecord", "describe_content", "describe_file", "matches"]

_FORMAT = 3
_READ_BYTES = 1 << 24
# Files that a record names are read and deleted, so no name may lead out of the checkpoint's folder.
_FILE_NAME = re.compile(r"ba\d+(\.pt|/[A-Za-z0-9_.]+)")
_SHARED_NAME = re.compile(r"tokenizer/[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class CheckpointFile:
    """One file of a checkpoint."""

    name: str
    """Relative to the folder of checkpoints: ``ba120.pt`` or ``ba120/__0_0.distcp``."""
    size: int
    xxh3_128: str


@dataclass(frozen=True)
class ModelRecord:
    """What is needed to use a run's weights without its data or its base model."""

    architecture: dict[str, Any]
    """Transformers' configuration of the model, `model_type` included."""
    rows_without_mask: int | None
    """Embedding rows before the mask token was added; None if no run added it."""
    tokenizer: TokenizerRecord
    tokenizer_files: tuple[CheckpointFile, ...]
    """Shared by all checkpoints of the folder: ``tokenizer/tokenizer.json`` below it."""
    base_fingerprint: str | None = None
    """Of the frozen base that adapters stand beside and checkpoints leave out; None where they hold all weights."""
    base_dtype: str = "fp32"
    """What a frozen base was computed in, fp32 or bf16."""
    usage: Usage = field(default_factory=Usage)
    """How the model is prompted, and what ends its answers."""


@dataclass(frozen=True)
class CheckpointRecord:
    """What must be known of a checkpoint before it is read."""

    step: int
    """Optimiser steps taken."""
    epoch: int
    tokens: int
    """Input tokens seen."""
    run: str
    """Name of the run that wrote it."""
    kind: Literal["full", "sharded"]
    """All state in one file, or a folder that torch.distributed.checkpoint reads."""
    world_size: int
    config: dict[str, Any]
    """The run's resolved configuration."""
    model: ModelRecord
    data: dict[str, str] = field(default_factory=dict[str, str])
    """Fingerprint of the rows of each stream, as `meap.data.Shards.identity` gives it."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    files: tuple[CheckpointFile, ...] = ()

    @property
    def name(self) -> str:
        """The one file, or the folder, relative to the folder of checkpoints."""
        return f"ba{self.step}.pt" if self.kind == "full" else f"ba{self.step}"

    def to_json(self) -> bytes:
        """The record as stored, with a hash of its own."""
        content = {"format": _FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**content, "xxh3_128": _hash_of(content)}, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes) -> CheckpointRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is damaged, or names a file outside the folder of checkpoints.
            CheckpointError: It has another format version.
        """
        try:
            content = cast("dict[str, Any]", parse_json(text))
            stored_hash = content.pop("xxh3_128")
            if stored_hash != _hash_of(content):
                raise ValueError("its hash does not match its content")
            if (found := content.pop("format")) != _FORMAT:
                raise CheckpointError(
                    f"the record of step {content['step']} has format {found}, this program reads {_FORMAT}: use the "
                    "version of the program that wrote it"
                )
            model = content.pop("model")
            model |= {
                "tokenizer": TokenizerRecord(**model["tokenizer"]),
                "tokenizer_files": tuple(CheckpointFile(**each) for each in model["tokenizer_files"]),
                "usage": Usage(**model["usage"] | {"stop_ids": tuple(model["usage"]["stop_ids"])}),
            }
            files = tuple(CheckpointFile(**each) for each in content.pop("files"))
            record = cls(**content, model=ModelRecord(**model), files=files)
            require_types(record)
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"it is not a complete record ({type(error).__name__}: {error})") from error
        for allowed, named in ((_FILE_NAME, record.files), (_SHARED_NAME, record.model.tokenizer_files)):
            for file in named:
                if not allowed.fullmatch(file.name) or ".." in file.name:
                    raise ValueError(f"it names {file.name!r}, which is not a file of a checkpoint")
        return record


def describe_file(path: Path, name: str) -> CheckpointFile:
    """Size and hash of a local file, to be stored as `name`."""
    size, digest = _read(path)
    return CheckpointFile(name, size, digest)


def describe_content(content: bytes, name: str) -> CheckpointFile:
    """Size and hash of content to be stored as `name`."""
    return CheckpointFile(name, len(content), xxhash.xxh3_128(content).hexdigest())


def matches(path: Path, file: CheckpointFile) -> bool:
    """Whether a local file exists with the recorded size and hash."""
    return path.is_file() and path.stat().st_size == file.size and _read(path)[1] == file.xxh3_128


def _read(path: Path) -> tuple[int, str]:
    digest, size = xxhash.xxh3_128(), 0
    with path.open("rb") as handle:
        while block := handle.read(_READ_BYTES):
            digest.update(block)  # releases the interpreter's lock
            size += len(block)
    return size, digest.hexdigest()


def _hash_of(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""Finds data sets: a folder or URL may be a split, a data set, or hold several data sets side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from meap.config.data import TokenizerConfig
from meap.errors import DataError, IncompleteError
from meap.json_text import parse_json
from meap.manifest import Manifest
from meap.mds.index import INDEX_NAME, is_shard_name, parse_index
from meap.places.addresses import is_url
from meap.places.folder import Folder
from meap.places.whole import temporary_folder
from meap.prep.document_counts import DOCUMENTS_NAME, DocumentCounts
from meap.prep.task_records import PREP_DIR, TASKS_DIR, TaskRecord, parts_of
from meap.schema import MANIFEST_NAME, SPLITS, TOKENIZER_DIR
from meap.tokenizer import TOKENIZER_FILES, Tokenizer, load_tokenizer

__all__ = [
    "DataSet",
    "find_data_sets",
    "read_documents",
    "read_index",
    "read_tokenizer",
    "read_whole_manifest",
    "task_records",
]

_TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class DataSet:
    """Splits that were prepared together, and their tokenizer."""

    folder: Folder
    """It holds the splits, `tokenizer` and `.prep`."""
    stream: str
    """Its name among several data sets; empty for a single one."""
    splits: tuple[str, ...]
    """Folders of splits that exist, that task records name, or that were asked for."""
    is_part: bool = False
    """Whether a single split was asked for."""
    parent: Folder | None = None
    """It holds the data sets of several streams, and perhaps `.prep` of the job that made them."""

    def label(self, split: str) -> str:
        """A split as shown to users."""
        return f"{self.stream}/{split}" if self.stream else split


def find_data_sets(location: str) -> list[DataSet]:
    """The data sets at a folder or URL: one, or those of its streams, by name.

    Raises:
        DataError: There is none.
    """
    if not is_url(location):
        location = str(Path(location).expanduser())
        if Path(location).name in {"", ".."}:
            location = str(Path(location).resolve())
    folder = Folder(location)
    entries = folder.entries()
    if _is_split(entries):
        root, _, split = folder.url.rpartition("/")
        return [DataSet(Folder(root or "."), "", (split,), is_part=True)]
    recorded = parts_of(task_records(folder).values()) if PREP_DIR in entries else []
    if splits := _splits_in([*entries, *recorded]):
        return [DataSet(folder, "", splits)]
    names = {each.partition("/")[0] for each in recorded} | set(folder.subfolders()) - {PREP_DIR, TOKENIZER_DIR}
    streams: list[DataSet] = []
    for name in sorted(names):
        below = Folder(folder.url_of(name))
        of_stream = [part.partition("/")[2] for part in recorded if part.startswith(f"{name}/")]
        if splits := _splits_in([*below.entries(), *of_stream]):
            streams.append(DataSet(below, name, splits, parent=folder))
    if streams:
        return streams
    if PREP_DIR in entries:
        return [DataSet(folder, "", ())]
    raise DataError(
        f"remote={location} holds no data set: name the folder or URL that preparation wrote (it holds "
        f"{', '.join(SPLITS)}), a split of it, or a folder of such folders"
    )


def read_tokenizer(data: DataSet, name: str) -> Tokenizer:
    """The tokenizer stored with the data.

    Args:
        data: Where.
        name: What it is called in the manifest.

    Raises:
        IncompleteError: It does not exist.
        DataError: It cannot be read.
        ConfigError: It lacks a special token.
    """
    contents = data.folder.read_all([f"{TOKENIZER_DIR}/{each}" for each in TOKENIZER_FILES])
    if missing := [each for each in TOKENIZER_FILES if f"{TOKENIZER_DIR}/{each}" not in contents]:
        raise IncompleteError(f"there is no {', '.join(missing)} in {data.folder.url_of(TOKENIZER_DIR)}")
    with temporary_folder("meap-tokenizer-") as folder:
        for each in TOKENIZER_FILES:
            (folder / each).write_bytes(contents[f"{TOKENIZER_DIR}/{each}"])
        config = cast("dict[str, Any]", parse_json(contents[f"{TOKENIZER_DIR}/{_TOKENIZER_CONFIG}"]))
        mask_token = str(config.get("mask_token") or TokenizerConfig.mask_token)
        loaded = load_tokenizer(TokenizerConfig(name=str(folder), mask_token=mask_token))
    return dataclasses.replace(loaded, name=name)


def read_whole_manifest(data: DataSet, split: str) -> Manifest:
    """The manifest of a finished split.

    Raises:
        IncompleteError: The split is not finished.
        DataError: The manifest is damaged.
    """
    names = (f"{split}/{INDEX_NAME}", f"{split}/{MANIFEST_NAME}")
    contents = data.folder.read_all(list(names))
    if missing := [name for name in names if name not in contents]:
        raise IncompleteError(
            f"{data.folder.url_of(missing[0])} is missing, so the data set is not complete: run the same preparation "
            "command again"
        )
    return Manifest.from_json(contents[names[1]], origin=data.folder.url_of(names[1]))


def read_index(data: DataSet, split: str) -> list[Any]:
    """The entries of a finished split's index, not checked yet.

    Raises:
        DataError: It cannot be read.
    """
    name = f"{split}/{INDEX_NAME}"
    try:
        return parse_index(data.folder.read(name) or b"")[1]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{data.folder.url_of(name)} is not an index ({type(error).__name__}: {error}): run the same preparation "
            "command again"
        ) from error


def read_documents(data: DataSet, split: str) -> DocumentCounts | None:
    """What preparation has counted of a split's documents; None if it is not stored.

    Raises:
        DataError: It is damaged.
    """
    name = f"{split}/{DOCUMENTS_NAME}"
    content = data.folder.read(name)
    return None if content is None else DocumentCounts.parse(content, origin=data.folder.url_of(name))


def task_records(folder: Folder) -> dict[int, TaskRecord]:
    """The readable task records in a job's folder, by task."""
    names = sorted(name for name in folder.sizes(TASKS_DIR) if name.endswith(".json"))
    records: dict[int, TaskRecord] = {}
    for content in folder.read_all([f"{TASKS_DIR}/{name}" for name in names]).values():
        try:
            record = TaskRecord.from_json(content)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        records[record.task] = record
    return records


def _is_split(entries: Sequence[str]) -> bool:
    return INDEX_NAME in entries or MANIFEST_NAME in entries or any(map(is_shard_name, entries))


def _splits_in(entries: Sequence[str]) -> tuple[str, ...]:
    return tuple(split for split in SPLITS if split in entries)

"""The metadata of a split: manifest, index and document counts, parsed with nothing in them trusted, and compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from meap.errors import DataError, MeapError
from meap.manifest import CONVERSATIONS, ROWS, Manifest
from meap.mds.findings import FETCH_AGAIN, PREPARE_AGAIN, Finding, ShardError
from meap.mds.index import (
    HASH_ALGORITHM,
    INDEX_NAME,
    INDEX_VERSION,
    SHARD_FORMAT,
    Column,
    ShardEntry,
    is_shard_name,
    parse_entry,
    parse_index,
)
from meap.mds.reading import HASHES
from meap.prep.audit.places import DataSet
from meap.prep.audit.shard import CheckedShard, ShardTask, expected_columns
from meap.prep.document_counts import DOCUMENTS_NAME, DocumentCounts
from meap.schema import MANIFEST_NAME, TRAIN_SPLIT

__all__ = ["RUN_AGAIN", "Split", "look_at"]

RUN_AGAIN = "run the same preparation command again; it continues where it was interrupted"
_KINDS = (ROWS, CONVERSATIONS)


@dataclass
class Split:
    """A split whose metadata has been checked."""

    data: DataSet
    name: str
    manifest: Manifest | None = None
    tasks: list[ShardTask] = field(default_factory=list)
    is_readable: bool = False
    """Whether index and manifest allow to check all shards against them."""
    results: list[CheckedShard] = field(default_factory=list)

    def file(self, name: str) -> str:
        """A file of the split as shown to users."""
        return self.data.folder.url_of(f"{self.name}/{name}")


def look_at(data: DataSet, name: str, findings: list[Finding]) -> Split:
    """Check the metadata of a split, and list its shards.

    Args:
        data: Its data set.
        name: Its folder.
        findings: Problems are appended here.
    """
    split = Split(data, name)
    contents = data.folder.read_all([f"{name}/{each}" for each in (INDEX_NAME, MANIFEST_NAME, DOCUMENTS_NAME)])
    if f"{name}/{INDEX_NAME}" not in contents:
        if name != TRAIN_SPLIT or data.is_part:  # else it has been reported already
            findings.append(Finding(split.file(INDEX_NAME), "split is not complete", "an index", "none", RUN_AGAIN))
        return split
    split.manifest = _read_manifest(split, contents.get(f"{name}/{MANIFEST_NAME}"), findings)
    parsed = _read_index(split, contents[f"{name}/{INDEX_NAME}"], findings)
    if parsed is None:
        return split
    entries = [entry for entry in parsed if entry is not None]
    sizes = data.folder.sizes(name)
    findings += _unlisted(split, entries, sizes)
    if split.manifest is None:
        findings += _wrong_sizes(split, entries, sizes)
        return split
    findings += _check_documents(split, split.manifest, contents.get(f"{name}/{DOCUMENTS_NAME}"))
    _compare(split, entries, findings)
    _add_tasks(split, split.manifest, entries, sizes, findings)
    split.is_readable = len(split.tasks) == len(parsed)
    return split


def _unlisted(split: Split, entries: Sequence[ShardEntry], sizes: Mapping[str, int]) -> list[Finding]:
    listed = {entry.stored.basename for entry in entries}
    listed |= {shard.basename for shard in split.manifest.shards} if split.manifest else set()
    return [
        Finding(split.file(unlisted), "shard file", "a name in the index", "none", "delete it, it is not data")
        for unlisted in sorted(sizes.keys() - listed)
        if is_shard_name(unlisted) or f".{SHARD_FORMAT}" in unlisted
    ]


def _wrong_sizes(split: Split, entries: Sequence[ShardEntry], sizes: Mapping[str, int]) -> list[Finding]:
    """Compare sizes alone: without a manifest, the shards cannot be decoded."""
    return [
        Finding(split.file(entry.stored.basename), "shard file", f"{entry.stored.bytes:,} bytes", found, FETCH_AGAIN)
        for entry in entries
        if (found := _bytes(sizes.get(entry.stored.basename))) != f"{entry.stored.bytes:,} bytes"
    ]


def _check_documents(split: Split, manifest: Manifest, content: bytes | None) -> list[Finding]:
    file = split.file(DOCUMENTS_NAME)
    remedy = f"delete {split.file(INDEX_NAME)} and run the same preparation command again, which writes both"
    if content is None:
        return [Finding(file, "document counts", "a file", "none", remedy)]
    try:
        counts = DocumentCounts.parse(content, origin=file)
    except DataError as error:
        return [Finding(file, "document counts", "readable ones", str(error), remedy)]
    if (found := counts.lengths.total()) != manifest.documents:
        return [Finding(file, "documents", f"{manifest.documents:,} (manifest)", f"{found:,}", remedy)]
    return []


def _add_tasks(
    split: Split, manifest: Manifest, entries: Sequence[ShardEntry], sizes: Mapping[str, int], findings: list[Finding]
) -> None:
    columns, records = _columns(manifest), {shard.basename: shard for shard in manifest.shards}
    for entry in entries:
        name = entry.stored.basename
        if sorted(entry.columns, key=lambda column: column.name) != columns:
            expected, found = (_describe_columns(each) for each in (columns, entry.columns))
            findings.append(Finding(split.file(name), "columns", expected, found, PREPARE_AGAIN))
            continue
        path = f"{split.name}/{name}"
        split.tasks.append(ShardTask(split.data.folder, path, entry, records.get(name), sizes.get(name), manifest))


def _read_manifest(split: Split, content: bytes | None, findings: list[Finding]) -> Manifest | None:
    file = split.file(MANIFEST_NAME)
    if content is None:
        findings.append(Finding(file, "manifest", "a file", "none", RUN_AGAIN))
        return None
    try:
        manifest = Manifest.from_json(content, origin=file)
        problems = _problems_of_manifest(manifest)
    except (MeapError, TypeError, ValueError) as error:
        findings.append(Finding(file, "manifest", "one that can be read", str(error), RUN_AGAIN))
        return None
    findings.extend(Finding(file, *problem, PREPARE_AGAIN) for problem in problems)
    if not split.data.is_part and manifest.split != split.name:
        findings.append(Finding(file, "split", split.name, manifest.split, "move the folder back to its place"))
    return manifest if manifest.kind in _KINDS and manifest.seq_len >= 1 else None


def _problems_of_manifest(manifest: Manifest) -> list[tuple[str, str, str]]:
    problems: list[tuple[str, str, str]] = []

    def require(what: str, expected: Any, found: Any, *, is_so: bool) -> None:
        if not is_so:
            problems.append((what, str(expected), str(found)))

    kind, tokenizer = manifest.kind, manifest.tokenizer
    require("kind", " or ".join(_KINDS), kind, is_so=kind in _KINDS)
    require("seq_len", "at least 1", manifest.seq_len, is_so=manifest.seq_len >= 1)
    algorithm = manifest.hash_algorithm
    require("hash algorithm", HASH_ALGORITHM, algorithm, is_so=algorithm == HASH_ALGORITHM)
    in_shards = sum(shard.rows for shard in manifest.shards)
    require("rows", f"{in_shards:,}, as its shards add up to", f"{manifest.rows:,}", is_so=manifest.rows == in_shards)
    if kind == ROWS:
        tokens = manifest.rows * (manifest.seq_len + 1) + manifest.dropped_tail_tokens
        expected = f"{tokens:,}, as rows * (seq_len + 1) + dropped_tail_tokens give"
        require("tokens", expected, f"{manifest.tokens:,}", is_so=manifest.tokens == tokens)
    dtype = next(iter(_columns(manifest))).dtype if kind == ROWS else None
    if dtype is not None:
        require("dtype", f"{dtype}, for {tokenizer.vocab_size:,} ids", manifest.dtype, is_so=manifest.dtype == dtype)
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "mask_id": tokenizer.mask_id}
    for name, value in ids.items():
        is_so = name == "bos_id" if value is None else 0 <= value < tokenizer.vocab_size
        require(f"tokenizer.{name}", f"0 to {tokenizer.vocab_size - 1:,}", value, is_so=is_so)
    return problems


def _read_index(split: Split, content: bytes, findings: list[Finding]) -> list[ShardEntry | None] | None:
    file = split.file(INDEX_NAME)
    try:
        version, shards = parse_index(content)
    except (ValueError, KeyError, TypeError) as error:
        findings.append(Finding(file, "index", "one that can be read", f"{type(error).__name__}: {error}", RUN_AGAIN))
        return None
    if version != INDEX_VERSION:
        findings.append(Finding(file, "version", str(INDEX_VERSION), str(version), PREPARE_AGAIN))
    return [_parse(shard, f"{file}, shard {number}", findings) for number, shard in enumerate(shards)]


def _parse(shard: Any, origin: str, findings: list[Finding]) -> ShardEntry | None:
    try:
        return parse_entry(shard, origin)
    except ShardError as error:
        findings.append(error.finding)
        return None


def _compare(split: Split, entries: Sequence[ShardEntry], findings: list[Finding]) -> None:
    """Compare index and manifest."""
    manifest = cast("Manifest", split.manifest)
    index = {entry.stored.basename: entry for entry in entries}
    recorded = {shard.basename: shard for shard in manifest.shards}
    where = f"{split.file(INDEX_NAME)} and {MANIFEST_NAME}"
    for name in sorted(index.keys() | recorded.keys()):
        entry, record = index.get(name), recorded.get(name)
        if entry is None or record is None:
            found = f"it in {MANIFEST_NAME if entry is None else INDEX_NAME} only"
            findings.append(Finding(where, f"shard {name!r}", "it in both", found, RUN_AGAIN))
            continue
        for what, expected, found in (
            ("rows", record.rows, entry.samples),
            ("bytes", record.bytes, entry.stored.bytes),
        ):
            if expected != found:
                findings.append(
                    Finding(where, f"{what} of {name}", f"{expected:,} (manifest)", f"{found:,} (index)", PREPARE_AGAIN)
                )
        if not set(entry.stored.hashes) & set(HASHES) or manifest.hash_algorithm not in entry.stored.hashes:
            found = ", ".join(sorted(entry.stored.hashes)) or "none"
            findings.append(Finding(where, f"hash of {name}", manifest.hash_algorithm, found, PREPARE_AGAIN))
    names = [entry.stored.basename for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        findings.append(Finding(where, "shards", "each once", f"{twice} twice", PREPARE_AGAIN))
    elif set(names) == recorded.keys() and names != [shard.basename for shard in manifest.shards]:
        pairs = zip(names, (shard.basename for shard in manifest.shards), strict=True)
        ours, theirs = next((ours, theirs) for ours, theirs in pairs if ours != theirs)
        findings.append(Finding(where, "order of shards", f"{theirs} (manifest)", f"{ours} (index)", PREPARE_AGAIN))


def _columns(manifest: Manifest) -> list[Column]:
    return [Column.of(name, encoding) for name, encoding in sorted(expected_columns(manifest).items())]


def _describe_columns(columns: Iterable[Column]) -> str:
    return ", ".join(f"{column.name} {column.encoding}" for column in columns)


def _bytes(size: int | None) -> str:
    return "no such file" if size is None else f"{size:,} bytes"

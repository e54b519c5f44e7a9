"""Is a data set whole: its metadata, then every byte of every shard. All that is wrong is listed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from meap.errors import MeapError
from meap.manifest import CONVERSATIONS, ROWS, Manifest
from meap.mds.findings import FETCH_AGAIN, PREPARE_AGAIN, Finding, ShardError
from meap.mds.index import (
    INDEX_NAME,
    INDEX_VERSION,
    SHARD_FORMAT,
    Column,
    ShardEntry,
    is_shard_name,
    parse_entry,
    parse_index,
)
from meap.prep.audit.places import DataSet, read_tokenizer
from meap.prep.audit.shard import HASHES, CheckedShard, ShardTask, check_shard, expected_columns
from meap.prep.audit.workers import ShardMeter, in_order
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR, TRAIN_SPLIT

__all__ = ["Verdict", "verify"]

_RUN_AGAIN = "run the same preparation command again; it continues where it was interrupted"
_KINDS = (ROWS, CONVERSATIONS)


@dataclass
class Verdict:
    """What verification has seen."""

    findings: list[Finding] = field(default_factory=list)
    splits: int = 0
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    """Stored bytes of the shards."""
    seconds: float = 0.0


@dataclass
class _Split:
    """A split whose metadata has been looked at."""

    data: DataSet
    name: str
    manifest: Manifest | None = None
    tasks: list[ShardTask] = field(default_factory=list)
    is_readable: bool = False
    """Whether index and manifest are good enough to look into the shards, and to hold the rows against."""
    results: list[CheckedShard] = field(default_factory=list)

    def file(self, name: str) -> str:
        """A file of the split as shown to users."""
        return self.data.folder.url_of(f"{self.name}/{name}")


def verify(data_sets: Sequence[DataSet], *, workers: int) -> Verdict:
    """Check data sets; memory stays within `workers` shards, stored and decompressed.

    Args:
        data_sets: Where they are.
        workers: Shards looked at, at the same time.

    Raises:
        DataError: A place cannot be listed.
    """
    verdict = Verdict()
    splits: list[_Split] = []
    for data in data_sets:
        if not data.is_part and data.folder.read(f"{TRAIN_SPLIT}/{INDEX_NAME}") is None:
            verdict.findings.append(_not_complete(data))
        of_data = [_look_at(data, split, verdict.findings) for split in data.splits]
        _check_tokenizer(data, of_data, verdict.findings)
        splits += of_data
    _check_same_tokenizer(splits, verdict.findings)

    jobs = [(split, task) for split in splits for task in split.tasks]
    with ShardMeter(len(jobs), sum(task.entry.stored.bytes for _, task in jobs)) as meter:
        for (split, task), checked in zip(jobs, in_order(lambda job: check_shard(job[1]), jobs, workers), strict=True):
            verdict.findings += checked.findings
            split.results.append(checked)
            meter.add(task.entry.stored.bytes)
    for split in splits:
        verdict.findings += _check_totals(split)
    verdict.splits, verdict.shards = len(splits), len(jobs)
    verdict.rows = sum(checked.rows for split in splits for checked in split.results)
    verdict.bytes, verdict.seconds = meter.done_bytes, meter.seconds
    return verdict


def _not_complete(data: DataSet) -> Finding:
    remedy = _RUN_AGAIN
    for job in (data.folder, data.parent):
        if job is not None and (content := job.read(".prep/job.json")) is not None:
            with suppress(ValueError, KeyError, TypeError):  # the finding stands without the details
                config = cast("dict[str, Any]", json.loads(content))["config"]
                remedy += f" (source={config['source']}, remote={job.url})"
    return Finding(
        data.folder.url_of(f"{TRAIN_SPLIT}/{INDEX_NAME}"), "data set is not complete", "an index", "none", remedy
    )


def _look_at(data: DataSet, name: str, findings: list[Finding]) -> _Split:
    """Check the metadata of a split, and find its shards."""
    split = _Split(data, name)
    contents = data.folder.read_all([f"{name}/{INDEX_NAME}", f"{name}/{MANIFEST_NAME}"])
    if f"{name}/{INDEX_NAME}" not in contents:
        if name != TRAIN_SPLIT or data.is_part:  # of which has been told already
            findings.append(Finding(split.file(INDEX_NAME), "split is not complete", "an index", "none", _RUN_AGAIN))
        return split
    split.manifest = _read_manifest(split, contents.get(f"{name}/{MANIFEST_NAME}"), findings)
    parsed = _read_index(split, contents[f"{name}/{INDEX_NAME}"], findings)
    if parsed is None:
        return split
    entries = [entry for entry in parsed if entry is not None]
    sizes = data.folder.sizes(name)
    listed = {entry.stored.basename for entry in entries}
    listed |= {shard.basename for shard in split.manifest.shards} if split.manifest else set()
    findings += (
        Finding(split.file(unlisted), "shard file", "a name in the index", "none", "delete it, it is not data")
        for unlisted in sorted(sizes.keys() - listed)
        if is_shard_name(unlisted) or f".{SHARD_FORMAT}" in unlisted
    )
    if split.manifest is None:
        findings.extend(
            Finding(
                split.file(entry.stored.basename), "shard file", f"{entry.stored.bytes:,} bytes", found, FETCH_AGAIN
            )
            for entry in entries
            if (found := _bytes(sizes.get(entry.stored.basename))) != f"{entry.stored.bytes:,} bytes"
        )
        return split
    _compare(split, entries, findings)
    columns = _columns(split.manifest)
    records = {shard.basename: shard for shard in split.manifest.shards}
    for entry in entries:
        if sorted(entry.columns, key=lambda column: column.name) != columns:
            expected, found = (_describe_columns(each) for each in (columns, entry.columns))
            finding = Finding(split.file(entry.stored.basename), "columns", expected, found, PREPARE_AGAIN)
            findings.append(finding)
            continue
        record = records.get(entry.stored.basename)
        split.tasks.append(
            ShardTask(
                data.folder,
                f"{name}/{entry.stored.basename}",
                entry,
                record,
                sizes.get(entry.stored.basename),
                split.manifest,
            )
        )
    split.is_readable = len(split.tasks) == len(parsed)
    return split


def _read_manifest(split: _Split, content: bytes | None, findings: list[Finding]) -> Manifest | None:
    file = split.file(MANIFEST_NAME)
    if content is None:
        findings.append(Finding(file, "manifest", "a file", "none", _RUN_AGAIN))
        return None
    try:
        manifest = Manifest.from_json(content, origin=file)
        problems = _problems_of_manifest(manifest)
    except (MeapError, TypeError, ValueError) as error:
        findings.append(Finding(file, "manifest", "one that can be read", str(error), _RUN_AGAIN))
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
    require("hash algorithm", "xxh3_64", manifest.hash_algorithm, is_so=manifest.hash_algorithm == "xxh3_64")
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
        is_so = 0 <= value < tokenizer.vocab_size
        require(f"tokenizer.{name}", f"0 to {tokenizer.vocab_size - 1:,}", value, is_so=is_so)
    return problems


def _read_index(split: _Split, content: bytes, findings: list[Finding]) -> list[ShardEntry | None] | None:
    file = split.file(INDEX_NAME)
    try:
        version, shards = parse_index(content)
    except (ValueError, KeyError, TypeError) as error:
        findings.append(Finding(file, "index", "one that can be read", f"{type(error).__name__}: {error}", _RUN_AGAIN))
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


def _compare(split: _Split, entries: Sequence[ShardEntry], findings: list[Finding]) -> None:
    """Hold index and manifest against each other."""
    manifest = cast("Manifest", split.manifest)
    index = {entry.stored.basename: entry for entry in entries}
    recorded = {shard.basename: shard for shard in manifest.shards}
    where = f"{split.file(INDEX_NAME)} and {MANIFEST_NAME}"
    for name in sorted(index.keys() | recorded.keys()):
        entry, record = index.get(name), recorded.get(name)
        if entry is None or record is None:
            found = f"it in {MANIFEST_NAME if entry is None else INDEX_NAME} only"
            findings.append(Finding(where, f"shard {name!r}", "it in both", found, _RUN_AGAIN))
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
        twice = next(name for name in names if names.count(name) > 1)
        findings.append(Finding(where, "shards", "each once", f"{twice} twice", PREPARE_AGAIN))
    elif set(names) == recorded.keys() and names != [shard.basename for shard in manifest.shards]:
        pairs = zip(names, (shard.basename for shard in manifest.shards), strict=True)
        ours, theirs = next((ours, theirs) for ours, theirs in pairs if ours != theirs)
        findings.append(Finding(where, "order of shards", f"{theirs} (manifest)", f"{ours} (index)", PREPARE_AGAIN))


def _check_tokenizer(data: DataSet, splits: Iterable[_Split], findings: list[Finding]) -> None:
    manifests = [(split, split.manifest) for split in splits if split.manifest is not None]
    if not manifests:
        return
    where = data.folder.url_of(TOKENIZER_DIR)
    remedy = "copy the tokenizer again from where the data set was made, or run the same preparation command again"
    try:
        tokenizer = read_tokenizer(data, manifests[0][1].tokenizer.name)
    except (MeapError, ValueError, TypeError) as error:
        findings.append(Finding(where, "tokenizer", "one that can be read", str(error), remedy))
        return
    stored = {
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "mask_id": tokenizer.mask_id,
    }
    for split, manifest in manifests:
        recorded = dataclasses.asdict(manifest.tokenizer)
        for what, found in stored.items():
            if recorded[what] != found:
                expected = f"{recorded[what]}, as {split.file(MANIFEST_NAME)} says"
                findings.append(Finding(where, what, expected, str(found), remedy))


def _check_same_tokenizer(splits: Sequence[_Split], findings: list[Finding]) -> None:
    """Streams that are mixed in a run need one tokenizer."""
    known = [(split, split.manifest) for split in splits if split.manifest is not None]
    for split, manifest in known[1:]:
        first, of_first = known[0]
        if manifest.tokenizer.fingerprint != of_first.tokenizer.fingerprint:
            expected = f"{of_first.tokenizer.fingerprint}, as in {first.file(MANIFEST_NAME)}"
            found = manifest.tokenizer.fingerprint
            findings.append(Finding(split.file(MANIFEST_NAME), "fingerprint", expected, found, PREPARE_AGAIN))


def _check_totals(split: _Split) -> list[Finding]:
    """Hold what was counted in the shards against the manifest; only where all of them could be read."""
    manifest = split.manifest
    if manifest is None or not split.is_readable or any(checked.findings for checked in split.results):
        return []
    findings: list[Finding] = []

    def require(what: str, expected: str, found: str, *, is_so: bool) -> None:
        if not is_so:
            findings.append(Finding(split.file(MANIFEST_NAME), what, expected, found, PREPARE_AGAIN))

    rows = sum(checked.rows for checked in split.results)
    require("rows", f"{rows:,}, as counted in the shards", f"{manifest.rows:,}", is_so=rows == manifest.rows)
    if manifest.kind == CONVERSATIONS:
        for what, counted, recorded in (
            ("documents", sum(checked.conversations for checked in split.results), manifest.documents),
            ("tokens", sum(checked.conversation_tokens for checked in split.results), manifest.tokens),
        ):
            expected = f"{counted:,}, as counted in the shards"
            require(what, expected, f"{recorded:,}", is_so=counted == recorded)
        return findings
    # A document has one BOS and one EOS, of which the dropped tails of tasks may hold some; a text that spells out a
    # special token adds to them, so that only too few of them are a sign of something wrong.
    lost = (manifest.dropped_tail_tokens + int(manifest.config.get("tasks") or 1)) // 2
    bos, eos = (sum(int(checked.borders[side]) for checked in split.results) for side in (0, 1))
    is_text = "text_key" in manifest.config
    if manifest.tokenizer.bos_id == manifest.tokenizer.eos_id and is_text:
        bos = eos = bos // 2
    for name, counted in (("BOS", bos), ("EOS", eos)) if is_text else (("EOS", eos),):
        expected = f"at most {counted + lost:,}, as {counted:,} {name} tokens in the rows allow"
        require("documents", expected, f"{manifest.documents:,}", is_so=manifest.documents <= counted + lost)
    if is_text:
        begun: set[str] = set()
        for task, checked in zip(split.tasks, split.results, strict=True):
            number = task.task_number
            if number not in begun and checked.first_token not in {None, manifest.tokenizer.bos_id}:
                expected = f"BOS ({manifest.tokenizer.bos_id}), with which each task begins"
                findings.append(Finding(task.file, "first token", expected, str(checked.first_token), PREPARE_AGAIN))
            begun.add(number)
    return findings


def _columns(manifest: Manifest) -> list[Column]:
    columns: list[Column] = []
    for name, encoding in sorted(expected_columns(manifest).items()):
        _, dtype, *length = encoding.split(":")
        columns.append(Column(name, dtype, int(length[0]) if length else None))
    return columns


def _describe_columns(columns: Iterable[Column]) -> str:
    return ", ".join(f"{column.name} {column.encoding}" for column in columns)


def _bytes(size: int | None) -> str:
    return "no such file" if size is None else f"{size:,} bytes"

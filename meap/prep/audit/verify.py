"""Checks that a data set is whole: its metadata, then every byte of every shard. Lists everything that is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from meap.errors import MeapError
from meap.json_text import parse_json
from meap.manifest import CONVERSATIONS, Manifest
from meap.mds.findings import PREPARE_AGAIN, Finding
from meap.mds.index import INDEX_NAME
from meap.places.folder import Folder
from meap.prep.audit.metadata import RUN_AGAIN, Split, look_at
from meap.prep.audit.places import DataSet, read_tokenizer, task_records
from meap.prep.audit.shard import check_shard
from meap.prep.audit.workers import ShardMeter, in_order
from meap.prep.task_records import PREP_DIR, TaskRecord, task_record_name
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR, TRAIN_SPLIT

__all__ = ["Verdict", "verify"]

_MIXTURE = "two jobs have written here: prepare the data again, in another folder"


@dataclass
class Verdict:
    """What was checked, and what is wrong."""

    findings: list[Finding] = field(default_factory=list)
    splits: int = 0
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    """Stored bytes of the shards."""
    seconds: float = 0.0


def verify(data_sets: Sequence[DataSet], *, workers: int) -> Verdict:
    """Check data sets; memory stays within `workers` shards, stored and decompressed.

    Args:
        data_sets: Where they are.
        workers: Shards checked at the same time.

    Raises:
        DataError: A place cannot be listed.
    """
    verdict = Verdict()
    splits: list[Split] = []
    records_of = cache(task_records)  # the streams of a job share its folder
    for data in data_sets:
        if not data.is_part and data.folder.read(f"{TRAIN_SPLIT}/{INDEX_NAME}") is None:
            verdict.findings.append(_not_complete(data))
        of_data = [look_at(data, split, verdict.findings) for split in data.splits]
        verdict.findings += _check_job(data, of_data, records_of)
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
    remedy = RUN_AGAIN
    for job in (data.folder, data.parent):
        if job is not None and (content := job.read(f"{PREP_DIR}/job.json")) is not None:
            with suppress(ValueError, KeyError, TypeError):  # the finding stands without the details
                config = cast("dict[str, Any]", parse_json(content))["config"]
                remedy += f" (source={config['source']}, remote={job.url})"
    return Finding(
        data.folder.url_of(f"{TRAIN_SPLIT}/{INDEX_NAME}"), "data set is not complete", "an index", "none", remedy
    )


def _check_job(
    data: DataSet, splits: Iterable[Split], records_of: Callable[[Folder], dict[int, TaskRecord]]
) -> list[Finding]:
    """Check that one job has made all of it: its manifests, and where they are kept the records of its tasks."""
    manifests = [(split, split.manifest) for split in splits if split.manifest is not None]
    findings: list[Finding] = []
    if not manifests:
        return findings
    first, job = manifests[0][0], manifests[0][1].job
    as_there = f"{job}, as {first.file(MANIFEST_NAME)} says"
    for split, manifest in manifests[1:]:
        if manifest.job != job:
            findings.append(Finding(split.file(MANIFEST_NAME), "job", as_there, manifest.job, _MIXTURE))
    folder = data.parent or data.folder
    for task, record in sorted(records_of(folder).items()) if job else ():
        file = folder.url_of(task_record_name(task))
        if record.job != job:
            findings.append(Finding(file, "job", as_there, record.job, _MIXTURE))
    return findings


def _check_tokenizer(data: DataSet, splits: Iterable[Split], findings: list[Finding]) -> None:
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


def _check_same_tokenizer(splits: Sequence[Split], findings: list[Finding]) -> None:
    """Streams that are mixed in a run need one tokenizer."""
    known = [(split, split.manifest) for split in splits if split.manifest is not None]
    for split, manifest in known[1:]:
        first, of_first = known[0]
        if manifest.tokenizer.fingerprint != of_first.tokenizer.fingerprint:
            expected = f"{of_first.tokenizer.fingerprint}, as in {first.file(MANIFEST_NAME)}"
            found = manifest.tokenizer.fingerprint
            findings.append(Finding(split.file(MANIFEST_NAME), "fingerprint", expected, found, PREPARE_AGAIN))


def _check_totals(split: Split) -> list[Finding]:
    """Compare what was counted in the shards with the manifest, if all of them could be read."""
    manifest = split.manifest
    if manifest is None or not split.is_readable or any(checked.findings for checked in split.results):
        return []
    file, rows = split.file(MANIFEST_NAME), sum(checked.rows for checked in split.results)
    counted = [("rows", rows, manifest.rows)]
    if manifest.kind == CONVERSATIONS:
        counted += [
            ("documents", sum(checked.conversations for checked in split.results), manifest.documents),
            ("tokens", sum(checked.conversation_tokens for checked in split.results), manifest.tokens),
        ]
    findings = [
        Finding(file, what, f"{found:,}, as counted in the shards", f"{recorded:,}", PREPARE_AGAIN)
        for what, found, recorded in counted
        if found != recorded
    ]
    return findings if manifest.kind == CONVERSATIONS else findings + _check_borders(split, manifest)


def _check_borders(split: Split, manifest: Manifest) -> list[Finding]:
    """Check that there are enough BOS and EOS for the documents, and that each task begins with a BOS.

    A document has one EOS and, where the tokenizer has one, a BOS, of which the dropped tails of tasks may hold some; a
    text that spells out a special token may add to them, so only too few of them are an error.
    """
    tokenizer, is_text = manifest.tokenizer, "text_key" in manifest.config
    lost = (manifest.dropped_tail_tokens + int(manifest.config.get("tasks") or 1)) // 2
    bos, eos = (sum(int(checked.borders[side]) for checked in split.results) for side in (0, 1))
    has_bos = is_text and len(tokenizer.borders) > 1
    if has_bos and tokenizer.bos_id == tokenizer.eos_id:
        bos = eos = bos // 2
    findings: list[Finding] = []
    for name, counted in (("BOS", bos), ("EOS", eos)) if has_bos else (("EOS", eos),):
        if manifest.documents > counted + lost:
            expected = f"at most {counted + lost:,}, as {counted:,} {name} tokens in the rows allow"
            file, found = split.file(MANIFEST_NAME), f"{manifest.documents:,}"
            findings.append(Finding(file, "documents", expected, found, PREPARE_AGAIN))
    begun: set[str] = set()
    for task, checked in zip(split.tasks, split.results, strict=True) if has_bos else ():
        if task.task_number not in begun and checked.first_token not in {None, tokenizer.bos_id}:
            expected = f"BOS ({tokenizer.bos_id}), with which each task begins"
            findings.append(Finding(task.file, "first token", expected, str(checked.first_token), PREPARE_AGAIN))
        begun.add(task.task_number)
    return findings

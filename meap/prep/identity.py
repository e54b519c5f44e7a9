"""Which job an output folder belongs to: it is refused to any other, so that no data set mixes two configurations."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any, cast

from meap.config.loading import flatten
from meap.config.prep import SftPrepConfig
from meap.errors import MismatchError
from meap.json_text import parse_json
from meap.manifest import FORMAT_VERSION
from meap.mds.index import INDEX_NAME, is_shard_name
from meap.places.folder import Folder
from meap.prep.executors.slurm_array import end_array
from meap.prep.inputs import InputFiles
from meap.prep.job import output_config
from meap.prep.removal.languages import model_fingerprint
from meap.prep.removal.stages import WORK_DIR
from meap.prep.resolved import ResolvedJob, ResolvedPrep
from meap.prep.task_records import PREP_DIR, TASKS_DIR, TaskRecord
from meap.schema import SPLITS
from meap.tokenizer import Tokenizer

__all__ = ["claim", "require_own", "stored_identity"]

_JOB_NAME = f"{PREP_DIR}/job.json"
_TOLERANCES = ("max_bad_lines", "max_bad_records")
"""Decide whether a task succeeds, not what it writes: a rerun may raise them."""


def claim(folder: Folder, config: ResolvedJob, inputs: InputFiles, tokenizer: Tokenizer) -> str:
    """Store the job's identity in its output folder, or check that it is the one stored there; returns its hash.

    A job that has produced no row, such as a first try with a wrong seq_len, is replaced.

    Raises:
        MismatchError: The folder holds something else.
        DataError: It cannot be read or written.
    """
    identity = _identity(config, inputs, tokenizer)
    content = folder.read(_JOB_NAME)
    if content is None:
        return _begin(folder, identity)
    try:
        stored = cast("dict[str, Any]", parse_json(content))
        if stored["identity"] == identity["identity"]:
            return str(identity["identity"])
        differences = _differences(stored, identity)
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(
            f"{folder.url_of(_JOB_NAME)} is not readable ({type(error).__name__}: {error}): choose another remote, or "
            "delete the folder"
        ) from error
    if _has_produced_nothing(folder):
        _clear(folder)
        return _begin(folder, identity)
    raise MismatchError(
        f"{folder.url} holds another data set; {'; '.join(differences)}: choose another remote, or delete the folder"
    )


def stored_identity(folder: Folder, config: ResolvedJob, inputs: InputFiles, tokenizer: Tokenizer) -> str | None:
    """The job's hash if its output folder has it stored, else None; nothing is written.

    Raises:
        DataError: It cannot be read.
    """
    content = folder.read(_JOB_NAME)
    identity = str(_identity(config, inputs, tokenizer)["identity"])
    with suppress(ValueError, KeyError, TypeError):
        if content is not None and parse_json(content)["identity"] == identity:
            return identity
    return None


def _begin(folder: Folder, identity: dict[str, Any]) -> str:
    folder.write(_JOB_NAME, json.dumps(identity, indent=1, sort_keys=True).encode())
    return str(identity["identity"])


def _has_produced_nothing(folder: Folder) -> bool:
    """Whether no task has finished with a row, so that the folder holds nothing that another job could not make."""
    if any(folder.matching(f"{below}{INDEX_NAME}") for below in ("*/", "*/*/")):
        return False
    records = folder.read_all([f"{TASKS_DIR}/{name}" for name in folder.sizes(TASKS_DIR)])
    try:
        return not any(split.rows for each in records.values() for split in TaskRecord.from_json(each).splits.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # a damaged record may be of rows


def _clear(folder: Folder) -> None:
    """Remove what the job before has left: shards of unfinished tasks, and its records."""
    end_array(folder)
    others = {name.partition("/")[0] for name in folder.matching(f"*/{_JOB_NAME}")}  # jobs whose output lies below
    for below in (*SPLITS, *(f"*/{split}" for split in SPLITS)):
        for name in folder.matching(f"{below}/*"):
            if is_shard_name(name.rpartition("/")[2]) and name.partition("/")[0] not in others:
                folder.remove(name)
    for name in (WORK_DIR, f"{PREP_DIR}/completions", TASKS_DIR, _JOB_NAME):
        folder.remove(name)


def require_own(folder: Folder) -> None:
    """Raise `MismatchError` if a folder has content but belongs to no job; called before anything is written."""
    folder.require_bucket()
    entries = folder.entries()
    if set(entries) - {PREP_DIR} and folder.read(_JOB_NAME) is None:
        raise MismatchError(
            f"{folder.url} is not empty and was not begun by this program (it holds {', '.join(entries[:5])}): "
            "choose another remote"
        )


def _identity(config: ResolvedJob, inputs: InputFiles, tokenizer: Tokenizer) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "config": {key: value for key, value in output_config(config).items() if key not in _TOLERANCES},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "inputs": [list(each) for each in zip(inputs.urls, inputs.sizes, strict=True)],
    }
    if isinstance(config, SftPrepConfig):
        identity["chat_template"] = tokenizer.source_config["chat_template"]
    if isinstance(config, ResolvedPrep) and config.filters.languages:
        identity["language_model"] = model_fingerprint(config.filters)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    # As JSON reads it back: without tuples.
    return parse_json(canonical) | {"identity": "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()}


def _differences(stored: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    before, now = flatten(stored["config"]), flatten(ours["config"])
    found = [
        f"{key}={before.get(key)} there, {key}={now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if stored["inputs"] != ours["inputs"]:
        there, here = ({url: size for url, size in each["inputs"]} for each in (stored, ours))  # noqa: C416  checks pairs
        url = next(url for url in sorted(there.keys() | here.keys()) if there.get(url) != here.get(url))
        found.append(
            f"{len(there)} input files there, {len(here)} here, of which {url} is the first that differs "
            f"({_described(there.get(url))} there, {_described(here.get(url))} here)"
        )
    if stored["tokenizer_fingerprint"] != ours["tokenizer_fingerprint"]:
        found.append("the tokenizers give different ids")
    if stored.get("chat_template") != ours.get("chat_template"):
        found.append("the chat templates differ")
    if stored.get("language_model") != ours.get("language_model") and not found:
        found.append("the language models differ")
    if stored["format_version"] != ours["format_version"]:
        found.append(f"format version {stored['format_version']} there, {ours['format_version']} here")
    return found or ["its job.json has been edited"]


def _described(size: int | None) -> str:
    return "none" if size is None else f"{size:,} bytes"  # exact: sizes that differ by a byte look alike in MB

"""What must hold after every step, asked of the outside."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from .running import Outcome
from .world import SECRETS, Home

_TRACEBACK = re.compile(r"^Traceback \(most recent call last\)|^Fatal Python error", re.MULTILINE)
_OF_THE_LAUNCHER = re.compile(
    r"^Traceback (?:(?!^Traceback ).)*?cli/launcher\.py.*?^SystemExit: 1(?:30|43)$", re.MULTILINE | re.DOTALL
)
"""Composer's prints its own when it gets SIGTERM or SIGINT, which it then passes on."""
_ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)
_REMEDY = re.compile(
    r"\b(set|give|choose|free|raise|lower|run|check|leave|install|remove|end|make|prepare|use|wait|start|delete|restore"
    r"|resumes?|tries|continues|begins|name|look|write|copy|close|save)\b"
)
_DRAFTS = re.compile(r"\.partial|\.drafts-|\.previous$|\.in_use$|/\.saving/")
_CLAIMS = re.compile(r"\.prep/claim\.json$")
_OF_ANOTHER_NODE = re.compile(r"/cache/node[1-9]/.*\.in_use$")
"""It was killed, and the run goes on without it."""
_MET = re.compile(r"^data {7}", re.MULTILINE)
"""In the header of a run, once its ranks have met."""

SECONDS_AFTER_CTRL_C = 20.0


class BrokenError(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclass
class Told:
    """What a run has on record."""

    rows: dict[int, list[tuple[int, str]]]
    """Ids and hashes of the samples of each step, whichever rank had them."""
    losses: dict[int, float]


def require(holds: object, invariant: str, what: str) -> None:
    if not holds:
        raise BrokenError(invariant, what)


def check_end(outcome: Outcome, allowed: set[int]) -> None:
    """It ended by itself, in time, with a status that is one of these, and one clear error where it failed."""
    tail = outcome.printed[-3000:]
    require(outcome.status is not None, "ends in time", f"it ran for {outcome.seconds:.0f} s\n{tail}{_stacks(outcome)}")
    require(outcome.patience < SECONDS_AFTER_CTRL_C, "ends in time", f"{outcome.patience:.0f} s after Ctrl-C\n{tail}")
    require(not _TRACEBACK.search(_OF_THE_LAUNCHER.sub("", outcome.printed)), "no traceback", tail)
    if {1, 2} & allowed and "Global rank" in outcome.printed and not _MET.search(outcome.printed):
        allowed = allowed | {os.EX_TEMPFAIL}  # a rank failed; the launcher has ended others, which cannot know why
    require(outcome.status in allowed, "status", f"{outcome.status} is none of {sorted(allowed)}\n{tail}")
    if outcome.status in {1, 2}:
        check_error(outcome.printed)


def check_error(printed: str) -> None:
    """An error has value, place and remedy: names something, and says what to do."""
    errors = {each.strip() for each in _ERROR.findall(printed)}
    require(errors, "error", f"it failed without one\n{printed[-3000:]}")
    for each in errors:
        is_whole = len(each) > 30 and re.search(r"[/=\d]", each) and _REMEDY.search(each)
        require(is_whole, "error", f"without value, place or remedy: {each}")


def check_left(home: Home, outcome: Outcome, *, was_killed: bool, is_store_lost: bool = False) -> None:
    """No process, segment of shared memory or temporary file; no lock and no draft where files are published.

    A claim stays in a store that cannot be read any more, and ends by itself.
    """
    require(not outcome.left, "nothing is left", f"{outcome.left}\n{outcome.printed[-1500:]}")
    if not was_killed and not is_store_lost:
        claims = [each for each in files_of(home) if _CLAIMS.search(each)]
        require(not claims, "nothing is left", f"{claims}\n{outcome.printed[-1500:]}")
    if not was_killed:
        drafts = [each for each in files_of(home) if _DRAFTS.search(each) and not _OF_ANOTHER_NODE.search(each)]
        require(not drafts, "nothing is left", f"{drafts}\n{outcome.printed[-1500:]}")


def check_published(home: Home) -> None:
    """What is published is whole: files of every checkpoint that has a record, and exported folders."""
    for path in home.path.glob("runs/*/checkpoints/ba*.json"):
        for file in json.loads(path.read_bytes())["files"]:
            found = path.parent / file["name"]
            content = found.read_bytes() if found.is_file() else b""
            same = xxhash.xxh3_128_hexdigest(content) == file["xxh3_128"]
            require(same, "what is published verifies", f"{path} names {file['name']}: {len(content)} other bytes")
    client, names = home.world.client(), objects_of(home)
    for key in [each for each in names if re.search(r"-run/ba\d+\.json$", each)]:
        for file in json.loads(client.get_object(Bucket=home.bucket, Key=key)["Body"].read())["files"]:
            other = f"{key.rpartition('/')[0]}/{file['name']}"
            size = client.head_object(Bucket=home.bucket, Key=other)["ContentLength"] if other in names else None
            require(size == file["size"], "what is published verifies", f"{key} names {file['name']}: {size} bytes")
    for folder in home.path.glob("runs/*/hf"):
        have = {path.name for path in folder.iterdir()}
        is_whole = {"config.json", "tokenizer.json", "meap_export.json"} <= have and "safetensors" in " ".join(have)
        require(is_whole, "what is published verifies", f"{folder} has {sorted(have)}")


def check_alone(outcome: Outcome, other: Outcome) -> None:
    """Of two commands on one place, one works at a time."""
    if outcome.passes_at_stop and other.count("pass"):
        raise BrokenError("one at a time", f"both have trained\n{other.printed[-1500:]}")
    prepares = outcome.words[0].startswith("dataprep/")
    if prepares and outcome.status == other.status == 0 and "already complete" not in outcome.printed + other.printed:
        raise BrokenError("one at a time", f"both have prepared the data\n{other.printed[-1500:]}")


def check_secrets(home: Home, outcome: Outcome) -> None:
    """In no file of the user's folder, no object of the bucket, and nothing that was printed."""
    secrets = [value.encode() for value in SECRETS.values()]
    for name, content in [("its output", outcome.printed.encode()), *_contents(home)]:
        require(not any(each in content for each in secrets), "no secret", f"a secret is in {name}")


def files_of(home: Home) -> list[str]:
    """Names of all files, here and in the bucket."""
    found = [f"/{path.relative_to(home.path)}" for path in home.path.rglob("*") if path.is_file()]
    return [*found, *(f"/s3/{key}" for key in objects_of(home))]


def objects_of(home: Home) -> list[str]:
    pages = home.world.client().get_paginator("list_objects_v2").paginate(Bucket=home.bucket)
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def _contents(home: Home) -> Iterator[tuple[str, bytes]]:
    skipped = {"cache", "recipes", "dataprep", "yamls"}
    for path in home.path.rglob("*"):
        small = path.is_file() and not skipped & {*path.relative_to(home.path).parts} and path.stat().st_size < 1 << 20
        if small and path.suffix not in {".zstd", ".mds", ".gz"}:
            yield path.name, path.read_bytes()
    client = home.world.client()
    for key in objects_of(home):
        if key.endswith(".json"):
            yield key, client.get_object(Bucket=home.bucket, Key=key)["Body"].read()


def _stacks(outcome: Outcome) -> str:
    stacks = outcome.notes / "stacks"
    return f"\nstacks:\n{stacks.read_text()[:6000]}" if stacks.exists() else ""


def read(home: Home, remote: str, name: str) -> bytes | None:
    """A file of a folder here or in the bucket; None if it is not there."""
    if not remote.startswith("s3://"):
        path = home.path / remote / name
        return path.read_bytes() if path.is_file() else None
    client, key = home.world.client(), f"{remote.removeprefix(f's3://{home.bucket}/')}/{name}"
    try:
        return client.get_object(Bucket=home.bucket, Key=key)["Body"].read()
    except client.exceptions.NoSuchKey:
        return None


def hashes_of(home: Home, remote: str) -> dict[str, str]:
    """Of the files of a data set that its readers see, but for manifests, which name the configuration."""
    found: dict[str, str] = {}
    for split in ("train", "validation"):
        index = read(home, remote, f"{split}/index.json")
        if index is None:
            continue
        found[f"{split}/index.json"] = hashlib.sha256(index).hexdigest()
        for shard in json.loads(index)["shards"]:
            name = (shard["zip_data"] or shard["raw_data"])["basename"]
            found[f"{split}/{name}"] = hashlib.sha256(read(home, remote, f"{split}/{name}") or b"").hexdigest()
    return found


def rows_of(notes: Path) -> dict[int, list[tuple[int, str]]]:
    """What the probe has noted."""
    found: dict[int, list[tuple[int, str]]] = {}
    for path in sorted(notes.glob("rows-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                step, rows = json.loads(line)
            except ValueError:  # it was killed in the midst of the line
                continue
            found.setdefault(step, []).extend((i, each) for i, each in rows)
    return {step: sorted(rows) for step, rows in found.items()}


def losses_of(run_dir: Path) -> dict[int, float]:
    """The loss of each step, the last one where a step was made again."""
    path, found = run_dir / "metrics.jsonl", dict[int, float]()
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # as above
            continue
        if "loss/train/total" in record:
            found[record["step"]] = record["loss/train/total"]
    return found


def check_rows(found: dict[int, list[tuple[int, str]]], quiet: dict[int, list[tuple[int, str]]], rows: int) -> None:
    """Each step has the samples and masks that the quiet run had there."""
    for step, seen in found.items():
        expected = quiet.get(step, [])
        if len(seen) == rows:
            require(seen == expected, "samples and masks", _difference(step, seen, expected))
        else:  # it was interrupted in this step
            require(set(seen) <= set(expected), "samples and masks", _difference(step, seen, expected))


def check_epochs(told: Told) -> None:
    """A sample has other masks in another epoch."""
    seen: dict[int, list[str]] = {}
    for rows in told.rows.values():
        for sample, found in rows:
            seen.setdefault(sample, []).append(found)
    again = [each for each in seen.values() if len(each) > 1]
    same = [each for each in again if len(set(each)) == 1]
    require(not again or len(same) < len(again), "masks of an epoch", f"{len(same)} samples have the same in another")


def check_losses(found: dict[int, float], quiet: dict[int, float], *, exact: bool) -> None:
    """Each step has the loss of the quiet run; to the bit where nothing that rounds has changed."""
    for step, loss in found.items():
        if step not in quiet:
            continue
        same = loss == quiet[step] if exact else abs(loss - quiet[step]) < 1e-3
        require(same, "losses", f"step {step} has {loss!r} instead of {quiet[step]!r} ({'exact' if exact else 'near'})")


def _difference(step: int, seen: Sequence[tuple[int, str]], expected: Sequence[tuple[int, str]]) -> str:
    ids, others = [i for i, _ in seen], [i for i, _ in expected]
    what = "other masks of the same samples" if sorted(ids) == sorted(others) else f"samples {ids} instead of {others}"
    return f"step {step} has {what}"

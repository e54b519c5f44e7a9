"""A store that fails while shards are read: what passes is waited for, what stays is one error, no row is wrong."""

import os
import random
import re
import signal
import threading

import pytest

from meap.config import DataConfig
from meap.data import open_shards
from meap.errors import DataError, StoppedError
from meap.processes import stopping_by_signals

pytestmark = [pytest.mark.fault(3), pytest.mark.slow]

TRANSIENT = [500, (503, "SlowDown"), "half", "short", "reset", "flip", "stall", 429]
FINAL = {400: "the store refuses the request (400", 403: "access denied (403", 404: "is missing"}
SHARD = "shard.00005.mds.zstd"


def is_shard(path: str) -> bool:
    return path.endswith(".zstd")


@pytest.mark.parametrize("workers", [0, 2])
def test_what_passes_is_waited_for(
    s3_data, s3_faults, tmp_path, open_data, epoch_of, assert_rows, workers, record_property
):
    """Every shard's first GET meets one kind of fault or another, and some their second."""
    order, kinds, injected = random.Random(workers).sample(TRANSIENT, len(TRANSIENT)), {}, 0

    def rule(method: str, path: str, count: int):
        nonlocal injected
        if method != "GET" or not is_shard(path):
            return None
        kind = kinds.setdefault(path, order[len(kinds) % len(order)])
        if count > 1 + sum(map(ord, path)) % 2:
            return None
        injected += 1
        return kind

    s3_faults.rule = rule
    assert_rows(epoch_of(open_data(s3_data, tmp_path, workers=workers, attempts=4, download_timeout=1.0)))
    assert len(kinds) == len(TRANSIENT), "a shard for each"
    record_property("injected", injected)


@pytest.mark.parametrize("fault", [503, "reset"])
def test_an_outage_is_waited_for_with_the_default_patience(
    s3_data, s3_faults, tmp_path, open_data, epoch_of, assert_rows, caplog, fault
):
    """A store that was started anew ended runs: all attempts together took less than twenty seconds."""
    left = 7  # requests of an attempt and more: botocore makes up to five

    def rule(method: str, path: str, count: int):
        nonlocal left
        left -= path.endswith(SHARD)
        return fault if path.endswith(SHARD) and left > 0 else None

    s3_faults.rule = rule
    assert_rows(epoch_of(open_data(s3_data, tmp_path, download_patience=DataConfig.download_patience)))
    assert left <= 0
    told = [each.getMessage() for each in caplog.records if "is asked again for up to" in each.getMessage()]
    assert len(told) == 1
    assert "(data.download_patience)" in told[0]


def test_an_outage_is_waited_for_no_longer_than_told(s3_data, s3_faults, tmp_path, open_data, epoch_of, failure_of):
    s3_faults.rule = lambda method, path, count: 503 if path.endswith(SHARD) else None
    loader = open_data(s3_data, tmp_path, attempts=1, download_patience=3.0)
    assert re.search(r"could not be read in \d+ attempts \(", failure_of(lambda: epoch_of(loader)))


@pytest.mark.parametrize(
    ("fault", "workers"),
    [*((fault, 0) for fault in (*TRANSIENT, *FINAL)), *((fault, 2) for fault in ("half", "flip", "stall", 403))],
    ids=str,
)
def test_what_stays_is_one_error_within_bounds(
    s3_data, s3_faults, tmp_path, open_data, epoch_of, failure_of, fault, workers, record_property
):
    injected = 0

    def rule(method: str, path: str, count: int):
        nonlocal injected
        if not path.endswith(SHARD) or (method == "HEAD" and fault in {"half", "short", "flip"}):
            return None
        injected += 1
        return fault

    s3_faults.rule = rule
    loader = open_data(s3_data, tmp_path, workers=workers, attempts=2, download_timeout=0.5)
    message = failure_of(lambda: epoch_of(loader))
    assert message.startswith(f"s3://corpus/mds/train/{SHARD} (rows ")
    if fault in FINAL:
        assert FINAL[fault] in message
    else:
        assert "in 2 attempts (" in message or "cannot be used after 2 attempts: it" in message, message
    assert "testsecret" not in message
    assert "\n" not in message
    assert injected <= 40
    # What a worker was fetching when another's error ended it keeps a name that is swept at the next start.
    assert not list(tmp_path.rglob(f"{SHARD.removesuffix('.zstd')}*"))
    record_property("injected", injected)


@pytest.mark.parametrize("name", ["manifest.json", "index.json"])
@pytest.mark.parametrize("fault", [(503, "SlowDown"), "half"], ids=str)
def test_an_index_and_a_manifest_are_read_through_what_passes(
    s3_data, s3_faults, tmp_path, open_data, name, fault, record_property
):
    s3_faults.rule = lambda method, path, count: (
        fault if method == "GET" and path.endswith(name) and count < 3 else None
    )
    assert open_data(s3_data, tmp_path, attempts=4).dataset.num_samples == 96
    assert s3_faults.requests["GET", f"/corpus/mds/train/{name}"] >= 3
    record_property("injected", 2)


@pytest.mark.parametrize("fault", [403, "short"], ids=str)
def test_an_index_that_cannot_be_read_is_one_error(s3_data, s3_faults, tmp_path, open_data, fault):
    shards = open_shards(DataConfig(remote=s3_data, seq_len=16), "train")
    assert shards.rows == 96
    s3_faults.rule = lambda method, path, _: fault if path.endswith("index.json") and method == "GET" else None
    with pytest.raises(DataError, match=r"^s3://corpus/mds/train/index.json c[^\n]*$"):
        open_data(s3_data, tmp_path, attempts=2)


def test_a_store_that_takes_its_time_loses_nothing(
    s3_data, s3_faults, tmp_path, open_data, epoch_of, assert_rows, record_property
):
    s3_faults.rule = lambda method, path, _: "late" if is_shard(path) else None
    assert_rows(epoch_of(open_data(s3_data, tmp_path, workers=2, download_timeout=5.0)))
    record_property("injected", sum(count for (_, path), count in s3_faults.requests.items() if is_shard(path)))


def test_a_stop_while_a_file_is_downloaded_is_no_missing_file(s3_data, s3_faults, tmp_path, open_data):
    """s3transfer renames a file that it has not downloaded, and its error took the place of the request."""
    stalled = list[str]()

    def rule(method: str, path: str, _: int) -> str | None:
        if method != "GET" or not path.endswith("train/index.json"):
            return None
        if not stalled:
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
        stalled.append(path)
        return "stall"

    s3_faults.rule = rule
    with pytest.raises(StoppedError, match="stopped by SIGTERM"), stopping_by_signals():
        open_data(s3_data, tmp_path)
    assert len(stalled) == 1

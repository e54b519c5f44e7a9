"""A store that fails in the middle: what heals is healed, what does not is one error; nothing half-written counts."""

import re
import traceback
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from meap.errors import DataError
from meap.prep.inputs import find_inputs

pytestmark = pytest.mark.slow

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testkeyid",
    "AWS_SECRET_ACCESS_KEY": "testsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "2",
}


_SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAMEAPFAULTSUITE00",
    "AWS_SECRET_ACCESS_KEY": "meap/fault+suite/secret+key/0123456789abcd",
    "AWS_SESSION_TOKEN": "meap-fault-suite-session-token-0123456789",
}


@pytest.fixture
def arguments(prepare, tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """What to prepare; it is there as `out`, made without a store and without faults."""
    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(150, seed=number))
    given = ("source=in/*.json.gz", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "tasks=2")
    prepare("remote=out", *given)
    return *given, "progress_interval=600"  # an error is all that stderr has, however long it takes


def _assert_same(bucket, out: Path) -> None:
    stored = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix="mds/")}
    local = {f"mds/{path.relative_to(out)}": path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {key for key in stored if ".prep" not in key} == {key for key in local if ".prep" not in key}
    assert all(stored[key] == local[key] for key in stored if ".prep" not in key)


@pytest.mark.fault(3)
def test_what_fails_twice_is_done_the_third_time(
    run_command_line, arguments, s3_faults, bucket, tmp_path, record_property
):
    def rule(method: str, path: str, count: int) -> int | str | None:
        return {1: 503, 2: "cut"}.get(count) if method == "PUT" and path.endswith((".zstd", "00001.json")) else None

    s3_faults.rule = rule
    done = run_command_line(
        *arguments, "remote=s3://corpus/mds", "workers=2", S3_ENDPOINT_URL=s3_faults.url, **_ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    puts = [count for (method, path), count in s3_faults.requests.items() if method == "PUT" and path.endswith(".zstd")]
    assert len(puts) > 4
    assert min(puts) >= 3
    _assert_same(bucket, tmp_path / "out")
    record_property("injected", 2 * len(puts))


@pytest.mark.fault(3)
@pytest.mark.parametrize("place", ["shard.00001.00001", "train/index.json", "tasks/00001.json"])
def test_what_always_fails_is_one_error_and_a_rerun_completes(
    run_command_line, arguments, s3_faults, bucket, tmp_path, place
):
    run: Callable = lambda: run_command_line(  # noqa: E731
        *arguments, "remote=s3://corpus/mds", "workers=1", S3_ENDPOINT_URL=s3_faults.url, **_ENVIRONMENT
    )
    s3_faults.rule = lambda method, path, _: 503 if method == "PUT" and place in path else None
    failed = run()
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1].startswith("error: s3://corpus/mds/")
    assert place in failed.stderr
    assert " cannot be written after 3 attempts (" in failed.stderr
    assert "network or disk, then run the same command again" in failed.stderr
    assert failed.stderr.count("\n") <= 3  # what it loads, its first sign of life if it came so far, and the error
    assert "testsecret" not in failed.stderr
    assert not [each for each in bucket.objects.all() if each.key == "mds/train/index.json"], "not complete"

    s3_faults.rule = lambda *_: None
    first_shard = ("PUT", "/corpus/mds/train/shard.00000.00000.mds.zstd")
    assert s3_faults.requests[first_shard] == 1
    done = run()
    assert done.returncode == 0, done.stderr
    assert s3_faults.requests[first_shard] == 1, "the first task was whole and is not done again"
    _assert_same(bucket, tmp_path / "out")


@pytest.fixture
def s3_here(arguments, s3_faults, monkeypatch) -> None:
    """This process talks to the store."""
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, s3_faults.url)
    # A store that says nothing is given up by its client: after a second here, else after a quarter of a minute.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 1.0}})


@pytest.mark.fault(3)
@pytest.mark.parametrize("fault", [500, (503, "SlowDown"), "reset", "cut", "stall", "late"], ids=str)
def test_every_kind_of_fault_that_passes_leaves_no_trace(
    prepare, arguments, s3_here, s3_faults, bucket, tmp_path, fault, record_property
):
    met: set[str] = set()

    def rule(method: str, path: str, _: int):
        """Once for every kind of object: a shard, an index, a task's record, a file of the tokenizer, ..."""
        kind = re.sub(r"\d+", "", path)
        if method != "PUT" or kind in met:
            return None
        met.add(kind)
        return fault

    s3_faults.rule = rule
    prepare(*arguments, "remote=s3://corpus/mds")
    _assert_same(bucket, tmp_path / "out")
    assert {"/corpus/mds/train/shard...mds.zstd", "/corpus/mds/train/index.json"} <= met
    record_property("injected", len(met))


@pytest.mark.fault(11)
@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_keys_that_are_refused_or_expire_are_one_error_and_nowhere_a_secret(
    prepare, arguments, s3_here, s3_faults, tmp_path, monkeypatch, capfd, code
):
    for name, value in _SECRETS.items():
        monkeypatch.setenv(name, value)
    # The first shards arrive while the token is good.
    is_late = code == "ExpiredToken"
    s3_faults.rule = lambda method, path, _: (
        (403, code) if not is_late or (method == "PUT" and "shard.00001" in path) else None
    )
    with pytest.raises(DataError) as failed:
        prepare(*arguments, "remote=s3://corpus/mds")
    message = str(failed.value)
    assert "s3://corpus/mds" in message
    assert "access denied (" in message
    said = "".join([*capfd.readouterr(), *traceback.format_exception(failed.value)])
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in _SECRETS.values():
        assert secret not in said
        assert not [content for content in written if secret.encode() in content]


@pytest.mark.fault(3)
def test_a_file_that_is_replaced_while_it_is_read_is_an_error_and_no_mixture(server, bucket, monkeypatch):
    """A store answers each part of a large file by itself, the later ones from another version."""
    for name, value in {**_ENVIRONMENT, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"default_block_size": 1 << 20})
    bucket.put_object(Key="raw.jsonl", Body=b"a" * (4 << 20))
    files = find_inputs("s3://corpus/raw.jsonl")

    def read() -> None:
        with files.open(0) as opened:
            assert opened.read(1 << 20) == b"a" * (1 << 20)
            bucket.put_object(Key="raw.jsonl", Body=b"b" * (4 << 20))
            assert set(opened.read()) == set(b"a"), "only what had arrived already may be read"
            opened.seek(0)
            opened.read()

    with pytest.raises(DataError, match=r"^s3://corpus/raw.jsonl cannot be used \("):
        read()

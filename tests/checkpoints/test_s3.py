"""The same against S3, with faults between: what heals is healed, what does not is one error."""

import dataclasses
import itertools

import fsspec
import pytest

from meap.back_off import BackOff
from meap.checkpoints import CheckpointStore, DamagedError, describe_file
from meap.errors import CheckpointError, DataError
from meap.places.folder import Folder

pytestmark = [pytest.mark.slow, pytest.mark.fault(3), pytest.mark.timeout(300)]

FOLDER = "s3://corpus/run"


@pytest.fixture(autouse=True)
def keys(monkeypatch, s3_faults):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testkeyid",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": s3_faults.url,
    }.items():
        monkeypatch.setenv(name, value)
    # A store that says nothing is given up by its client: after seconds here, else after a quarter of a minute.
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.5}})
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 2)
    monkeypatch.setattr("meap.places.folder._BACK_OFF", BackOff(attempts=3, first_wait=0.05))


def test_a_checkpoint_goes_there_and_back_through_faults_that_pass(save, s3_faults, tmp_path):
    s3_faults.rule = lambda method, path, count: 503 if path.endswith(".pt") and count == 1 else None
    record = save(FOLDER, 8)
    store = CheckpointStore(FOLDER)
    assert store.steps() == [8]
    assert store.record(8) == record
    store.require_sizes(record)
    assert store.fetch(record, tmp_path / "copies").read_bytes() == b"ba8.pt of 8" * 100
    save(FOLDER, 12, sharded=True)
    store.prune(1, newest=12)
    assert store.steps() == [12]


def test_what_is_missing_is_damage_and_what_is_forbidden_is_not(save, s3_faults, tmp_path, bucket):
    record, store = save(FOLDER, 8), CheckpointStore(FOLDER)
    s3_faults.rule = lambda method, path, count: 403 if method == "GET" and path.endswith(".pt") else None
    with pytest.raises(CheckpointError, match=r"checkpoint.folder=.*/ba8.pt: access denied \(PermissionError"):
        store.fetch(record, tmp_path / "copies")
    s3_faults.rule = lambda *_: None
    bucket.Object("run/ba8.pt").delete()
    with pytest.raises(DamagedError, match=r"ba8.pt is missing"):
        store.fetch(record, tmp_path / "copies")


def test_a_bucket_that_is_not_there_is_an_error():
    with pytest.raises(CheckpointError, match=r"checkpoint.folder=s3://nowhere/run does not exist, or its bucket"):
        CheckpointStore("s3://nowhere/run").steps()


@pytest.mark.parametrize("fault", [500, 503, "cut", "reset", "stall"])
def test_an_upload_heals_or_is_one_error_with_the_object_and_the_attempts(
    save, s3_faults, tmp_path, record_property, fault
):
    """What fails once is done; what always fails leaves nothing that counts; then the same call completes."""
    once, always = itertools.count(), itertools.count()
    s3_faults.rule = lambda method, path, count: fault if method == "PUT" and count == 1 and not next(once) else None
    save(FOLDER, 4)
    assert CheckpointStore(FOLDER).steps() == [4]

    def rule(method: str, path: str, _: int):
        if method == "PUT" and path.endswith("ba8.pt"):
            next(always)
            return fault
        return None

    s3_faults.rule = rule
    with pytest.raises(CheckpointError) as failed:
        save(FOLDER, 8)
    assert str(failed.value).startswith("checkpoint.folder=s3://corpus/run/ba8.pt cannot be written after 3 attempts (")
    assert "network or disk, then run the same command again" in str(failed.value)
    assert "testsecret" not in str(failed.value)
    assert CheckpointStore(FOLDER).steps() == [4]
    tried = next(always)
    assert 3 <= tried <= 3 * 3 * 2
    s3_faults.rule = lambda *_: None
    s3_faults.resumed.set()
    save(FOLDER, 8)
    assert CheckpointStore(FOLDER).steps() == [8, 4]
    record_property("injected", 1 + tried)


@pytest.mark.parametrize("fault", [500, 503, "reset", "stall", "half", "short", "flip"])
def test_a_download_heals_or_is_an_error_and_no_wrong_byte_is_used(save, s3_faults, tmp_path, record_property, fault):
    record, store = save(FOLDER, 8), CheckpointStore(FOLDER)
    faults = itertools.count()

    def rule(times: int):
        def decide(method: str, path: str, _: int):
            return fault if method == "GET" and path.endswith("ba8.pt") and next(faults) < times else None

        return decide

    s3_faults.rule = rule(1)
    assert store.fetch(record, tmp_path / "copies").read_bytes() == b"ba8.pt of 8" * 100
    s3_faults.rule = rule(1000)
    # What arrives whole but wrong is damage; what does not arrive is a store that fails, and no reason to go back.
    is_damage = fault in {"short", "flip"}
    message = r"ba8\.pt (has|does not have)" if is_damage else r"ba8\.pt cannot be read after 3 attempts"
    with pytest.raises((CheckpointError, DamagedError), match=message) as failed:
        store.fetch(record, tmp_path / "other")
    assert isinstance(failed.value, DamagedError) == is_damage
    assert not list((tmp_path / "other").iterdir())
    tried = next(faults)
    s3_faults.rule = lambda *_: None
    s3_faults.resumed.set()
    assert store.fetch(record, tmp_path / "other").read_bytes() == b"ba8.pt of 8" * 100
    record_property("injected", tried)


@pytest.mark.parametrize("fault", ["cut", 503])
def test_an_upload_in_parts_that_is_cut_leaves_no_object_and_no_parts(s3_faults, bucket, tmp_path, monkeypatch, fault):
    """As a checkpoint's; s3fs makes parts of 50 MB of what has 100 MB or more, here the smallest that S3 takes."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {})  # patience
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 << 20)
    content = bytes(range(256)) * (11 << 12)
    (tmp_path / "ba8.pt").write_bytes(content)
    folder, store = Folder("s3://corpus/run"), bucket.meta.client
    s3_faults.rule = lambda method, path, count: fault if method == "PUT" else None
    with pytest.raises(DataError, match=r"^s3://corpus/run/ba8.pt cannot be written after 3 attempts \("):
        folder.upload(tmp_path / "ba8.pt", "ba8.pt")
    assert folder.entries() == []
    assert "Uploads" not in store.list_multipart_uploads(Bucket="corpus")
    puts = itertools.count()
    s3_faults.rule = lambda method, path, count: fault if method == "PUT" and next(puts) == 1 else None
    folder.upload(tmp_path / "ba8.pt", "ba8.pt")
    assert folder.read("ba8.pt") == content
    assert "Uploads" not in store.list_multipart_uploads(Bucket="corpus")


def test_a_record_that_is_far_too_large_is_not_downloaded(s3_faults, bucket, monkeypatch):
    """By what arrives, whatever size a store declares."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {})  # patience
    for name, size in (("empty", 0), ("small", 1000), ("large", 1 << 20)):
        bucket.put_object(Key=f"run/{name}", Body=b"1" * size)
    folder = Folder("s3://corpus/run")
    assert folder.read("empty", most=1000) == b""
    assert folder.read("small", most=1000) == b"1" * 1000
    assert folder.read_all(["empty", "small", "none"], most=1000) == {"empty": b"", "small": b"1" * 1000}
    for read in (lambda: folder.read("large", most=1000), lambda: folder.read_all(["large"], most=1000)):
        with pytest.raises(
            DataError, match=r"^s3://corpus/run/large is refused, since it has 1,048,576 bytes, and 1,0"
        ):
            read()
    assert s3_faults.sent["GET", "/corpus/run/large"] == 2 * 1001


def test_folders_of_more_than_a_page_are_listed_whole(bucket, monkeypatch):
    """A store lists a thousand names at a time."""
    monkeypatch.setitem(fsspec.config.conf, "s3", {})  # patience
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for step in range(1, 1102):
        backend.put_object("corpus", f"run/ba{step}.json", b"{}")
    store = CheckpointStore(FOLDER)
    assert store.steps() == list(range(1101, 0, -1))
    assert Folder("s3://corpus").sizes("run") == {f"ba{step}.json": 2 for step in range(1, 1102)}
    store.prune(1100, newest=1101)
    assert store.steps() == list(range(1101, 1, -1))


def test_an_older_version_s_body_is_damage_and_the_checkpoint_before_counts(save, bucket, tmp_path):
    """A store that answers with what an earlier run had saved at the same step, or with its record."""
    former = save(FOLDER, 8)
    older = {name: bucket.Object(f"run/{name}").get()["Body"].read() for name in ("ba8.pt", "ba8.json")}
    store = CheckpointStore(FOLDER)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/ba8.pt").write_bytes(older["ba8.pt"][::-1])
    store.upload(["ba8.pt"], tmp_path / "new")
    store.publish(dataclasses.replace(former, files=(describe_file(tmp_path / "new/ba8.pt", "ba8.pt"),)))
    current = store.record(8)
    assert store.fetch(current, tmp_path / "a").read_bytes() == older["ba8.pt"][::-1]
    for name, body in older.items():
        before = bucket.Object(f"run/{name}").get()["Body"].read()
        bucket.put_object(Key=f"run/{name}", Body=body)
        with pytest.raises(DamagedError, match=r"ba8.pt does not have the hash that was recorded"):
            store.fetch(store.record(8), tmp_path / f"of {name}")
        bucket.put_object(Key=f"run/{name}", Body=before)

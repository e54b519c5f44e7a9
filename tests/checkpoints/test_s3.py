"""The same against S3, with faults between: what heals is healed, what does not is one error."""

import pytest

from meap.checkpoints import CheckpointStore, DamagedError
from meap.errors import CheckpointError

pytestmark = pytest.mark.slow

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
    with pytest.raises(CheckpointError, match=r"cannot read ba8.pt from .*PermissionError"):
        store.fetch(record, tmp_path / "copies")
    s3_faults.rule = lambda *_: None
    bucket.Object("run/ba8.pt").delete()
    with pytest.raises(DamagedError, match=r"ba8.pt is missing"):
        store.fetch(record, tmp_path / "copies")


def test_a_bucket_that_is_not_there_is_an_error():
    with pytest.raises(CheckpointError, match=r"cannot look into checkpoint.folder=s3://nowhere/run"):
        CheckpointStore("s3://nowhere/run").steps()

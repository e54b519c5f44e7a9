"""Keys that are absent, wrong or out of date while data are read: one error, and nowhere a secret."""

import gc
import traceback

import pytest
import s3fs

from meap.errors import DataError
from meap.places.folder import Folder

pytestmark = [pytest.mark.fault(11), pytest.mark.slow]

_SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAMEAPFAULTSUITE00",
    "AWS_SECRET_ACCESS_KEY": "meap/fault+suite/secret+key/0123456789abcd",
    "AWS_SESSION_TOKEN": "meap-fault-suite-session-token-0123456789",
}
_REFUSED = ("could not be read: access denied (403", "check the credentials in the environment")
_ABSENT = ("could not be read: no credentials found (NoCredentialsError", "set AWS_ACCESS_KEY_ID and")


@pytest.fixture
def secrets(s3_data, monkeypatch) -> None:
    for name, value in _SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def assert_no_secret(tmp_path, capfd, caplog):
    """In no file of the test, nothing that was printed or logged, and not in what is said."""

    def check(*said: str) -> None:
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        printed = "".join([*capfd.readouterr(), *said])
        logged = "\n".join(str(record.getMessage()) for record in caplog.records if "meap" in record.name)
        for secret in _SECRETS.values():
            assert secret not in printed + logged
            assert not [content for content in written if secret.encode() in content]

    return check


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_keys_that_are_refused_at_the_start(
    s3_data, s3_faults, secrets, tmp_path, open_data, failure_of, assert_no_secret, code
):
    s3_faults.rule = lambda *_: (403, code)
    message = failure_of(lambda: open_data(s3_data, tmp_path))
    assert "s3://corpus/mds" in message
    assert "credentials" in message
    assert_no_secret(message)


@pytest.mark.parametrize("workers", [0, 2])
def test_keys_that_expire_on_the_way(
    s3_data, s3_faults, secrets, tmp_path, open_data, epoch_of, failure_of, assert_no_secret, workers
):
    loader = open_data(s3_data, tmp_path / "cache", workers=workers, attempts=3)
    s3_faults.rule = lambda *_: (403, "ExpiredToken")
    message = failure_of(lambda: epoch_of(loader))
    assert message.startswith("s3://corpus/mds/train/shard.")
    assert all(part in message for part in _REFUSED)
    shard_requests = [count for (_, path), count in s3_faults.requests.items() if path.endswith(".zstd")]
    assert max(shard_requests) <= 3, "nothing is gained by asking again"
    assert_no_secret(message)


@pytest.fixture
def renew(s3_data, tmp_path, monkeypatch):
    """Write keys to the file of credentials, as whatever renews them does; libraries read it once."""
    keys = tmp_path / "credentials"

    def write(key: str) -> None:
        keys.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = testsecret\n")

    write("old")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    s3fs.S3FileSystem.clear_instance_cache()
    return write


@pytest.mark.parametrize("refusal", ["ExpiredToken", "InvalidAccessKeyId"])
def test_keys_that_are_renewed_on_the_way(s3_data, s3_faults, renew, tmp_path, open_data, epoch_of, refusal):
    loader = open_data(s3_data, tmp_path / "cache", attempts=3)
    s3_faults.rule = lambda *_: (403, refusal) if s3_faults.keys[-1] == "old" else None
    renew("new")
    assert len(epoch_of(loader)) > 0
    assert {"old", "new"} <= {*s3_faults.keys}


@pytest.mark.parametrize("refusal", ["ExpiredToken", "InvalidAccessKeyId"])
def test_keys_that_are_renewed_between_checkpoints(s3_data, s3_faults, renew, refusal):
    folder = Folder(s3_data)
    assert folder.exists("train/index.json")
    s3_faults.rule = lambda *_: (403, refusal) if s3_faults.keys[-1] == "old" else None
    with pytest.raises(DataError, match="access denied"):
        folder.write("train/new", b"content")
    renew("new")
    folder.write("train/new", b"content")
    assert folder.read("train/new") == b"content"


def test_keys_that_are_renewed_before_a_size_is_asked_for(s3_data, s3_faults, renew):
    """What refuses a HEAD has no body that says why: a bare 400."""
    folder = Folder(s3_data)
    assert folder.exists("train/index.json")
    s3_faults.rule = lambda *_: (400, "ExpiredToken") if s3_faults.keys[-1] == "old" else None
    renew("new")
    assert folder.size("train/index.json") > 0


def test_keys_that_are_not_there(s3_data, tmp_path, open_data, epoch_of, failure_of, monkeypatch):
    loader = open_data(s3_data, tmp_path / "cache", attempts=3)
    loader.dataset.streams[0]._downloader.clean_up()  # which holds the keys of before
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    message = failure_of(lambda: epoch_of(loader))
    assert all(part in message for part in _ABSENT), message


def test_a_traceback_holds_no_secret(s3_data, s3_faults, secrets, tmp_path, open_data, assert_no_secret):
    """Also of what libraries have raised below."""
    dataset = open_data(s3_data, tmp_path / "cache").dataset
    s3_faults.rule = lambda *_: (403, "InvalidAccessKeyId")
    with pytest.raises(DataError) as failed:
        dataset[0]
    assert_no_secret("".join(traceback.format_exception(failed.value)))
    del failed
    gc.collect()

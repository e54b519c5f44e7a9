"""From S3 and to S3, against moto's server on the loopback interface."""

import os
import urllib.request

import pytest

from meap.errors import ConfigError
from meap.places.addresses import use_one_s3_endpoint

pytestmark = pytest.mark.slow

_KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
_NO_KEYS = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"}


def test_from_s3_to_s3_gives_the_shards_of_local_folders(
    run_command_line, prepare, tmp_path, server, bucket, tokenizer_dir, make_texts, write_lines
):
    for number in range(3):
        path = write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(150, seed=number))
        bucket.upload_file(str(path), f"raw/{path.name}")
    arguments = (f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "heldout_ratio=0.05", "tasks=3")
    prepare("source=in/*.json.gz", "remote=out", *arguments)

    remote = ("source=s3://corpus/raw/*.json.gz", "remote=s3://corpus/mds", *arguments)
    done = run_command_line(*remote, "workers=2", **_KEYS, S3_ENDPOINT_URL=server)
    assert done.returncode == 0, done.stderr
    assert "complete: 450 documents, " in done.stdout
    stored = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix="mds/")}
    local = {
        f"mds/{path.relative_to(tmp_path / 'out')}": path for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    published = {key for key in stored if ".prep" not in key}
    assert published == {key for key in local if ".prep" not in key}
    for key in published:
        # the manifest names the source
        assert key.endswith("manifest.json") or stored[key] == local[key].read_bytes(), key

    again = run_command_line(*remote, **_KEYS, AWS_ENDPOINT_URL=server)
    assert again.stdout.startswith("already complete: 450 documents, ")
    other = run_command_line(*remote, "seq_len=63", **_KEYS, AWS_ENDPOINT_URL=server)
    assert other.returncode == 1
    assert "s3://corpus/mds holds another data set; seq_len=31 there, seq_len=63 here" in other.stderr


@pytest.mark.fault(11)
def test_s3_troubles_are_one_error_without_secrets(
    run_command_line, tmp_path, server, bucket, tokenizer_dir, make_texts, write_lines
):
    path = write_lines(tmp_path / "in.json.gz", make_texts(20))
    bucket.upload_file(str(path), "raw/in.json.gz")
    tokenizer = f"tokenizer.name={tokenizer_dir}"
    here = {"AWS_ENDPOINT_URL": server}

    def error_of(*arguments: str, **environment: str) -> str:
        done = run_command_line(
            *arguments, tokenizer, "seq_len=15", "workers=1", "progress_interval=600", **environment
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert done.stderr.count("\n") <= 3  # what it loads, its first sign of life if it came so far, and the error
        assert "testsecret" not in done.stderr
        return done.stderr

    assert "s3://nobucket/mds does not exist, or its bucket does not: check the spelling or create it" in error_of(
        "source=in.json.gz", "remote=s3://nobucket/mds", **_KEYS, **here
    )
    assert "source=s3://nobucket/raw/*.gz matches no file" in error_of(
        "source=s3://nobucket/raw/*.gz", "remote=out", **_KEYS, **here
    )
    for arguments in (
        ("source=s3://corpus/raw/in.json.gz", "remote=out"),
        ("source=in.json.gz", "remote=s3://corpus/mds"),
    ):
        message = error_of(*arguments, **_NO_KEYS, **here)
        assert "s3://corpus/" in message
        assert "no credentials found" in message
        assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in message


@pytest.mark.fault(11)
def test_a_wrong_key_is_one_error_without_secrets(run_command_line, tmp_path, server, bucket, make_texts, write_lines):
    path = write_lines(tmp_path / "in.json.gz", make_texts(20))
    bucket.upload_file(str(path), "raw/in.json.gz")

    def check_keys_after(requests: bytes) -> None:
        header = {"Content-Type": "text/plain"}
        url = f"{server}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, requests, header, method="POST")).close()

    check_keys_after(b"0")  # and the store has none
    try:
        done = run_command_line(
            "source=s3://corpus/raw/*.json.gz", "remote=out", "tokenizer.name=t", **_KEYS, AWS_ENDPOINT_URL=server
        )
    finally:
        check_keys_after(b"inf")
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)  # what it loads, and the error
    assert done.stderr.splitlines()[-1].startswith("error: source=s3://corpus/raw/*.json.gz: access denied (")
    assert "testsecret" not in done.stderr


def test_parquet_streams_and_validation_files_of_a_bucket(
    run_command_line, prepare, tmp_path, server, bucket, tokenizer_dir, make_texts
):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, seed in (("train", 1), ("heldout", 2)):
        (tmp_path / name).mkdir()
        for number in range(2):
            texts = make_texts(90, seed=2 * seed + number)
            table = pa.table({"text": texts, "meta": [{"set": "ab"[n % 2]} for n in range(90)], "id": range(90)})
            pq.write_table(table, tmp_path / name / f"{number}.parquet", row_group_size=20)
            bucket.upload_file(str(tmp_path / name / f"{number}.parquet"), f"raw/{name}/{number}.parquet")
    arguments = (f"tokenizer.name={tokenizer_dir}", "seq_len=31", "stream_key=meta.set", "tasks=3")
    prepare("source=train", "validation_source=heldout", "remote=out", *arguments)
    remote = ("source=s3://corpus/raw/train/*.parquet", "validation_source=s3://corpus/raw/heldout/*.parquet")
    done = run_command_line(
        *remote, "remote=s3://corpus/mds", *arguments, "workers=2", **_KEYS, AWS_ENDPOINT_URL=server
    )
    assert done.returncode == 0, done.stderr
    stored = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix="mds/")}
    local = {f"mds/{path.relative_to(tmp_path / 'out')}": path for path in (tmp_path / "out").rglob("*.*")}
    published = {key for key in stored if ".prep" not in key}
    assert len([key for key in published if key.endswith("index.json")]) == 4
    assert published == {key for key in local if ".prep" not in key and local[key].is_file()}
    assert all(key.endswith("manifest.json") or stored[key] == local[key].read_bytes() for key in published)


def test_endpoints_are_made_one(monkeypatch):
    for ours, theirs in (("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"), ("AWS_ENDPOINT_URL", "S3_ENDPOINT_URL")):
        monkeypatch.setenv(ours, "http://127.0.0.1:9")
        monkeypatch.delenv(theirs, raising=False)
        use_one_s3_endpoint()
        assert os.environ[theirs] == "http://127.0.0.1:9"
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:10")
    with pytest.raises(
        ConfigError, match=r"S3_ENDPOINT_URL and AWS_ENDPOINT_URL name two different S3 stores: unset one"
    ):
        use_one_s3_endpoint()
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    use_one_s3_endpoint()
    assert not {"S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"} & os.environ.keys()

"""Shards streamed from S3, against moto's server on the loopback interface: the same samples as from a local folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server):
    import boto3

    resource = boto3.resource(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="testkeyid",
        aws_secret_access_key="testsecret",
    )
    return resource.create_bucket(Bucket="rows")


@pytest.fixture(scope="module")
def readers(tmp_path_factory, project_root, warm_python) -> Iterator[subprocess.Popen[str]]:
    """The process that readers are forked from."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
    process = subprocess.Popen(
        [warm_python, "-W", "ignore", str(Path(__file__).with_name("forked_readers.py"))],
        cwd=tmp_path_factory.mktemp("readers"),
        env=environment | {"PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate()


@pytest.fixture
def read_epoch(tmp_path: Path, readers, server):
    def read(remote: str, name: str, *, options: dict | None = None, **environment: str) -> dict:
        out = tmp_path / f"{name}-read"
        order = {
            "remote": remote,
            "cache": str(tmp_path / name),
            "options": {"num_workers": 0} | (options or {}),
            "environment": KEYS | {"S3_ENDPOINT_URL": server} | environment,
            "out": str(out),
        }
        readers.stdin.write(json.dumps(order) + "\n")
        readers.stdin.flush()
        status = int(readers.stdout.readline())
        printed = Path(f"{out}.log").read_text()
        assert status == 0, printed
        found = Path(f"{out}.json").read_text()
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in printed + found
        return json.loads(found)

    return read


def upload(bucket, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), f"{folder.name}/{path.relative_to(folder)}")


@pytest.mark.parametrize(("compression", "workers"), [("zstd", 2), (None, 0)])
def test_an_epoch_from_s3_is_the_epoch_from_a_local_folder(
    bucket, read_epoch, write_shards, tmp_path, compression, workers
):
    folder = write_shards(tmp_path / "mds", compression=compression, validation_rows=0)
    upload(bucket, folder)
    local = read_epoch(str(folder), "local")
    assert len(local["rows"]) == 96
    assert read_epoch("s3://rows/mds", "remote", options={"num_workers": workers}) == local


@pytest.fixture
def far_server(server, project_root, quiet_environment) -> Iterator[str]:
    """The store behind a proxy that holds back every request, that of the benchmark."""
    proxy = subprocess.Popen(
        [sys.executable, str(project_root / "benchmarks/s3_streaming.py"), "proxy", server.rpartition(":")[2], "20"],
        env=quiet_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert proxy.stdout is not None
    yield f"http://127.0.0.1:{proxy.stdout.readline().strip()}"
    proxy.communicate()


def test_a_bounded_cache_and_a_store_far_away_lose_nothing(bucket, far_server, read_epoch, write_shards, tmp_path):
    folder = write_shards(tmp_path / "mds", rows=192, validation_rows=0)
    upload(bucket, folder)
    index = (folder / "train/index.json").read_bytes()
    sizes = [each["raw_data"]["bytes"] + each["zip_data"]["bytes"] for each in json.loads(index)["shards"]]
    # As little as is allowed: what a worker may read ahead into, four more, and one on its way, not counted yet.
    allowed = len(index) + sum(sorted(sizes)[-(2 + 4 + 1) :])
    bounded = {"num_workers": 1, "predownload": 1, "cache_limit": str(allowed)}
    far = {"S3_ENDPOINT_URL": far_server}
    assert read_epoch("s3://rows/mds", "far", options=bounded, **far) == read_epoch(str(folder), "local")
    assert len(list((tmp_path / "far").rglob("*.mds"))) < len(sizes)  # some were evicted


def test_a_byte_flipped_in_the_store_is_never_used(bucket, read_epoch, write_shards, tmp_path):
    folder = write_shards(tmp_path / "mds", compression=None, validation_rows=0)
    shard = sorted((folder / "train").glob("*.mds"))[2]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    upload(bucket, folder)
    error = read_epoch("s3://rows/mds", "remote")["error"]
    assert error.startswith(f"s3://rows/mds/train/{shard.name} (rows ")
    assert "cannot be used after 1 attempt: its xxh3_64 is" in error


def test_what_is_not_there_is_one_clear_error(bucket, read_epoch):
    assert "holds no finished 'train' split" in read_epoch("s3://rows/nothing", "remote")["error"]
    assert (
        "there is no bucket 'no-such-bucket' at this endpoint" in read_epoch("s3://no-such-bucket/c4", "two")["error"]
    )


@pytest.mark.fault(11)
def test_wrong_credentials_or_place_are_one_clear_error_without_the_secret(read_epoch):
    error = read_epoch("s3://no-such-bucket/mds", "remote", S3_ENDPOINT_URL="http://127.0.0.1:9")["error"]
    assert "s3://no-such-bucket/mds/train/index.json cannot be read after 3 attempts (EndpointConnectionError" in error
    assert "check the address, the permissions or credentials, and the network" in error

"""From S3, against moto's server on the loopback interface: only the shards that are needed cross the wire."""

import json
import subprocess

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
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    return resource.create_bucket(Bucket="seen")


def test_exactly_the_needed_shards_are_downloaded(
    server, bucket, rows_remote, project_root, warm_python, quiet_environment, tmp_path, capsys
):
    names = [
        name["basename"]
        for shard in json.loads((rows_remote / "train" / "index.json").read_text())["shards"]
        for name in [shard["zip_data"]]
    ]
    rows = [shard["samples"] for shard in json.loads((rows_remote / "train" / "index.json").read_text())["shards"]]
    wanted = {1, 3}
    # What is not in the store cannot be asked for without an error: leave the shards out that nobody needs.
    for path in rows_remote.rglob("*"):
        if path.is_file() and (path.suffix != ".zstd" or path.name in {names[number] for number in wanted}):
            bucket.upload_file(str(path), f"mds/{path.relative_to(rows_remote)}")
    samples = f"samples={[sum(rows[:number]) for number in sorted(wanted)]}"

    def inspect(place: str, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_python, "-W", "ignore", "-m", "meap", "inspect", f"remote={place}", samples, *more],
            cwd=project_root,
            env=quiet_environment | KEYS | {"PYTHONPATH": str(project_root), "AWS_ENDPOINT_URL": server},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    cache = tmp_path / "cache"
    remote = inspect("s3://seen/mds", f"cache_dir={cache}", f"html={tmp_path / 'page.html'}")
    assert remote.returncode == 0, remote.stderr
    assert {path.name for path in (cache / "train").iterdir()} == {
        "index.json",
        *(names[number].removesuffix(".zstd") for number in wanted),
    }
    local = inspect(str(rows_remote))
    assert remote.stdout.replace("s3://seen/mds", str(rows_remote)) == local.stdout
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<pre>") == 2
    missing = inspect("s3://seen/mds", "samples=[0]")
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1].startswith(
        f"error: s3://seen/mds/train/{names[0]} (rows 0 to {rows[0] - 1}) is missing: "
    )
    assert missing.stderr.count("\n") == 2  # what it loads, and the error
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in remote.stdout + remote.stderr + missing.stdout + missing.stderr

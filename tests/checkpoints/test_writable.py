"""A bucket that cannot take checkpoints is found out before the first step."""

import subprocess

import pytest

S3_CHECK = """
import sys
from meap.errors import MeapError
from meap.places.addresses import use_one_s3_endpoint
from meap.checkpoints import CheckpointStore

use_one_s3_endpoint()
try:
    CheckpointStore(sys.argv[1]).require_writable()
except MeapError as error:
    print(type(error).__name__, error)
else:
    print("fine")
"""


@pytest.mark.slow
def test_a_bucket_is_tried_before_the_first_step(tmp_path, warm_python, quiet_environment):
    """Against moto's server, in processes of their own: clients keep their endpoint and credentials."""
    import boto3
    from moto.server import ThreadedMotoServer

    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        store = boto3.resource(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )
        bucket = store.create_bucket(Bucket="runs")
        bare = {name: value for name, value in quiet_environment.items() if not name.startswith("AWS_")}
        bare |= {"S3_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}

        def check(folder: str, environment: dict[str, str]) -> subprocess.Popen[str]:
            command = [warm_python, "-W", "ignore", "-c", S3_CHECK, folder]
            return subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )

        started = [
            check("s3://runs/1b", bare | keys),
            check("s3://no-such-bucket/1b", bare | keys),
            check("s3://runs/1b", bare),
        ]
        fine, missing, anonymous = (process.communicate(timeout=120)[0].strip() for process in started)
        left = [each.key for each in bucket.objects.all()]
    finally:
        server.stop()
    assert (fine, left) == ("fine", [])
    assert missing == (
        "CheckpointError checkpoint.folder=s3://no-such-bucket/1b does not exist, or its bucket does not: check the "
        "spelling or create it"
    )
    assert anonymous.startswith("CheckpointError checkpoint.folder=s3://runs/1b: no credentials found (NoCredentials")
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role" in anonymous

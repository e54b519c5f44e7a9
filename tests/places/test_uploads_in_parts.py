"""What a killed upload leaves in a bucket, and the rule in the documentation that removes it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

IN_PARTS = 100 << 20
"""Bytes from which on a file is uploaded in parts, as the documentation says."""
UPLOAD = """
import sys
from pathlib import Path
from meap.places.folder import Folder
Folder("s3://corpus/run").upload(Path(sys.argv[1]), "ba8.pt")
"""


def killed_while_it_uploads(s3_faults, path: Path, project_root: Path) -> None:
    """As a machine that is taken away: by SIGKILL, while the store receives the file."""
    receives = threading.Event()

    def hold(method: str, *_):
        if method != "PUT":
            return None
        receives.set()
        return "stall"

    s3_faults.rule = hold
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
    environment |= {
        "AWS_ACCESS_KEY_ID": "testkeyid",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_faults.url,
        "PYTHONPATH": str(project_root),
    }
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(path)], env=environment)
    try:
        assert receives.wait(timeout=200)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    s3_faults.resumed.set()


@pytest.mark.parametrize(("num_bytes", "leaves"), [(IN_PARTS, ["run/ba8.pt"]), (IN_PARTS - 1, [])])
def test_a_killed_upload_leaves_parts_of_large_files_alone(
    s3_faults, bucket, tmp_path, project_root, num_bytes, leaves
):
    path = tmp_path / "ba8.pt"
    path.touch()
    os.truncate(path, num_bytes)
    killed_while_it_uploads(s3_faults, path, project_root)
    left = bucket.meta.client.list_multipart_uploads(Bucket="corpus").get("Uploads", [])
    assert [each["Key"] for each in left] == leaves
    assert list(bucket.objects.all()) == [], "an object appears whole or not at all"


def test_the_documented_rule_is_one_that_the_store_takes(project_root, bucket):
    text = (project_root / "docs" / "train.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"--lifecycle-configuration\s+\\?\s*'([^']+)'", text)
    client = bucket.meta.client
    client.put_bucket_lifecycle_configuration(Bucket="corpus", LifecycleConfiguration=json.loads(rule))
    (stored,) = client.get_bucket_lifecycle_configuration(Bucket="corpus")["Rules"]
    assert stored["Status"] == "Enabled"
    assert stored["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert stored["Filter"] == {"Prefix": ""}, "of the whole bucket"

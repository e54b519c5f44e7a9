"""S3 servers of other makes than the one of the other tests: prepare, claim, resume, verify, stream."""

import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from meap.errors import DataError
from meap.places.folder import Folder
from meap.prep import claims
from meap.prep.audit.places import find_data_sets
from meap.prep.audit.verify import verify

pytestmark = pytest.mark.slow

_KEY = "S3RVER"  # the one pair of keys that s3rver knows

_COMMANDS = {
    "rclone": ["rclone", "serve", "s3", "--auth-key", f"{_KEY},{_KEY}", "--addr", "127.0.0.1:{port}", "{folder}"],
    "s3rver": ["s3rver", "--address", "127.0.0.1", "--port", "{port}", "--directory", "{folder}", "--silent"],
    "weed": ["weed", "server", "-s3", "-s3.port={port}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir={folder}"],
}


@pytest.fixture(params=_COMMANDS)
def store(request, tmp_path: Path, monkeypatch, wait_until, prepare, no_earlier_server) -> Iterator[Folder]:
    """A place in a bucket of a server of that make."""
    del prepare, no_earlier_server  # the first unsets the endpoint when it is set up
    import boto3

    command = _COMMANDS[request.param]
    # The developers' packages bring two of them as programs beside Python; the system's may be too old.
    program = shutil.which(command[0], path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder := tmp_path / "store").mkdir()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [program, *(part.format(port=port, folder=folder) for part in command[1:])],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )

    def answers() -> bool:
        assert process.poll() is None, f"{command[0]} has ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        wait_until(answers)
        keys = {"AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _KEY, "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**keys, "AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="corpus")
        yield Folder("s3://corpus/mds")
    finally:
        process.kill()
        process.wait()


def test_a_data_set_is_prepared_claimed_resumed_verified_and_streamed(
    store, prepare, tmp_path, tokenizer_dir, make_texts, write_lines, hashes_of
):
    from streaming import StreamingDataset

    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(60, seed=number))
    arguments = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "tasks=2")
    prepare(*arguments, "remote=expected")
    with claims.held(store, ".prep/claim.json"), pytest.raises(DataError, match=r"is being prepared by process"):
        prepare(*arguments, f"remote={store.url}")
    prepare(*arguments, f"remote={store.url}")
    for name in (".prep/tasks/00001.json", "train/index.json"):
        store.remove(name)
    prepare(*arguments, f"remote={store.url}")
    for name in hashes_of(tmp_path / "expected"):
        (copy := tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(store.read(name) or b"")
    assert hashes_of(tmp_path / "copy") == hashes_of(tmp_path / "expected")
    verdict = verify(find_data_sets(store.url), workers=2)
    assert not verdict.findings
    read = StreamingDataset(remote=f"{store.url}/train", local=str(tmp_path / "cache"), batch_size=1)
    assert len(list(read)) == len(read) > 0

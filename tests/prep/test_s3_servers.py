"""S3 servers of other makes than the one of the other tests: prepare, claim, resume, verify, stream."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from meap.errors import DataError
from meap.places.folder import Folder
from meap.prep import claims
from meap.prep.audit.places import find_data_sets
from meap.prep.audit.verify import verify
from tests import s3_servers

pytestmark = pytest.mark.slow


@pytest.fixture(params=s3_servers.MAKES)
def store(request, tmp_path: Path, monkeypatch, prepare, no_earlier_server) -> Iterator[Folder]:
    """A place in a bucket of a server of that make."""
    del prepare, no_earlier_server  # the first unsets the endpoint when it is set up
    import boto3

    if s3_servers.program_of(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with s3_servers.serving(request.param, tmp_path / "store") as url:
        keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), s3_servers.KEY)
        addresses = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url, "S3_ENDPOINT_URL": url}
        for name, value in {**keys, **addresses}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="corpus")
        yield Folder("s3://corpus/mds")


def test_a_data_set_is_prepared_claimed_resumed_verified_and_streamed(
    store, prepare, tmp_path, tokenizer_dir, make_texts, write_lines, hashes_of
):
    from streaming import StreamingDataset

    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(60, seed=number))
    arguments = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "tasks=2")
    arguments = (*arguments, "dedup.exact=true")
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

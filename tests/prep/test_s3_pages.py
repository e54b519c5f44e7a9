"""More shards than a store lists in one answer, from raw text to an epoch: none is lost between two pages."""

import json

import pytest

from meap.cli import main
from meap.config import DataConfig
from meap.data import build_loader, open_shards
from meap.mds.index import is_shard_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PAGE = 1000
"""Keys in an answer of S3."""
SEQ_LEN, BATCH = 255, 8


@pytest.fixture
def backend(prepare, server, monkeypatch):
    """The store for this process; after `prepare`, which forgets any other."""
    del prepare
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testkeyid",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "S3_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


def test_a_data_set_of_more_than_a_page_of_shards_is_whole(
    prepare, backend, bucket, tmp_path, tokenizer_dir, make_texts, write_lines, capsys
):
    write_lines(tmp_path / "in" / "0.json.gz", make_texts(8650))
    remote, settings = "s3://corpus/mds", ("heldout_ratio=0", "shard_size=5120", f"seq_len={SEQ_LEN}")
    command = ("source=in/*.json.gz", f"tokenizer.name={tokenizer_dir}", *settings)
    prepare("remote=mds", *command)
    for path in (tmp_path / "mds").rglob("*"):
        if path.is_file():  # by way of the network this takes most of the test's time
            backend.put_object("corpus", str(path.relative_to(tmp_path)), path.read_bytes())
    capsys.readouterr()
    prepare(f"remote={remote}", *command)
    assert capsys.readouterr().out.startswith("already complete: "), "every shard was listed with its size"
    index = json.loads((tmp_path / "mds" / "train" / "index.json").read_text())
    shards = [path.name for path in (tmp_path / "mds" / "train").iterdir() if is_shard_name(path.name)]
    assert PAGE < len(shards) == len(index["shards"])

    assert main(["verify", f"remote={remote}"]) == 0
    assert f"{len(shards):,} shards" in capsys.readouterr().out

    data = DataConfig(remote=remote, seq_len=SEQ_LEN, num_canonical_nodes=4, num_workers=2)
    opened = open_shards(data, "train")
    cache = tmp_path / "cache"
    loader = build_loader(
        data, opened, rule=None, seed=17, global_batch_size=BATCH, world_size=1, cache_dir=cache, shuffle=True
    )
    rows = [int(row) for batch in loader for row in batch["sample_id"]]
    assert opened.rows == sum(shard["samples"] for shard in index["shards"])
    assert len(rows) == len(set(rows)) == opened.rows // BATCH * BATCH, "all but the rest of a batch"
    assert len(list(cache.rglob("*.mds"))) == len(shards)

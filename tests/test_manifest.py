import dataclasses
import itertools
import json

import pytest

from meap.errors import DataError
from meap.json_text import require_types
from meap.manifest import Manifest, ShardRecord, TokenizerRecord

MANIFEST = Manifest(
    split="train",
    seq_len=8,
    dtype="uint16",
    hash_algorithm="xxh3_64",
    documents=3,
    tokens=20,
    rows=2,
    dropped_tail_tokens=2,
    bad_lines=0,
    tokenizer=TokenizerRecord("t", "sha256:0", 301, 0, 1, 300),
    shards=(ShardRecord("shard.00000.00000.mds", 10, "00", 2),),
    sources=("a.json.gz",),
    config={"seq_len": 8},
    versions={"meap": "0"},
    stop_ids=(7, 1),
)


def test_json_round_trip():
    assert Manifest.from_json(MANIFEST.to_json(), origin="here") == MANIFEST


def test_another_format_version_is_refused():
    text = dataclasses.replace(MANIFEST, format_version=99).to_json()
    with pytest.raises(DataError, match="here has format version 99, this program reads 2: prepare the data again"):
        Manifest.from_json(text, origin="here")


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"format_version": 2, "split": "train"})])
def test_what_is_not_a_manifest_is_refused(text: str):
    with pytest.raises(DataError, match="here is not a manifest"):
        Manifest.from_json(text, origin="here")


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", ["../../evil.mds", "/etc/evil.mds", "00000/../../evil.mds"])
def test_shards_elsewhere_are_refused(name: str):
    text = dataclasses.replace(MANIFEST, shards=(ShardRecord(name, 10, "00", 2),)).to_json()
    with pytest.raises(DataError, match=f"here names a shard {name} outside its folder: prepare"):
        Manifest.from_json(text, origin="here")


JUNK = ["x", -1, 10**40, 1.5, None, True, [], {}, [[]], [None], [{}], {"a": []}, "[" * 100]


@pytest.mark.fault(4)
def test_a_manifest_that_says_anything_in_any_field_is_read_or_refused(record_property):
    """In any field of it, of its tokenizer, or of a shard; what is read holds what the types say."""
    stored, tried = json.loads(MANIFEST.to_json()), 0
    for part in (stored, stored["tokenizer"], stored["shards"][0]):
        for name, junk in itertools.product(list(part), JUNK):
            kept, part[name] = part[name], junk
            try:
                read = Manifest.from_json(json.dumps(stored), origin="here")
            except DataError as error:
                assert str(error).startswith("here "), (name, junk)  # noqa: PT017
            else:
                require_types(read)
            part[name], tried = kept, tried + 1
    record_property("injected", tried)

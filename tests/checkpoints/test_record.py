"""A record says what belongs to a checkpoint, and whether it is itself whole."""

import dataclasses
import json

import pytest

from meap.checkpoints import CheckpointFile, CheckpointRecord, ModelRecord, describe_file, matches
from meap.checkpoints import record as record_module
from meap.errors import CheckpointError
from meap.manifest import TokenizerRecord
from meap.usage import Usage

RECORD = CheckpointRecord(
    step=8,
    epoch=1,
    tokens=800,
    run="small",
    kind="full",
    world_size=2,
    config={"run": {"name": "small"}},
    model=ModelRecord(
        architecture={"model_type": "llama", "vocab_size": 320},
        rows_without_mask=None,
        tokenizer=TokenizerRecord("small", "sha256:0f", 301, 0, 1, 300),
        tokenizer_files=(CheckpointFile("tokenizer/tokenizer.json", 3, "0f"),),
        usage=Usage("conversations", True, (7, 1), "{{ bos_token }}", {"temperature": 0.6, "eos_token_id": [1, 7]}),
    ),
    data={"data.remote": "64 rows in 2 shards"},
    versions={"torch": "2"},
    files=(CheckpointFile("ba8.pt", 3, "0f"),),
)


def test_a_record_is_read_back():
    assert CheckpointRecord.from_json(RECORD.to_json()) == RECORD


@pytest.mark.parametrize("place", range(0, len(RECORD.to_json()), 7))
def test_a_record_that_was_cut_or_changed_is_refused(place):
    text = RECORD.to_json()
    flipped = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
    for damaged in (text[:place], flipped):
        with pytest.raises(ValueError, match=r"not a complete record|hash does not match|has format"):
            CheckpointRecord.from_json(damaged)


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", ["../ba8.pt", "/etc/passwd", "ba8/../../x", "ba8/..", "ba8", "other.pt"])
def test_a_record_that_names_other_files_is_refused(name):
    hostile = dataclasses.replace(RECORD, files=(CheckpointFile(name, 3, "0f"),))
    with pytest.raises(ValueError, match="which is not a file of a checkpoint"):
        CheckpointRecord.from_json(hostile.to_json())


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", ["../tokenizer.json", "tokenizer/../ba8.pt", "tokenizer", "ba8.pt", "/etc/passwd"])
def test_a_record_that_names_other_files_as_its_tokenizer_is_refused(name):
    model = dataclasses.replace(RECORD.model, tokenizer_files=(CheckpointFile(name, 3, "0f"),))
    with pytest.raises(ValueError, match="which is not a file of a checkpoint"):
        CheckpointRecord.from_json(dataclasses.replace(RECORD, model=model).to_json())


def test_another_format_is_not_taken_for_damage(monkeypatch):
    monkeypatch.setattr(record_module, "_FORMAT", 1)
    earlier = RECORD.to_json()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="record of step 8 has format 1, this program reads 3: use the version"):
        CheckpointRecord.from_json(earlier)
    with pytest.raises(ValueError, match="hash does not match its content"):
        CheckpointRecord.from_json(json.dumps(json.loads(earlier) | {"format": 3}).encode())


def test_a_file_matches_by_size_and_hash(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file = describe_file(path, "ba8.pt")
    assert matches(path, file)
    for content in (b"abd", b"ab", b"abcd"):
        path.write_bytes(content)
        assert not matches(path, file)
    path.unlink()
    assert not matches(path, file)

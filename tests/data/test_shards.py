import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from meap.config import DataConfig, TokenizerConfig
from meap.data import open_shards, open_tokenizer
from meap.data.shards import read_manifest
from meap.errors import DataError, IncompleteError, MismatchError
from meap.manifest import CONVERSATIONS
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR


@pytest.fixture(scope="module")
def remote(tmp_path_factory, write_shards) -> Path:
    return write_shards(tmp_path_factory.mktemp("remote"), rows=8, seq_len=16, validation_rows=0)


def config(remote: Path, **changed) -> DataConfig:
    return DataConfig(remote=str(remote), **{"seq_len": 16} | changed)


def test_the_manifest_and_the_tokenizer_come_with_the_shards(remote, tokenizer):
    shards = open_shards(config(remote), "train")
    assert shards.rows == 8
    opened = open_tokenizer(TokenizerConfig(), shards)
    assert (opened.fingerprint, opened.mask_id, opened.name) == (
        tokenizer.fingerprint,
        tokenizer.mask_id,
        tokenizer.name,
    )


def test_the_same_tokenizer_may_be_named(remote, tokenizer_dir, tokenizer):
    shards = open_shards(config(remote), "train")
    assert open_tokenizer(TokenizerConfig(name=str(tokenizer_dir)), shards).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("named", [True, False])
def test_conversations_bring_the_template_that_rendered_them(write_conversations, tokenizer_dir, tmp_path, named):
    write_conversations(tmp_path / "mds", seq_len=16)
    stored = tmp_path / "mds" / TOKENIZER_DIR / "tokenizer_config.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"chat_template": "{{ trained }}"}))
    own = shutil.copytree(tokenizer_dir, tmp_path / "own")
    (own / "chat_template.jinja").write_text("{{ of_the_base }}")
    shards = open_shards(config(tmp_path / "mds"), "train", kind=CONVERSATIONS)
    opened = open_tokenizer(TokenizerConfig(name=str(own) if named else None), shards)
    assert opened.source_config["chat_template"] == "{{ trained }}"


@pytest.mark.fault(9)
def test_another_tokenizer_is_refused(remote, tokenizer_dir):
    shards = open_shards(config(remote), "train")
    with pytest.raises(MismatchError, match="is not the one .* was made with"):
        open_tokenizer(TokenizerConfig(name=str(tokenizer_dir), eos_token="<s>"), shards)
    with pytest.raises(MismatchError, match="is not the one .* was made with"):
        open_tokenizer(TokenizerConfig(mask_token="<mask>"), shards)


@pytest.mark.fault(9)
def test_another_row_length_is_refused(remote):
    with pytest.raises(MismatchError, match=r"data\.seq_len=32, but the rows of .* were packed to 16 tokens"):
        open_shards(config(remote, seq_len=32), "train")


def test_nothing_there_says_what_to_run(tmp_path):
    with pytest.raises(IncompleteError, match=r"holds no finished 'train' split .* run dataprep/c4_to_mds\.py"):
        open_shards(config(tmp_path), "train")


def test_a_split_that_was_never_made_is_named(remote):
    with pytest.raises(IncompleteError, match=r"holds no finished 'validation' split .* train\.eval_batches=0"):
        open_shards(config(remote), "validation")
    with pytest.raises(IncompleteError, match=r"a heldout_ratio above 0$"):  # it is not training that asks
        read_manifest(str(remote), "validation", key="perplexity.remote")


def test_an_index_without_manifest_is_not_a_data_set(remote, tmp_path):
    copy = shutil.copytree(remote, tmp_path / "copy")
    (copy / "train" / MANIFEST_NAME).unlink()
    with pytest.raises(IncompleteError, match=r"manifest\.json is missing"):
        open_shards(config(copy), "train")


def test_a_damaged_manifest_is_named(remote, tmp_path):
    copy = shutil.copytree(remote, tmp_path / "copy")
    (copy / "train" / MANIFEST_NAME).write_text("{")
    with pytest.raises(DataError, match=r"train/manifest\.json is not a manifest"):
        open_shards(config(copy), "train")


def test_an_unknown_protocol_is_one_error():
    with pytest.raises(DataError, match=r"nowhere://x cannot be used \(ValueError: Protocol not known: nowhere"):
        open_shards(dataclasses.replace(config(Path("x")), remote="nowhere://x"), "train")


@pytest.mark.fault(4)
def test_rows_that_no_shard_holds_are_refused(write_shards, tmp_path):
    """An epoch of so many rows would fill the memory."""
    path = write_shards(tmp_path / "mds", rows=16, validation_rows=0) / "train/manifest.json"
    path.write_text(path.read_text().replace('"rows": 16,', '"rows": 1000000000000,', 1))
    with pytest.raises(DataError, match=r"json says 1,000,000,000,000 rows, and its shards 16: prepare the data again"):
        open_shards(DataConfig(remote=str(tmp_path / "mds"), seq_len=16), "train")

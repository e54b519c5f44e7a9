"""What is in the rows: every document, in order, and nothing else."""

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer

from meap.config import TokenizerConfig
from meap.manifest import Manifest
from meap.prep.documents import split_of
from meap.schema import MANIFEST_NAME
from meap.tokenizer import load_tokenizer
from tests.prep.plain_streaming import open_plain


def _manifest(remote: Path, split: str) -> Manifest:
    return Manifest.from_json((remote / split / MANIFEST_NAME).read_text(), origin=split)


def _documents(rows: np.ndarray, bos: int, eos: int) -> list[list[int]]:
    """Token lists between BOS and EOS, the last of which may be cut."""
    documents: list[list[int]] = []
    for token in rows.ravel().tolist():
        if token == bos:
            documents.append([])
        elif token != eos:
            documents[-1].append(token)
    return documents


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 4])
def test_rows_decode_to_the_documents_in_order_with_another_program(
    prepare, tmp_path, shared_data, corpus_of, read_rows, tasks
):
    prepare(
        f"source={shared_data}/c4-train.*.json.gz",
        f"tokenizer.name={shared_data}/tokenizers/llama2",
        "remote=out",
        "seq_len=128",
        "heldout_ratio=0.1",
        f"tasks={tasks}",
    )
    texts = corpus_of(shared_data, "c4-train.*.json.gz")
    vocabulary = RustTokenizer.from_file(str(shared_data / "tokenizers" / "llama2" / "tokenizer.json"))
    for split in ("train", "validation"):
        manifest = _manifest(tmp_path / "out", split)
        rows = read_rows(tmp_path / "out" / split)
        assert rows.dtype == np.uint16
        assert rows.shape == (manifest.rows, 129)
        expected = [text for text in texts if split_of(text.encode(), 0.1, 0) == split]
        assert manifest.documents == len(expected)
        found = _documents(rows, manifest.tokenizer.bos_id, manifest.tokenizer.eos_id)
        if tasks == 1:
            ids = [vocabulary.encode(text, add_special_tokens=False).ids for text in expected]
            assert sum(len(each) + 2 for each in ids) == manifest.tokens
            dropped = len(expected) - len(found)
            assert 0 <= dropped <= manifest.dropped_tail_tokens
            assert found[:-1] == ids[: len(found) - 1]
            assert found[-1] == ids[len(found) - 1][: len(found[-1])]
            # Llama-2's decoder takes one leading space off, which its normalizer has put there.
            decoded = [vocabulary.decode(each, skip_special_tokens=False) for each in found[:-1]]
            assert decoded == expected[: len(decoded)]
        else:
            # Each task's last documents may be cut or dropped; what is left is in order, file after file.
            decoded = [vocabulary.decode(each, skip_special_tokens=False) for each in found]
            whole = [text for text in decoded if text in set(expected)]
            positions = [expected.index(text) for text in whole]
            assert positions == sorted(positions)
            assert len(whole) > 0.85 * len(expected)


def test_token_counts_add_up(prepare, tmp_path, tokenizer_dir, make_texts, write_lines):
    for number in range(3):
        write_lines(tmp_path / "in" / f"{number}.jsonl.gz", make_texts(120, seed=number))
    prepare("source=in", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=63", "heldout_ratio=0.2", "tasks=3")
    for split in ("train", "validation"):
        manifest = _manifest(tmp_path / "out", split)
        assert manifest.tokens == manifest.rows * 64 + manifest.dropped_tail_tokens
        assert manifest.dropped_tail_tokens < 3 * 64
        assert manifest.rows == sum(shard.rows for shard in manifest.shards)
    assert sum(_manifest(tmp_path / "out", split).documents for split in ("train", "validation")) == 360
    assert _manifest(tmp_path / "out", "train").sources == ("in/0.jsonl.gz", "in/1.jsonl.gz", "in/2.jsonl.gz")


def test_equal_texts_share_a_split_and_the_choice_is_that_of_the_seed(make_texts):
    texts = [text.encode() for text in make_texts(20_000, words=3)]
    chosen = {seed: [split_of(text, 0.05, seed) for text in texts] for seed in (0, 1)}
    assert chosen[0] == [split_of(bytes(bytearray(text)), 0.05, 0) for text in texts]
    assert chosen[0] != chosen[1]
    for splits in chosen.values():
        assert 0.045 < Counter(splits)["validation"] / len(texts) < 0.055
    assert {split_of(text, 0.0, 0) for text in texts} == {"train"}
    heldout = {ratio: {text for text in texts if split_of(text, ratio, 0) == "validation"} for ratio in (0.01, 0.05)}
    assert heldout[0.01] < heldout[0.05]


def test_duplicates_are_held_out_together_over_files(
    prepare, tmp_path, tokenizer_dir, make_texts, write_lines, read_rows
):
    texts = make_texts(60)
    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.json", texts[:: 1 if number else -1])
    prepare(
        "source=in/*", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=15", "heldout_ratio=0.3", "tasks=1"
    )
    vocabulary = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    decoded = {}
    for split in ("train", "validation"):
        documents = _documents(read_rows(tmp_path / "out" / split), 0, 1)
        decoded[split] = Counter(vocabulary.decode(each) for each in documents[:-1])
    assert not decoded["train"].keys() & decoded["validation"].keys()
    assert set(decoded["train"].values()) | set(decoded["validation"].values()) <= {1, 2}
    assert decoded["validation"].total() >= 10


def test_no_split_is_published_where_nothing_is_held_out(prepare, tmp_path, tokenizer_dir, make_texts, write_lines):
    write_lines(tmp_path / "in.jsonl", make_texts(50))
    prepare("source=in.jsonl", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "heldout_ratio=0")
    assert (tmp_path / "out" / "train" / "index.json").is_file()
    assert not (tmp_path / "out" / "validation").exists()


@pytest.mark.slow
def test_large_vocabularies_take_four_bytes_per_token(
    prepare, tmp_path, tokenizer_dir, make_texts, write_lines, read_rows
):
    definition = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    definition["model"]["vocab"] |= {f"unused {number}": 300 + number for number in range(65_535 - 300)}
    for name, extra in (("small", 0), ("large", 1)):
        if extra:
            definition["model"]["vocab"]["one more"] = 65_535
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(definition))
        (tmp_path / name / "tokenizer_config.json").write_text((tokenizer_dir / "tokenizer_config.json").read_text())
    write_lines(tmp_path / "in.jsonl", make_texts(50))
    for name, dtype in (("small", "uint16"), ("large", "uint32")):
        prepare("source=in.jsonl", f"remote=out-{name}", f"tokenizer.name={name}", "seq_len=31", "heldout_ratio=0")
        manifest = _manifest(tmp_path / f"out-{name}", "train")
        assert manifest.dtype == dtype
        assert read_rows(tmp_path / f"out-{name}" / "train").dtype == np.dtype(dtype)
    # [MASK] takes the id after the vocabulary: 65,535 fits two bytes, 65,536 does not.
    assert manifest.tokenizer.mask_id == 65_536
    assert np.array_equal(read_rows(tmp_path / "out-small" / "train"), read_rows(tmp_path / "out-large" / "train"))


def test_text_that_spells_the_mask_token_never_gives_its_id(prepare, tmp_path, tokenizer_dir, write_lines, read_rows):
    write_lines(tmp_path / "in.jsonl", ["before [MASK] after", "[MASK]", "[MASK][MASK] " * 50])
    prepare("source=in.jsonl", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=7", "heldout_ratio=0")
    manifest = _manifest(tmp_path / "out", "train")
    assert manifest.tokenizer.mask_id == 300
    rows = read_rows(tmp_path / "out" / "train")
    assert not (rows == manifest.tokenizer.mask_id).any()
    vocabulary = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    documents = [vocabulary.decode(each) for each in _documents(rows, 0, 1)]
    assert documents[:2] == ["before [MASK] after", "[MASK]"]


def test_a_mask_token_that_is_a_word_is_refused_once_it_occurs(prepare, tmp_path, tokenizer_dir, write_lines):
    from meap.errors import DataError

    vocabulary = json.loads((tokenizer_dir / "tokenizer.json").read_text())["model"]["vocab"]
    word = max((word for word in vocabulary if word.isalpha() and word.isascii()), key=len)
    write_lines(tmp_path / "in.jsonl", [word * 9])
    with pytest.raises(DataError, match=r"in.jsonl:1 contains the mask token .* choose a tokenizer.mask_token"):
        prepare(
            "source=in.jsonl",
            "remote=out",
            f"tokenizer.name={tokenizer_dir}",
            f"tokenizer.mask_token={word}",
            "seq_len=3",
            "heldout_ratio=0",
        )


def test_streaming_reads_the_shards_and_the_stored_tokenizer_is_the_one(
    prepare, tmp_path, tokenizer_dir, make_texts, write_lines, read_rows
):
    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.jsonl.gz", make_texts(100, seed=number))
    prepare(
        "source=in", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=6kb", "tasks=2",
        "heldout_ratio=0.1",
    )  # fmt: skip
    assert len(_manifest(tmp_path / "out", "train").shards) > 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for split in ("train", "validation"):
            dataset = open_plain(
                remote=str(tmp_path / "out"),
                local=str(tmp_path / "cache"),
                split=split,
                batch_size=1,
                validate_hash="xxh3_64",
            )
            rows = read_rows(tmp_path / "out" / split)
            assert len(dataset) == len(rows)
            assert all(np.array_equal(dataset[number]["tokens"], row) for number, row in enumerate(rows))
    stored = load_tokenizer(TokenizerConfig(name=str(tmp_path / "out" / "tokenizer")))
    assert stored.fingerprint == _manifest(tmp_path / "out", "train").tokenizer.fingerprint


def test_uncompressed_shards(prepare, tmp_path, tokenizer_dir, make_texts, write_lines, read_rows):
    write_lines(tmp_path / "in.jsonl", make_texts(80))
    arguments = ("source=in.jsonl", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "heldout_ratio=0")
    prepare(*arguments, "remote=zipped")
    prepare(*arguments, "remote=raw", "compression=null")
    assert [file.name for file in (tmp_path / "raw" / "train").glob("shard*")] == ["shard.00000.00000.mds"]
    assert np.array_equal(read_rows(tmp_path / "raw" / "train"), read_rows(tmp_path / "zipped" / "train"))

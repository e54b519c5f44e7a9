"""Numbers of a data set are those that a slow count of its texts gives, however it was cut into shards and tasks."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer

from meap.cli import main
from meap.errors import DataError
from meap.prep.audit.contents import hash_ngrams
from meap.prep.audit.places import find_data_sets
from meap.prep.audit.report import shares
from meap.prep.audit.statistics import measure
from meap.prep.sampling import HashSample


def measured(remote, *, workers=2, ngrams=False, top=20):
    return measure(find_data_sets(str(remote)), workers=workers, ngrams=ngrams, top=top)


def comparable(statistics):
    return {
        "lengths": statistics.lengths,
        "token_counts": statistics.token_counts.tolist(),
        "repeats": statistics.repeats,
        "text_bytes": statistics.text_bytes,
        "tokens": [split.tokens for split in statistics.splits],
    }


def encode(tokenizer_dir, texts):
    plain = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    return [plain.encode(text, add_special_tokens=False).ids for text in texts]


def rounded_down(length):
    step = 1 << max(0, length.bit_length() - 8)
    return length // step * step


def test_numbers_are_those_of_the_texts(rows_remote, tmp_path, tokenizer_dir, make_texts, read_rows):
    texts = [*make_texts(120, seed=0), *make_texts(120, seed=1), *make_texts(20, seed=9) * 2]
    statistics = measured(rows_remote)
    assert statistics.text_bytes == sum(len(text.encode()) for text in texts)
    splits = statistics.splits
    assert [split.name for split in splits] == ["train", "validation"]
    assert sum(split.documents for split in splits) == len(texts)
    encoded = encode(tokenizer_dir, texts)
    tokens = sum(len(ids) + 2 for ids in encoded)
    assert sum(split.tokens for split in splits) == tokens
    assert statistics.bytes_per_token == statistics.text_bytes / tokens
    rows = np.concatenate([read_rows(rows_remote / split.name) for split in splits])
    assert statistics.token_counts.tolist() == np.bincount(rows.ravel(), minlength=301).tolist()

    assert statistics.lengths == Counter(map(rounded_down, map(len, encoded)))
    documents = statistics.repeats["documents"]
    assert (documents.items, documents.copies, documents.most, documents.one_in) == (len(texts), 20, 2, 1)
    assert [source.files for source in statistics.sources] == [("in/0.json.gz",), ("in/1.json.gz",)]
    assert sum(source.tokens for source in statistics.sources) == tokens
    assert sum(source.documents for source in statistics.sources) == len(texts)


def test_shards_and_workers_do_not_change_the_numbers(rows_remote, make_rows, prepare, tmp_path, tokenizer_dir):
    make_rows()  # writes the texts
    expected = comparable(measured(rows_remote, workers=1, ngrams=True))
    assert comparable(measured(rows_remote, workers=4, ngrams=True)) == expected
    prepare(
        "source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "heldout_ratio=0.05", "tasks=2",
        "remote=one", "compression=null",
    )  # fmt: skip
    whole = comparable(measured(tmp_path / "one", ngrams=True))
    ngrams, of_one = expected["repeats"].pop("13-grams"), whole["repeats"].pop("13-grams")
    assert whole == expected
    shards = len(list(rows_remote.glob("*/shard.*")))
    assert of_one.items - 12 * shards <= ngrams.items <= of_one.items  # those over a shard's end are not seen
    assert of_one.copies >= ngrams.copies > 0


@pytest.mark.parametrize("same", [True, False], ids=["bos is eos", "bos and eos"])
def test_documents_are_counted_whatever_they_spell(prepare, tmp_path, tokenizer_dir, write_lines, same):
    pieces = ("", "<s>", "</s>", "sea", "<s><s>", "<s></s>", "</s><s>")
    rng = np.random.default_rng(3)
    texts = [" a ".join(["start", *rng.choice(pieces, rng.integers(0, 30)), "end"]) for _ in range(200)]
    write_lines(tmp_path / "in.json.gz", texts)
    prepare(
        "source=in.json.gz", f"tokenizer.name={tokenizer_dir}", "seq_len=15", "shard_size=8kb", "heldout_ratio=0",
        "remote=out", *(["tokenizer.bos_token=</s>"] if same else []),
    )  # fmt: skip
    vocabulary = RustTokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    vocabulary.encode_special_tokens = True
    encoded = [each.ids for each in vocabulary.encode_batch(texts, add_special_tokens=False)]
    statistics = measured(tmp_path / "out")
    assert statistics.lengths == Counter(map(rounded_down, map(len, encoded)))
    assert statistics.repeats["documents"].copies == len(encoded) - len(set(map(tuple, encoded)))
    assert main(["verify", "remote=out"]) == 0


def test_figures_that_cannot_be_known_are_said_not_to_be(rows_remote, tmp_path, capsys):
    for split in ("train", "validation"):
        (rows_remote / split / "documents.json").unlink()
    files = (f"json={tmp_path / 'all.json'}", f"picture={tmp_path / 'a.png'}")
    assert main(["stats", f"remote={rows_remote}", *files]) == 0
    told = capsys.readouterr().out
    assert "documents       280\n" in told
    assert "tokens of documents, BOS and EOS not counted: not known\n" in told
    assert "note: lengths of train are not known, nor which documents are copies: there is no documents.json" in told
    values = json.loads((tmp_path / "all.json").read_text())
    assert values["lengths"] == {}
    assert list(values["repeats"]) == ["rows"]
    (rows_remote / "train" / "documents.json").write_text('{"lengths": {"3": -1}, "hashes": "", "level": 0}')
    assert main(["stats", f"remote={rows_remote}"]) == 1
    assert "train/documents.json is not readable (ValueError: a count is out of range)" in capsys.readouterr().err


def test_of_many_documents_a_part_is_kept_that_finds_the_same_copies(
    prepare, tmp_path, tokenizer_dir, write_lines, make_texts, monkeypatch
):
    texts = make_texts(500, words=3)
    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.jsonl", texts)
    monkeypatch.setattr("meap.prep.preparation.MAX_HASHES", 200)
    for name, tasks in (("one", 1), ("two", 2)):
        prepare("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=15", f"tasks={tasks}", f"remote={name}")
        documents = measured(tmp_path / name).repeats["documents"]
        assert (documents.items, documents.most) == (1000, 2)
        assert documents.one_in >= 8
        stored = [
            json.loads((tmp_path / name / split / "documents.json").read_text()) for split in ("train", "validation")
        ]
        assert sum(len(each["hashes"]) for each in stored) <= 200 * 8 * 4 / 3 + 8
        assert abs(documents.copies - 500) <= 30


def test_a_part_of_the_hashes_estimates_the_copies():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 1 << 63, 200_000, np.uint64) * np.uint64(2) + rng.integers(0, 2, 200_000, np.uint64)
    items = np.concatenate([kinds, kinds[:50_000], kinds[:50_000]])
    rng.shuffle(items)
    exact, part = HashSample(), HashSample(limit=20_000)
    for sample in (exact, part):
        for start in range(0, len(items), 7000):
            some = items[start : start + 7000]
            sample.add(sample.choose(some), items=len(some))
    assert (exact.repeats().copies, exact.repeats().most, exact.repeats().one_in) == (100_000, 3, 1)
    estimate = part.repeats()
    assert estimate.one_in == 16
    assert abs(estimate.copies - 100_000) < 5_000
    assert estimate.items == len(items)


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 4))
def test_ngrams_are_told_apart_as_tuples_are(tokens, length):
    hashes = hash_ngrams(np.array(tokens, np.uint16), length, (0, 1))
    ngrams = [tuple(tokens[n : n + length]) for n in range(len(tokens) - length + 1)]
    ngrams = [each for each in ngrams if not {0, 1} & set(each)]
    assert len(hashes) == len(ngrams)
    assert len(set(zip(ngrams, hashes.tolist(), strict=True))) == len(set(ngrams)) == len(set(hashes.tolist()))


def test_conversations_are_counted_as_they_are_stored(sft_remote):
    statistics = measured(sft_remote)
    assert statistics.is_conversations
    manifests = [json.loads((sft_remote / split / "manifest.json").read_text()) for split in ("train", "validation")]
    assert statistics.lengths.total() == sum(each["documents"] for each in manifests) == 150
    assert sum(length * count for length, count in statistics.lengths.items()) == sum(
        each["tokens"] for each in manifests
    )
    assert statistics.token_counts.sum() == sum(each["tokens"] for each in manifests)
    assert statistics.repeats["documents"].copies == 0


def test_streams_have_their_shares(streams_remote, rows_remote, capsys):
    one, both = measured(rows_remote), measured(streams_remote)
    assert [split.name for split in both.splits] == [
        "books.v1/train", "books.v1/validation", "web/train", "web/validation"
    ]  # fmt: skip
    assert both.text_bytes == 2 * one.text_bytes
    assert both.lengths == one.lengths + one.lengths
    assert both.repeats["rows"].copies == one.repeats["rows"].items + one.repeats["rows"].copies
    assert main(["stats", f"remote={streams_remote}", "top=3"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[-1] for line in told.splitlines() if line.startswith(("books.v1 ", "web "))] == [
        "50.00%",
        "50.00%",
    ]


def test_a_copy_without_records_and_tokenizer_has_the_same_numbers(rows_remote, capsys):
    import shutil

    before = comparable(measured(rows_remote))
    shutil.rmtree(rows_remote / ".prep")
    shutil.rmtree(rows_remote / "tokenizer")
    assert comparable(measured(rows_remote)) == before
    assert main(["stats", f"remote={rows_remote}"]) == 0
    told = capsys.readouterr().out
    assert "0.json.gz +1" in told
    assert "not known" not in told


def test_table_json_and_picture(rows_remote, tmp_path, capsys):
    for name in ("stats.json", "stats.png"):
        (tmp_path / name).write_text("of an earlier run")
    files = (f"json={tmp_path / 'stats.json'}", f"picture={tmp_path / 'stats.png'}")
    assert main(["stats", f"remote={rows_remote}", "ngrams=true", "top=5", *files]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    for expected in ("documents       280", "tokens of documents", "13-grams", "ids never occur"):
        assert expected in told.out
    values = json.loads((tmp_path / "stats.json").read_text())
    assert values["repeats"]["documents"]["copies"] >= 18
    assert len(values["top_tokens"]) == 5
    assert values["top_tokens"][0]["count"] >= values["top_tokens"][1]["count"]
    assert sum(values["lengths"].values()) == values["repeats"]["documents"]["items"]
    content = (tmp_path / "stats.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
    assert sorted(path.name for path in tmp_path.glob("stats.*")) == ["stats.json", "stats.png"]


def test_a_picture_of_one_row_is_a_picture_too(prepare, tmp_path, tokenizer_dir, write_lines):
    write_lines(tmp_path / "in.json.gz", ["$x$ 海 " * 10])
    tokenizer = f"tokenizer.name={tokenizer_dir}"
    prepare("source=in.json.gz", tokenizer, "seq_len=15", "heldout_ratio=0", "remote=out")
    assert main(["stats", "remote=out", "picture=one.png"]) == 0
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_damage_is_one_error_that_names_verify(rows_remote, edit_json, rewrite_shard, capsys):
    def message() -> str:
        assert main(["stats", f"remote={rows_remote}"]) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        return told.err

    rewrite_shard(rows_remote / "train", 0, lambda raw: raw.extend(b"xx"))
    assert "`meap verify` lists everything that is wrong" in message()
    edit_json(rows_remote / "train" / "index.json", lambda values: values["shards"][0].update(column_encodings=["pkl"]))
    assert "encoding of column 'tokens'" in message()
    (rows_remote / "train" / "index.json").unlink()
    assert "train/index.json is missing, so the data set is not complete: run the same preparation command" in message()


def test_streams_of_two_tokenizers_are_not_added_up(streams_remote, edit_json):
    edit_json(
        streams_remote / "web" / "train" / "manifest.json",
        lambda values: values["tokenizer"].update(fingerprint="sha256:0", name="other"),
    )
    with pytest.raises(DataError, match=r"web/train was made with another tokenizer \(other\) than .*books.v1/train"):
        measured(streams_remote)


def test_files_of_one_name_in_two_folders_are_two_sources(prepare, tmp_path, tokenizer_dir, make_texts, write_lines):
    for folder in ("a", "b"):
        write_lines(tmp_path / "in" / folder / "0.json.gz", make_texts(30))
    prepare("source=in/*/0.json.gz", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "tasks=2", "remote=out")
    assert [name for name, *_ in shares(measured(tmp_path / "out"))] == ["0.json.gz", "in/b/0.json.gz"]

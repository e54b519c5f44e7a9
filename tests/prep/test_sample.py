"""Properties of the sample corpus and its tokenizer."""

import gzip
import hashlib
import json
import re
import subprocess
import sys

import pytest
from tokenizers import Tokenizer

from meap.errors import BadInputError, ConfigError, DataError
from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
from meap.synthetic import generate_document

ARGUMENTS = {"seed": 3, "megabytes": 0.3, "num_files": 3}
VOCAB_SIZE = 600


@pytest.fixture(scope="module")
def corpus_files(tmp_path_factory):
    return write_sample_corpus(tmp_path_factory.mktemp("corpus"), **ARGUMENTS)


@pytest.fixture(scope="module")
def tokenizer_dir(corpus_files, tmp_path_factory):
    return train_sample_tokenizer(corpus_files, tmp_path_factory.mktemp("tokenizer"), vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))


def read_lines(paths):
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def run_elsewhere(out_dir, hash_seed):
    program = f"""
import sys, pathlib
from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
out_dir = pathlib.Path(sys.argv[1])
corpus_files = write_sample_corpus(out_dir / "corpus", **{ARGUMENTS})
train_sample_tokenizer(corpus_files, out_dir / "tokenizer", vocab_size={VOCAB_SIZE})
"""
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", program, str(out_dir)], env=environment, check=True)


# --- corpus ---


def test_lines_are_those_of_c4(corpus_files):
    assert [path.name for path in corpus_files] == [f"sample-train.0000{n}-of-00003.json.gz" for n in range(3)]
    lines = list(read_lines(corpus_files))
    for line in lines:
        assert list(line) == ["text", "timestamp", "url"]
        assert re.fullmatch(r"2019-04-[12]\dT\d\d:\d\d:\d\dZ", line["timestamp"])
        assert line["url"].startswith("https://example.invalid/")
    assert len({line["url"] for line in lines}) == len(lines)


def test_files_hold_the_documents_of_the_seed_and_no_more_than_was_asked(corpus_files):
    texts = {line["text"] for line in read_lines(corpus_files)}
    assert texts == {generate_document(ARGUMENTS["seed"], index).text for index in range(len(texts))}
    num_characters = sum(map(len, texts))
    assert 0.3e6 <= num_characters < 0.3e6 + 20_000


def test_gzip_headers_have_no_name_and_no_time(corpus_files):
    for path in corpus_files:
        header = path.read_bytes()[:10]
        assert header[:3] == b"\x1f\x8b\x08"
        assert header[3:8] == bytes(5)  # no flags, so no name; time 0


def test_bytes_do_not_depend_on_the_process(corpus_files, tokenizer_dir, tmp_path):
    for hash_seed in ("1", "2"):
        run_elsewhere(tmp_path / hash_seed, hash_seed)
        assert contents(tmp_path / hash_seed / "corpus") == contents(corpus_files[0].parent)
        assert contents(tmp_path / hash_seed / "tokenizer") == contents(tokenizer_dir)


def test_record_names_the_arguments_and_hashes(corpus_files):
    record = json.loads((corpus_files[0].parent / "sample.json").read_text())
    assert {key: record[key] for key in ARGUMENTS} == ARGUMENTS
    assert record["sha256"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in corpus_files}


def test_matching_files_are_reused_and_others_replaced(tmp_path):
    def write(**changes):
        return write_sample_corpus(tmp_path, **{"seed": 0, "megabytes": 0.01, "num_files": 2, **changes})

    paths = write()
    before = contents(tmp_path)
    inode = paths[0].stat().st_ino
    write()
    assert paths[0].stat().st_ino == inode

    paths[1].write_bytes(b"damaged")
    (tmp_path / "sample.json").write_bytes(before["sample.json"])
    write()
    assert contents(tmp_path) == before

    (tmp_path / "sample.json").write_text("{half a rec")
    write()
    assert contents(tmp_path) == before

    write(seed=1)
    assert contents(tmp_path) != before
    write(num_files=1)
    assert sorted(contents(tmp_path)) == ["sample-train.00000-of-00001.json.gz", "sample.json"]


def test_every_file_has_a_document(tmp_path):
    paths = write_sample_corpus(tmp_path, megabytes=0.0001, num_files=5)
    assert [len(list(read_lines([path]))) for path in paths] == [1] * 5


def test_nothing_half_written_is_left_behind(tmp_path, monkeypatch):
    def fail(seed, index):
        if index > 20:
            raise KeyboardInterrupt
        return generate_document(seed, index)

    monkeypatch.setattr(sys.modules[write_sample_corpus.__module__], "generate_document", fail)
    with pytest.raises(KeyboardInterrupt):
        write_sample_corpus(tmp_path, megabytes=1)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("megabytes", [0, -1.5, float("nan"), float("inf")])
def test_bad_megabytes_are_refused(tmp_path, megabytes):
    with pytest.raises(ConfigError, match=f"megabytes is {megabytes}, but must be finite and greater than 0; 6 is"):
        write_sample_corpus(tmp_path, megabytes=megabytes)


@pytest.mark.parametrize("num_files", [0, 1001])
def test_bad_num_files_is_refused(tmp_path, num_files):
    with pytest.raises(ConfigError, match=rf"num_files is {num_files}, but must be in \[1, 1000\]; 4 is enough"):
        write_sample_corpus(tmp_path, num_files=num_files)


# --- tokenizer ---


@pytest.mark.parametrize(
    "text", ["", " two  spaces\n\ttab\r\n", "caf\u00e9 \u4e16\u754c \U0001f600", "[MASK] 007", "\x00"]
)
def test_any_text_comes_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_corpus_comes_back_exactly_and_shorter(tokenizer, corpus_files):
    texts = [line["text"] for line in read_lines(corpus_files)]
    encodings = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(encoding.ids) for encoding in encodings] == texts
    assert sum(map(len, texts)) > 2 * sum(len(encoding.ids) for encoding in encodings)


def test_each_digit_is_a_token(tokenizer):
    assert tokenizer.encode("The code is 48213.").tokens[-6:] == ["4", "8", "2", "1", "3", "."]
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and re.search(r"\d", token)]


def test_a_prompt_keeps_its_tokens_when_the_answer_follows(tokenizer):
    prompt, answer = "The access code of the Marlow lighthouse is", " 48213"
    ids = tokenizer.encode(prompt).ids
    assert tokenizer.encode(prompt + answer).ids == ids + tokenizer.encode(answer).ids


def test_special_tokens_and_size(tokenizer, tokenizer_dir):
    assert tokenizer.token_to_id("<s>") == 0
    assert tokenizer.token_to_id("</s>") == 1
    assert tokenizer.token_to_id("[MASK]") is None
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert sorted(contents(tokenizer_dir)) == ["sample_tokenizer.json", "tokenizer.json", "tokenizer_config.json"]
    config = json.loads((tokenizer_dir / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")
    assert config["clean_up_tokenization_spaces"] is False


def test_a_matching_tokenizer_is_reused_and_others_replaced(corpus_files, tmp_path):
    first = corpus_files[:1]
    path = train_sample_tokenizer(first, tmp_path, vocab_size=300) / "tokenizer.json"
    inode, before = path.stat().st_ino, contents(tmp_path)
    train_sample_tokenizer(first, tmp_path, vocab_size=300)
    assert path.stat().st_ino == inode

    path.write_text("{}")
    train_sample_tokenizer(first, tmp_path, vocab_size=300)
    assert contents(tmp_path) == before

    for files, vocab_size in ((first, 301), (corpus_files[1:], 300)):
        before = contents(tmp_path)
        train_sample_tokenizer(files, tmp_path, vocab_size=vocab_size)
        assert contents(tmp_path) != before


def test_the_smallest_vocabulary_is_the_bytes(corpus_files, tmp_path):
    train_sample_tokenizer(corpus_files[:1], tmp_path, vocab_size=258)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == 258


def test_too_small_a_vocabulary_is_refused(corpus_files, tmp_path):
    with pytest.raises(ConfigError, match=r"vocab_size is 257, but must be at least 258 .*; 2048 is enough"):
        train_sample_tokenizer(corpus_files, tmp_path, vocab_size=257)


def test_too_little_text_is_refused(tmp_path):
    files = write_sample_corpus(tmp_path, megabytes=0.0001, num_files=1)
    with pytest.raises(DataError, match=r"vocab_size is 9000, but the 1 corpus files have text for \d+ tokens only"):
        train_sample_tokenizer(files, tmp_path, vocab_size=9000)


def test_missing_files_are_named(corpus_files, tmp_path):
    with pytest.raises(DataError, match=r"corpus file .*absent.json.gz does not exist; run write_sample_corpus first"):
        train_sample_tokenizer([*corpus_files, tmp_path / "absent.json.gz"], tmp_path)
    with pytest.raises(DataError, match="corpus_files is empty, but a tokenizer needs at least 1 file; run"):
        train_sample_tokenizer([], tmp_path)


@pytest.mark.parametrize(
    "content", [b"plain text", gzip.compress(b'{"no text": 1}\n', mtime=0), gzip.compress(b"not json\n", mtime=0)]
)
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "damaged.json.gz"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"corpus file .*damaged.json.gz is not gzip with one JSON object"):
        train_sample_tokenizer([path], tmp_path)

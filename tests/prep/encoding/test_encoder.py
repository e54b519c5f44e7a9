"""Ids are those of `tokenizers`, for every kind of tokenizer and every text, by whatever way they are made."""

import gzip
import json
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from meap.config import TokenizerConfig
from meap.prep.encoding import Encoder, build_encoder
from meap.prep.encoding.bpe import build_merge_tables
from meap.prep.encoding.cuts import find_cuts
from meap.prep.encoding.engines import TokenizersEngine
from meap.prep.encoding.words import WordTable
from meap.tokenizer import Tokenizer, load_tokenizer

_BYTE_LEVEL = ["gpt2", "llama3", "qwen2.5"]
_SENTENCEPIECE = ["llama2", "across_spaces", "metaspace_first", "metaspace_always", "metaspace_never"]
_WORDS = ["harbour", "The", " of", "<s>", "</s>", "<unk>", "[MASK]", "\u2581", "\u2581\u2581", "don't", "12345", "…"]
_CHARACTERS = st.characters(codec="utf-8")  # every plane, without surrogates, which no UTF-8 text holds
_PIECES = st.one_of(
    st.text(_CHARACTERS, max_size=8),
    st.text(st.sampled_from(" \t\n\r\u00a0\u3000\x00\x1f"), max_size=30),
    st.sampled_from(_WORDS),
    st.builds(
        lambda each, count: each * count, st.sampled_from([" ", "\n", "a", "é", "=", "\u0301"]), st.integers(1, 90)
    ),
)
_TEXTS = st.lists(st.lists(_PIECES, max_size=12).map("".join), min_size=1, max_size=6)


def _assert_exact(encoder: Encoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    encoded = encoder.encode(texts, [text.encode() for text in texts])
    expected = [tokenizer.plain.encode(text, add_special_tokens=False).ids for text in texts]
    assert encoded.offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert encoded.ids.tolist() == [each for ids in expected for each in ids]


@pytest.mark.parametrize("kind", [*_BYTE_LEVEL, *_SENTENCEPIECE])
def test_every_kind_is_encoded_the_fast_way(tokenizer_of, kind, capsys):
    encoder = build_encoder(tokenizer_of(kind))
    assert (encoder.engine, encoder.by_word, encoder.fallback) == ("fastokens", kind in _SENTENCEPIECE, "")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*_BYTE_LEVEL, *_SENTENCEPIECE])
def test_ids_are_those_of_tokenizers_for_any_text(tokenizer_of, kind):
    tokenizer = tokenizer_of(kind)
    encoder = build_encoder(tokenizer)

    @given(_TEXTS)
    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    def check(texts: list[str]) -> None:
        _assert_exact(encoder, tokenizer, texts)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", _SENTENCEPIECE)
def test_words_by_the_reference_engine_are_exact_too(tokenizer_of, kind):
    tokenizer = tokenizer_of(kind)
    encoder = Encoder(tokenizer.plain.to_str(), "tokenizers", by_word=True)

    @given(_TEXTS)
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    def check(texts: list[str]) -> None:
        _assert_exact(encoder, tokenizer, texts)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*_BYTE_LEVEL, "llama2"])
def test_every_character_of_unicode(tokenizer_of, kind):
    tokenizer = tokenizer_of(kind)
    characters = [
        chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and (code < 0x3000 or code % 37 == 0)
    ]
    texts = ["a ".join(characters[start : start + 500]) for start in range(0, len(characters), 500)]
    _assert_exact(build_encoder(tokenizer), tokenizer, texts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2", "gpt2_style_2k"])
def test_all_the_real_text_there_is(shared_data, name):
    tokenizer = load_tokenizer(
        TokenizerConfig(name=str(shared_data / "tokenizers" / name), bos_token="<s>", eos_token="</s>")
        if name == "llama2"
        else TokenizerConfig(name=str(shared_data / "tokenizers" / name), bos_token="!", eos_token="!")
    )
    texts = [
        json.loads(line)["text"]
        for file in sorted(shared_data.glob("c4-train.*.json.gz"))
        for line in gzip.decompress(file.read_bytes()).splitlines()
    ]
    texts += gzip.decompress((shared_data / "nq-open-oracle.jsonl.gz").read_bytes()).decode().splitlines()
    _assert_exact(build_encoder(tokenizer), tokenizer, texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama3", "llama2"])
def test_documents_of_megabytes(tokenizer_of, kind):
    tokenizer = tokenizer_of(kind)
    rng = random.Random(0)
    words = ["harbour", "lamp,", "The", "\n", "12345", "«naïve»", "    ", "\U0001f44d"]
    prose = " ".join(rng.choices(words, k=400_000))
    one_word, spaces = "harbour" * 300_000, " " * 2_000_000
    assert len(prose.encode()) > 2_000_000
    _assert_exact(build_encoder(tokenizer), tokenizer, [prose, one_word, spaces, ""])


def test_a_text_that_spells_a_special_token_takes_nothing_from_its_neighbours(tokenizer_of):
    tokenizer = tokenizer_of("llama2")
    texts = ["harbour lamp", "a </s> b", "", "the lamp", "<s>", "<s", "un<unk>known", " x"]
    _assert_exact(build_encoder(tokenizer), tokenizer, texts)
    assert tokenizer.eos_id in build_encoder(tokenizer).encode(texts[1:2], [texts[1].encode()]).ids


def test_the_mask_token_is_text(tokenizer_of):
    for kind in ("gpt2", "llama2"):
        tokenizer = tokenizer_of(kind)
        text = f"a {tokenizer.mask_token} b"
        assert tokenizer.mask_id not in build_encoder(tokenizer).encode([text], [text.encode()]).ids


def test_a_table_that_is_too_small_is_exact(tokenizer_of):
    tokenizer = tokenizer_of("llama2")
    definition = json.loads(tokenizer.plain.to_str())
    cuts = find_cuts(definition)
    assert cuts is not None
    bare = definition | {"normalizer": None, "post_processor": None, "added_tokens": []}
    tables = build_merge_tables(definition["model"])
    table = WordTable(TokenizersEngine(json.dumps(bare)), cuts, tables, num_words=16)
    rng = random.Random(0)
    for _ in range(40):
        texts = [
            " ".join(rng.choices(["harbour", "lamp", "rope", "gull", "storm", "letter", "bread", "tide"], k=9))
            for _ in range(5)
        ]
        texts.append("x" * rng.randint(1, 300) + " y")
        encoded = table.encode_utf8([text.encode() for text in texts])
        expected = [tokenizer.plain.encode(text, add_special_tokens=False).ids for text in texts]
        assert encoded.ids.tolist() == [each for ids in expected for each in ids]
        assert table.num_words <= 16


def test_merges_over_the_borders_of_words_are_not_cut(tokenizer_of):
    """The other kinds have none, so a rule that always cut at spaces would pass their tests."""
    cuts = {kind: find_cuts(json.loads(tokenizer_of(kind).plain.to_str())) for kind in ("llama2", "across_spaces")}
    assert cuts["llama2"].between[ord("e"), ord(" ")]
    assert not cuts["across_spaces"].between[ord("e"), ord(" ")]


def test_only_tokenizers_of_the_kind_are_cut(tokenizer_of):
    definition = json.loads(tokenizer_of("llama2").plain.to_str())
    assert find_cuts(definition) is not None
    assert find_cuts(json.loads(tokenizer_of("gpt2").plain.to_str())) is None
    model = definition["model"]
    for change in (
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "NFKC"}},
        {"model": model | {"byte_fallback": False}},
        {"model": model | {"ignore_merges": True}},
        {"model": model | {"dropout": 0.1}},
        {"model": model | {"merges": [*model["merges"], ["<0x41>", "a"]]}},
        {"added_tokens": [definition["added_tokens"][0] | {"normalized": True}]},
    ):
        assert find_cuts(definition | change) is None, change


def test_what_fastokens_cannot_do_goes_through_tokenizers_with_a_word(tmp_path, capsys):
    vocabulary = [("<s>", 0.0), ("</s>", 0.0), *((chr(code), -float(code)) for code in range(32, 127))]
    unigram = RustTokenizer(models.Unigram(vocabulary, unk_id=0))
    unigram.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(TokenizerConfig(name=str(tmp_path), bos_token="<s>", eos_token="</s>"))
    encoder = build_encoder(tokenizer)
    assert encoder.engine == "tokenizers"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: encoding goes through tokenizers")
    assert warning.count("\n") == 1
    _assert_exact(encoder, tokenizer, ["some text", "", "more"])


def test_the_reference_can_be_asked_for(tokenizer_of, capsys):
    encoder = build_encoder(tokenizer_of("gpt2"), engine="tokenizers")
    assert (encoder.engine, encoder.by_word) == ("tokenizers", False)
    assert capsys.readouterr().err == ""


def test_an_encoder_travels_to_another_process_without_its_engines(tokenizer_of):
    tokenizer = tokenizer_of("llama2")
    encoder = build_encoder(tokenizer)
    copy = pickle.loads(pickle.dumps(encoder))
    assert copy == encoder
    assert copy.__dict__.keys() == {"definition", "engine", "by_word", "fallback"}
    _assert_exact(copy, tokenizer, ["the harbour", "lamp"])

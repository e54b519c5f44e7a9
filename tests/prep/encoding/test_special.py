"""Special tokens that documents spell: read as plain characters, as tokens, or refused."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from meap.config import TokenizerConfig
from meap.errors import DataError
from meap.prep.encoding import SpecialTokens, build_encoder
from meap.tokenizer import load_tokenizer

KINDS = (
    "gpt2", "llama3", "qwen2.5", "llama2", "across_spaces", "metaspace_first", "metaspace_always", "metaspace_never",
)  # fmt: skip
PLACES = ("{}the sea", "the sea{}", "the {} sea", "the s{}ea", "{0}{0}", " {} \n {}", "{}", "the\t{}\u00a0sea")


def encode(tokenizer, texts, mode, engine="auto"):
    utf8 = [text.encode() for text in texts]
    places = [("in.jsonl", number + 1) for number in range(len(texts))]
    ordinary = build_encoder(tokenizer, engine=engine).encode(texts, utf8)
    encoded, counts = SpecialTokens.of(tokenizer, mode).settle(ordinary, utf8, places)
    return [ids.tolist() for ids in np.split(encoded.ids, encoded.offsets[1:-1])], counts


def reference(tokenizer, *, as_text):
    vocabulary = RustTokenizer.from_str(tokenizer.plain.to_str())
    vocabulary.encode_special_tokens = as_text
    return lambda texts: [each.ids for each in vocabulary.encode_batch(texts, add_special_tokens=False)]


def special_tokens(tokenizer):
    return {number: each.content for number, each in tokenizer.plain.get_added_tokens_decoder().items() if each.special}


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_in_each_place(tokenizer_of, kind):
    tokenizer = tokenizer_of(kind)
    special = special_tokens(tokenizer)
    assert special
    texts = [place.format(token, token) for token, place in itertools.product(special.values(), PLACES)]
    texts = [text for each in texts for text in (each, "nothing here")]
    as_text, counts = encode(tokenizer, texts, "text")
    assert as_text == reference(tokenizer, as_text=True)(texts)
    assert not special.keys() & {number for ids in as_text for number in ids}
    as_token, same_counts = encode(tokenizer, texts, "token")
    assert as_token == reference(tokenizer, as_text=False)(texts)
    assert counts == same_counts == {
        number: sum(each in special for each in ids) for number, ids in enumerate(as_token) if special.keys() & set(ids)
    }  # fmt: skip
    assert set(counts) == set(range(0, len(texts), 2))


@pytest.mark.parametrize("kind", ["llama3", "llama2", "metaspace_first"])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_mixture_is_read_as_split_special_tokens_does(tokenizer_of, kind, data):
    tokenizer = tokenizer_of(kind)
    pieces = st.one_of(st.sampled_from([*special_tokens(tokenizer).values(), "[MASK]", " ", "\u2581"]), st.text())
    texts = data.draw(st.lists(st.lists(pieces, max_size=6).map("".join), min_size=1, max_size=4))
    assert encode(tokenizer, texts, "text")[0] == reference(tokenizer, as_text=True)(texts)


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}])
def test_tokens_with_flags(tokenizer_of, tmp_path, flags):
    vocabulary = RustTokenizer.from_str(tokenizer_of("llama3").plain.to_str())
    vocabulary.normalizer = normalizers.Lowercase()
    vocabulary.add_special_tokens([AddedToken("<|stop|>", special=True, **flags)])
    vocabulary.add_tokens([AddedToken("<tool>", normalized=False)])
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(TokenizerConfig(str(tmp_path), bos_token="<s>", eos_token="</s>"))
    texts = [place.format("<|stop|>", "<tool>") for place in PLACES] + ["a <|STOP|> b <tool>", "x<|stop|>y</s><tool>"]
    assert encode(tokenizer, texts, "text")[0] == reference(tokenizer, as_text=True)(texts)
    assert encode(tokenizer, texts, "token")[0] == reference(tokenizer, as_text=False)(texts)


def test_a_spelled_token_is_refused_by_name_and_place(tokenizer_of):
    with pytest.raises(DataError, match=r"in.jsonl:2 spells '</s>', a special token .*special_tokens_in_text=text"):
        encode(tokenizer_of("llama2"), ["fine", "not </s> fine", "<s>"], "refuse")
    assert encode(tokenizer_of("llama2"), ["fine", "[MASK]"], "refuse")[1] == {}


@pytest.mark.parametrize("mode", ["text", "token", "refuse"])
def test_the_unknown_token_is_no_sign_where_the_model_writes_it(tmp_path, mode):
    tokenizer = _by_words(tmp_path, ["[UNK]", "</s>", "sea", "[", "]", "UNK"])
    texts = ["sea lion", "sea [UNK] sea"]
    if mode == "refuse":
        with pytest.raises(DataError, match=r"in.jsonl:2 spells '\[UNK\]'"):
            encode(tokenizer, texts, mode)
        return
    ids, counts = encode(tokenizer, texts, mode)
    assert counts == {1: 1}
    assert ids == [[2, 0], [2, 3, 5, 4, 2] if mode == "text" else [2, 0, 2]]


_WORDS = ("sea", "the", "[", "]", "<", ">", "/", "s", "SEP", "UNK", "MASK", "##s", "##>", "##SEP", "##]", "##/")
_SPECIAL = ("[UNK]", "[SEP]", "</s>")
_PIECES = [*_SPECIAL, "[MASK]", *_WORDS]
_CHARACTERS = [*_PIECES, *sorted({*"".join(_PIECES)} - {*_PIECES})]
_MERGES = [("<", "/"), ("</", "s"), ("</s", ">")]
_MODELS = {
    "words": lambda unknown: models.WordLevel(_numbered(_PIECES), unk_token=unknown),
    "wordpiece": lambda unknown: models.WordPiece(_numbered(_PIECES), unk_token=unknown),
    "bpe": lambda unknown: models.BPE(_numbered([*_CHARACTERS, "</", "</s"]), _MERGES, unk_token=unknown),
    "whole_words": lambda unknown: models.BPE(_numbered(_CHARACTERS), [], unk_token=unknown, ignore_merges=True),
    "unigram": lambda _: models.Unigram([(piece, -float(number)) for number, piece in enumerate(_PIECES)], unk_id=0),
}


@pytest.mark.parametrize("splits", [pre_tokenizers.WhitespaceSplit, pre_tokenizers.BertPreTokenizer])
@pytest.mark.parametrize("kind", _MODELS)
def test_no_model_makes_a_special_token_of_text(tmp_path, kind, splits):
    tokenizer = _saved(tmp_path, _MODELS[kind]("[UNK]"), splits())
    spelled = [place.format(token, token) for place in PLACES for token in (*_SPECIAL, "[MASK]", "[SEP] </s> [UNK]")]
    ids, _ = encode(tokenizer, spelled, "text")
    assert not {1, 2, tokenizer.mask_id} & {number for each in ids for number in each}
    assert all(ids), "what the model cannot spell is the unknown token, not nothing"
    others = ["the sea", "a lion sea", "/ < s > SEP"]
    assert encode(tokenizer, [*spelled, *others], "text")[0][len(spelled) :] == reference(tokenizer, as_text=True)(
        others
    )
    if kind == "words" and splits is pre_tokenizers.WhitespaceSplit:
        assert encode(tokenizer, ["the </s> sea", "[SEP]"], "text")[0] == [[5, 0, 4], [0]]
        assert encode(tokenizer, ["the </s> sea", "[SEP]"], "token") == ([[5, 2, 4], [1]], {0: 1, 1: 1})
    if kind in {"wordpiece", "bpe", "whole_words"} and splits is pre_tokenizers.WhitespaceSplit:
        ((*pieces,),), _ = encode(tokenizer, ["</s>"], "text")
        assert "".join(map(tokenizer.full.id_to_token, pieces)).replace("##", "") == "</s>"


def test_what_cannot_be_spelled_at_all_is_refused(tmp_path):
    tokenizer = _saved(tmp_path, _MODELS["words"]("<none>"), pre_tokenizers.WhitespaceSplit())
    with pytest.raises(DataError, match=r"in.jsonl:2 spells '</s>', a special token .* is also a word .*text=token"):
        encode(tokenizer, ["the sea", "</s>"], "text", "tokenizers")
    assert encode(tokenizer, ["</s>"], "token", "tokenizers") == ([[2]], {0: 1})
    with pytest.raises(
        DataError, match=r"cannot encode every text \(.*Missing.*\): choose a tokenizer whose model has"
    ):
        build_encoder(tokenizer)


def test_a_mask_token_that_is_an_ordinary_word_is_refused(tmp_path):
    tokenizer = _saved(tmp_path, _MODELS["words"]("[UNK]"), pre_tokenizers.WhitespaceSplit(), mask_token="sea")
    with pytest.raises(DataError, match=r"in.jsonl:1 contains the mask token 'sea' .*choose a tokenizer.mask_token"):
        encode(tokenizer, ["the sea"], "text")


def _numbered(words):
    return {word: number for number, word in enumerate(words)}


def _saved(folder, model, splits, **keys):
    vocabulary = RustTokenizer(model)
    vocabulary.pre_tokenizer = splits
    vocabulary.add_special_tokens([AddedToken(each, special=True) for each in _SPECIAL])
    vocabulary.save(str(folder / "tokenizer.json"))
    return load_tokenizer(TokenizerConfig(str(folder), eos_token="</s>", **keys))


def _by_words(folder, words):
    vocabulary = RustTokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0])
    )
    vocabulary.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocabulary.add_special_tokens([AddedToken(each, special=True) for each in words[:2]])
    (folder / "tokenizer.json").write_text(vocabulary.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": words[1]}))
    return load_tokenizer(TokenizerConfig(str(folder)))


@pytest.mark.parametrize("text", [place.format(each, each) for place in PLACES for each in ("</s>", "<s>")])
def test_control_symbols_of_a_unigram_model_are_text(tmp_path, text):
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((chr(code), -float(code)) for code in range(9, 161))]
    RustTokenizer(models.Unigram(pieces, unk_id=0)).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(TokenizerConfig(str(tmp_path), eos_token="</s>", bos_token="<s>"))
    (ids,), _ = encode(tokenizer, [text], "text")
    assert "".join(map(tokenizer.full.id_to_token, ids)) == text
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)

"""Special tokens that documents spell are plain characters: the ids of `tokenizers`, which splits them if told to."""

import json
from itertools import product

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from meap.config import TokenizerConfig
from meap.prep.encoding import SpecialTokens, build_encoder
from meap.tokenizer import load_tokenizer

_TOKENS = ("<s>", "</s>", "<unk>", "[MASK]")
_KINDS = ["gpt2", "llama3", "qwen2.5", "llama2", "across_spaces"]
_KINDS += [f"metaspace_{scheme}" for scheme in ("first", "always", "never")]
_PLACES = ("{0}a b", "a b{0}", "a {0} b", "a{0}b", "{0}{0}", " \n{0}\t ", "\u00e9{0}", "{0}")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@pytest.mark.parametrize(
    ("kind", "flag"),
    [*product(_KINDS, [None]), *product(["gpt2"], _FLAGS), ("llama2", "lstrip"), ("llama2", "normalized")],
)
def test_text_of_a_special_token_is_plain(tokenizer_of, kind, flag, tmp_path):
    definition = json.loads(tokenizer_of(kind).plain.to_str())
    for token in definition["added_tokens"]:
        token.update({flag: True} if flag else {})
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = load_tokenizer(TokenizerConfig(str(tmp_path), "<s>", "</s>"))
    texts = [place.format(token) for place, token in product(_PLACES, _TOKENS)]
    reference = RustTokenizer.from_str(json.dumps(definition))
    reference.encode_special_tokens = True
    encoded = build_encoder(tokenizer, special_tokens="text").encode(texts, [each.encode() for each in texts])
    expected = [reference.encode(each, add_special_tokens=False).ids for each in texts]
    assert encoded.ids.tolist() == [each for ids in expected for each in ids]
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id} & set(encoded.ids.tolist())


def test_a_model_that_finds_the_piece_itself_does_not(tmp_path):
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((chr(code), -float(code)) for code in range(32, 127))]
    RustTokenizer(models.Unigram(vocabulary, unk_id=0)).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(TokenizerConfig(str(tmp_path), eos_token="</s>"))
    assert tokenizer.eos_id in tokenizer.encode("a</s>b")
    # The end of documents is no added token of this file, but only a piece of its model.
    encoded = build_encoder(tokenizer, special_tokens="text").encode(["a</s>b"], [b"a</s>b"])
    assert tokenizer.decode(encoded.ids.tolist()).replace(" ", "") == "a</s>b"
    assert tokenizer.eos_id not in encoded.ids


def test_they_are_counted(tokenizer_of):
    special = SpecialTokens.of(tokenizer_of("llama2"))
    assert special.find(b"a<s>b</s></s> <s [MASK]") == [b"<s>", b"</s>", b"</s>", b"[MASK]"]
    assert special.find(b"a < b") == []

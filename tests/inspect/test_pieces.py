"""Whatever the tokens: the pieces together are the decoded text, and no character is torn apart."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as RustTokenizer

from meap.inspect.pieces import Cutter
from meap.inspect.samples import Part
from meap.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def sentencepiece_tokenizer() -> Tokenizer:
    """Of the kind of Llama-2's: spaces are a sign, unknown characters are bytes, a first space is dropped."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", "▁▁", "é"]
    vocab = {name: number for number, name in enumerate(names)}
    full = RustTokenizer(models.BPE(vocab, [("▁", "a"), ("▁", "▁")], unk_token="<unk>", byte_fallback=True))
    full.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    full.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    full.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>", "[MASK]")])
    return Tokenizer("sp", full, full, "<s>", "</s>", "[MASK]", {})


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def any_tokenizer(request, tokenizer, sentencepiece_tokenizer) -> Tokenizer:
    return tokenizer if request.param == "byte_level" else sentencepiece_tokenizer


def split(tokenizer: Tokenizer, ids) -> list[tuple[str, int, bool]]:
    return list(Cutter(tokenizer).split(ids))


@settings(deadline=None)
@given(text=st.text(max_size=40))
@example(text="東京 👩🏽\u200d🚀 \ufffd\ufffd\ufffd\ufffd é  a")
@example(text="   a  a \ufffd")
def test_text_comes_back_whole_with_no_character_torn(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    pieces = split(any_tokenizer, ids)
    assert "".join(piece for piece, _, _ in pieces) == any_tokenizer.decode(ids)
    assert sum(count for _, count, _ in pieces) == len(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece, _, _ in pieces)
    # As fine as can be: several tokens are one piece only where they share a character.
    assert all(count <= 4 for piece, count, _ in pieces)


@settings(deadline=None)
@given(data=st.data())
def test_any_tokens_at_all_come_back_as_they_decode(any_tokenizer, data):
    size = any_tokenizer.vocab_size
    special = {0, 1, 2, any_tokenizer.mask_id} if size > 263 and any_tokenizer.name == "sp" else {0, 1, size - 1}
    ids = data.draw(st.lists(st.integers(0, size - 1).filter(lambda each: each not in special), max_size=30))
    pieces = split(any_tokenizer, ids)
    assert sum(count for _, count, _ in pieces) == len(ids)
    whole = any_tokenizer.decode(ids)
    if any_tokenizer.name != "sp" or "\ufffd" not in whole:
        # Byte fallback gives up on all bytes in a row for one that does not fit, so there the pieces say more.
        assert "".join(piece for piece, _, _ in pieces) == whole


def test_special_tokens_stand_alone_under_their_names(any_tokenizer):
    body = any_tokenizer.encode("a é")
    pieces = split(any_tokenizer, [any_tokenizer.eos_id, any_tokenizer.bos_id, *body, any_tokenizer.eos_id, *body])
    assert [text for text, _, is_special in pieces if is_special] == ["</s>", "<s>", "</s>"]
    assert "".join(text for text, _, is_special in pieces if not is_special) == "a éa é"


def test_a_masked_token_is_a_piece_and_a_shared_character_counts_its_masked_tokens(tokenizer):
    ids = np.array(tokenizer.encode("tide 東 tide"))
    bytes_of_east = [number for number in range(len(ids)) if "\ufffd" in tokenizer.decode([ids[number]])]
    assert len(bytes_of_east) == 3
    for masked in ([0, 1, 2], bytes_of_east[:2], [len(ids) - 1]):
        is_masked = np.isin(np.arange(len(ids)), masked)
        inputs = np.where(is_masked, tokenizer.mask_id, ids)
        part = Part(None, False, 0, ids, inputs, is_masked, np.ones_like(is_masked), np.ones_like(is_masked))
        pieces = Cutter(tokenizer).cut(part)
        assert "".join(piece.text for piece in pieces) == "tide 東 tide"
        assert sum(piece.num_masked for piece in pieces) == len(masked)
        assert sum(piece.num_tokens for piece in pieces) == len(ids)
        assert not any(piece.is_scored for piece in pieces)  # everything is, in a row of documents

"""Texts -> ids: exactly those of ``tokenizers.Tokenizer.encode``, several times as fast.

encoder.py   chooses the fastest engine whose ids match on the probe; falls back to `tokenizers` with a warning
probe.py     the texts on which an engine must match `tokenizers` before it is used
engines.py   `fastokens` and `tokenizers`, ids in one flat array
by_word.py   SentencePiece-style documents, word by word: twice as fast as `fastokens` on most kinds of text
cuts.py      where such a text can be split without changing its ids, derived from the merges
words.py     the table from words to ids
special.py   special tokens that a document spells: plain characters, tokens, or an error
round_trip.py  whether documents come back from their tokens
bpe.py       byte pair encoding of a word that is not in the table yet, compiled
"""

from meap.prep.encoding.encoder import Encoder, build_encoder
from meap.prep.encoding.engines import Encoded
from meap.prep.encoding.round_trip import RoundTrip
from meap.prep.encoding.special import SpecialTokens

__all__ = ["Encoded", "Encoder", "RoundTrip", "SpecialTokens", "build_encoder"]

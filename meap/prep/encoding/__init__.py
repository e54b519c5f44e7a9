"""Texts -> ids: exactly those of ``tokenizers.Tokenizer.encode``, several times as fast.

encoder.py   chooses the fastest way that passes the probe, and falls back to `tokenizers` with a word about it
probe.py     the texts on which a way must give the same ids before it is used
engines.py   `fastokens` and `tokenizers`, ids in one flat array
cuts.py      where a SentencePiece-style text may be cut without changing its ids, read off the merges
words.py     the pieces between cuts, looked up in a table of those that an engine has encoded before
"""

from meap.prep.encoding.encoder import Encoder, build_encoder
from meap.prep.encoding.engines import Encoded

__all__ = ["Encoded", "Encoder", "build_encoder"]

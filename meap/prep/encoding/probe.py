"""Texts that an engine must encode exactly as `tokenizers` does before it is used with a tokenizer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["probe_texts"]

_SEED = 20_250_211
_NUM_RANDOM = 300
_PLANES = (
    (0x00, 0x20),  # controls, NUL among them
    (0x20, 0x7F),
    (0x80, 0x250),
    (0x250, 0x2000),
    (0x2000, 0x2070),  # spaces, joiners and marks of direction
    (0x2070, 0xD800),
    (0xE000, 0x10000),  # private use, presentation forms
    (0x10000, 0x20000),
    (0x20000, 0x110000),
)
_CHOSEN = (
    "The quick brown fox jumps over the lazy dog. It's 10:45 on 2024-02-11, isn't it? (No; we'll SEE!)",
    "  leading,  double   and trailing spaces \t tabs\t\n\n\nnew lines\r\n and \u00a0 no-break \u3000 wide ones  ",
    "def f(x):\n    return {'a': [x ** 2, 0xFF, 1e-9], \"b\": f'{x!r:>10}'}  # \\n <- not a line\n\n\n",
    "Größe, façade, naïve, Łódź, İstanbul, Việt Nam, e\u0301 is not \u00e9, \ufb01 is not fi, \u212b is not \u00c5",
    "Привет, мир! Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया. สวัสดีชาวโลก. 你好,世界。こんにちは。안녕하세요.",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇪🇺 👍🏽 ☂️ 1️⃣ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀 \U000e0001 \u200b \u200d \u202e abc \ufeff \ufffd",
    "\u2581 is the mark of a word\u2581\u2581and \u2581so on ▁▁▁ ▁",
    "\x00\x01\x1f\x7f\x85 a\x00b \u2028 \u2029",
    "https://example.org/~user/a_b-c.html?q=%20x&y=[1]#z mail@example.org C:\\dir $1,234.56 #tag @name 3.14159265",
    "1 12 123 1234 12345 123456 1234567 ١٢٣ ⅷ ² ½ 1st 2nd x1y2z3 ''''s 'S 'LL ’s DON'T",
    "",
    " ",
    "\n",
    " " * 700,
    "\n" * 300 + "x",
    "a" * 3000,
    "ab" * 1500 + " " + "=" * 500 + "\t" * 200,
)


def probe_texts(special_tokens: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    """Texts on which engines are known, or likely, to disagree; always the same.

    Args:
        special_tokens: Inserted into texts, whole and damaged.
        words: Of the vocabulary; concatenated with and without spaces.
    """
    rng = random.Random(_SEED)  # noqa: S311 (not for security)
    yield from _CHOSEN
    for token in special_tokens:
        yield f"{token}a {token} {token}{token}\n {token[:-1]} {token[1:]} x{token}y {token.upper()}"
    for _ in range(_NUM_RANDOM):
        yield "".join(_pieces(rng, words))


def _pieces(rng: random.Random, words: Sequence[str]) -> Iterator[str]:
    for _ in range(rng.randint(1, 40)):
        match rng.randint(0, 4):
            case 0 | 1:
                yield rng.choice(words) + rng.choice(("", " ", "  ", "\n", ", "))
            case 2:
                yield rng.choice((" ", "\n", "\t", "'", ".", "-")) * rng.randint(1, 20)
            case _:
                first, end = rng.choice(_PLANES)
                yield "".join(chr(rng.randrange(first, end)) for _ in range(rng.randint(1, 12)))

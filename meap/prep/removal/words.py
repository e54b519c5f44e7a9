"""Splitting text into words as datatrove does, for the steps that look at words: spaCy's rules for most languages."""

from __future__ import annotations

import sys

from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

__all__ = ["load_words"]


def load_words(language: str) -> WordTokenizer:
    """What splits the words of a language, loaded; datatrove's blocks find it in datatrove's cache then.

    spaCy imports torch where it is installed: seconds, and hundreds of MB, in each worker, for rules that need none of
    it. So it is told that there is none.

    Args:
        language: ISO 639-3 code.

    Raises:
        ValueError: datatrove has nothing for the language.
        ImportError: A package is missing.
    """
    hides_torch = "torch" not in sys.modules
    if hides_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes importing it an ImportError
    try:
        words = load_word_tokenizer(language)
        words.word_tokenize("a word")
    finally:
        if hides_torch:
            del sys.modules["torch"]
    return words

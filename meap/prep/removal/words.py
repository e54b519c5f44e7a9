"""Splits text into words as datatrove does, for filters and deduplication: by spaCy's rules for most languages."""

from __future__ import annotations

import sys

from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

__all__ = ["load_words"]


def load_words(language: str) -> WordTokenizer:
    """Load the word splitter of a language; datatrove's blocks then find it in datatrove's cache.

    spaCy imports torch if it is installed, which costs each worker seconds and hundreds of MB for rules that do not use
    it. So the import is made to fail.

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

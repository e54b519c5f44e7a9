"""The configuration of filters and deduplication, both off by default."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meap.config.checks import require_at_least, require_one_of, require_ratio
from meap.errors import ConfigError

__all__ = ["DedupConfig", "FiltersConfig"]

_QUALITY = ("gopher_quality", "gopher_repetition", "c4_quality", "fineweb_quality")


@dataclass(frozen=True)
class FiltersConfig:
    """datatrove's filters, in this order: regex, languages, quality; with the thresholds that datatrove publishes."""

    regex: str | None = None
    """Removes documents in which this regular expression is found."""
    languages: tuple[str, ...] = ()
    """Removes documents in none of these languages; codes as the model writes them, such as en. Empty: off."""
    language_threshold: float = 0.65
    """Score above which a document counts as in a language, in [0, 1)."""
    language_model: str | None = None
    """Path of a fastText language model, such as lid.176.bin; required if `languages` is set."""
    quality: tuple[str, ...] = ()
    """Any of gopher_quality, gopher_repetition, c4_quality, fineweb_quality, in the order to apply them."""
    words: str = "eng"
    """Language by whose rules the quality filters split words: an ISO 639-3 code."""

    def __post_init__(self) -> None:
        require_ratio("filters.language_threshold", self.language_threshold, remedy="0.65 is datatrove's.")
        for name in self.quality:
            require_one_of("filters.quality", name, _QUALITY)
        if len(set(self.quality)) < len(self.quality):
            raise ConfigError(f"filters.quality={list(self.quality)} names a filter twice: name each once")
        if self.languages and self.language_model is None:
            raise ConfigError(
                "filters.language_model is not set: filters.languages needs a fastText model; download "
                "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin and give its path"
            )
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ConfigError(f"filters.regex={self.regex!r} is not a regular expression: {error}") from error

    @property
    def is_on(self) -> bool:
        """Whether any filter is on."""
        return bool(self.regex is not None or self.languages or self.quality)


@dataclass(frozen=True)
class DedupConfig:
    """datatrove's deduplication, over all tasks and after the filters; the first document in reading order stays."""

    exact: bool = False
    """Removes documents with the same text as an earlier one."""
    minhash: bool = False
    """Removes near duplicates of earlier documents. Clusters are made by one task, in 240 bytes of memory for each
    document that is like another."""
    n_grams: int = 5
    """Words per shingle, at least 1; a document with fewer words is never a near duplicate."""
    num_buckets: int = 14
    """Buckets, at least 1: similar documents share one with the probability 1 - (1 - similarity**hashes)**buckets."""
    hashes_per_bucket: int = 8
    """Hashes that must agree in a bucket, at least 1."""
    words: str = "eng"
    """Language by whose rules minhash splits words: an ISO 639-3 code."""

    def __post_init__(self) -> None:
        for name in ("n_grams", "num_buckets", "hashes_per_bucket"):
            require_at_least(f"dedup.{name}", getattr(self, name), 1)

    @property
    def is_on(self) -> bool:
        """Whether duplicates are removed."""
        return self.exact or self.minhash

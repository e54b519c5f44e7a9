"""datatrove's filters by configuration, with models and packages checked before any document is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    RegexFilter,
)

from meap.config.removal import FiltersConfig
from meap.errors import ConfigError, MissingPackageError
from meap.extras import how_to_install
from meap.prep.progress import Tally
from meap.prep.removal.languages import LocalModel, require_model
from meap.prep.removal.report import Excluded
from meap.prep.removal.words import load_words

__all__ = ["filter_steps", "require_word_splitter", "words_of"]

_CUT_LINE = "line-filter-"
"""How datatrove's C4 filter starts the names of its counts of lines that it cuts."""


class _C4Quality(C4QualityFilter):
    """C4's filter also cuts lines out of kept documents: these are counted too."""

    def __init__(self, tally: Tally, **options: Any) -> None:
        super().__init__(**options)
        self.tally = tally
        self._cut: Counter[str] = Counter()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        self._cut.clear()
        result = super().filter(doc)
        if result is True:
            self.tally.removed_lines.update(self._cut)
        return result

    def stat_update(self, *labels: str, value: int = 1, unit: str | None = None) -> None:
        super().stat_update(*labels, value=value, unit=unit)  # type: ignore[arg-type]  # None is its default
        self._cut.update(f"c4_quality/{each.removeprefix(_CUT_LINE)}" for each in labels if each.startswith(_CUT_LINE))


_QUALITY: dict[str, Callable[..., PipelineStep]] = {
    "gopher_quality": GopherQualityFilter,
    "gopher_repetition": GopherRepetitionFilter,
    "c4_quality": _C4Quality,
    "fineweb_quality": FineWebQualityFilter,
}


def filter_steps(config: FiltersConfig, tally: Tally) -> list[PipelineStep]:
    """The configured filters, in their order.

    Args:
        config: Which filters.
        tally: Where they count what they remove.

    Raises:
        ConfigError: A package or the language model is missing, or does not know a language.
    """
    steps: list[PipelineStep] = []
    if config.regex is not None:
        steps.append(RegexFilter(config.regex, exclusion_writer=_excluded("regex", tally, "match")))
    if config.languages:
        steps.append(_language_filter(config, tally))
    for language in words_of(config):
        require_word_splitter("filters.words", language)
    for name in config.quality:
        options: dict[str, Any] = {"language": config.words, "exclusion_writer": _excluded(name, tally)}
        steps.append(_QUALITY[name](tally, **options) if name == "c4_quality" else _QUALITY[name](**options))
    return steps


def words_of(config: FiltersConfig) -> tuple[str, ...]:
    """Languages whose words the filters split."""
    return (config.words,) if config.quality else ()


def require_word_splitter(key: str, language: str) -> None:
    """Raise `ConfigError` unless datatrove can split the words of a language.

    Args:
        key: Of the configuration, for the error message.
        language: ISO 639-3 code.
    """
    with _packages(f"{key}={language}"):
        try:
            load_words(language)
        except ValueError as error:
            raise ConfigError(
                f"{key}={language!r} is not a language whose words datatrove can split: give an ISO 639-3 code such as "
                "eng, deu or cmn"
            ) from error


def _language_filter(config: FiltersConfig, tally: Tally) -> LanguageFilter:
    with _packages("filters.languages"):
        block = LanguageFilter(
            list(config.languages),
            language_threshold=config.language_threshold,
            exclusion_writer=_excluded("language", tally, "$language"),
        )
        model = LocalModel(require_model(config), list(config.languages))
    block.model = model  # type: ignore[assignment]  # typed as one of its two models
    return block


@contextmanager
def _packages(wish: str) -> Iterator[None]:
    try:
        yield
    except MissingPackageError:
        raise
    except ImportError as error:
        raise MissingPackageError(f"{wish} needs more packages ({error}): {how_to_install('filters')}") from error


def _excluded(step: str, tally: Tally, reason: str = "") -> Any:
    return Excluded(step, tally, reason)

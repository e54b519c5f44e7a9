"""The language model: a fastText file of the user's, checked before any document is read."""

from __future__ import annotations

import difflib
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from datatrove.utils.lid import FastTextLID

from meap.config.removal import FiltersConfig
from meap.errors import ConfigError
from meap.extras import require_packages

__all__ = ["LocalModel", "model_fingerprint", "require_model"]


class LocalModel(FastTextLID):
    """A fastText model from a local file; datatrove's own classes download theirs."""

    def __init__(self, path: str, languages: list[str]) -> None:
        super().__init__(languages)
        self.path = path

    @property
    def model(self) -> Any:
        """The model, loaded once by each process: it cannot be pickled."""
        return _load(self.path)


def require_model(config: FiltersConfig) -> str:
    """Path of the model, which can be read and knows the languages.

    Raises:
        ConfigError: It does not exist, is not a model, or does not know one of them; or fastText is missing.
    """
    path = _path(config)
    if not Path(path).is_file():
        raise ConfigError(
            f"filters.language_model={config.language_model} is not a file: download "
            "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin and give its path"
        )
    require_packages("filters.languages", "fasttext", extra="filters")
    try:
        labels: list[str] = _load(path).get_labels()
    except ValueError as error:
        raise ConfigError(f"filters.language_model={path} is not a fastText model: {error}") from error
    known = [label.removeprefix("__label__") for label in labels]
    for language in config.languages:
        if language not in known:
            near = difflib.get_close_matches(language, known, n=1) or known[:3]
            raise ConfigError(
                f"filters.languages={list(config.languages)}: the model {path} does not know {language!r}; it knows "
                f"{len(known)} languages, such as {', '.join(near)}"
            )
    return path


def model_fingerprint(config: FiltersConfig) -> str:
    """Hash of the model's file."""
    with Path(_path(config)).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _path(config: FiltersConfig) -> str:
    return str(Path(config.language_model or "").expanduser().absolute())


@lru_cache(1)
def _load(path: str) -> Any:
    from fasttext.FastText import _FastText  # type: ignore[import-not-found]  # wheels for Linux only

    return _FastText(path)

"""Articles with reference summaries, from local files or the Hugging Face hub."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap.errors import BadInputError, DataError, first_line
from meap.evals.rows import read_jsonl, read_parquet
from meap.extras import require_packages

__all__ = ["COLUMNS", "Article", "draw_articles", "is_file", "read_articles"]

_FILES = (".jsonl", ".gz", ".parquet")
_OWN = ("document", "reference")
COLUMNS: dict[str, tuple[str, str]] = {
    "xsum": ("document", "summary"),
    "multi_news": ("document", "summary"),
    "wikisum": ("article", "summary"),
}
"""Columns of the article and its summary in the published data sets; other files have `document` and `reference`."""


@dataclass(frozen=True)
class Article:
    """A document and a summary of it."""

    row: int
    """Number of its row, from 0."""
    name: str
    """Its id, or else the number of its row."""
    document: str
    reference: str
    prediction: str | None = None
    """A summary of another model, where the data set has one."""


def read_articles(name: str, source: str, split: str) -> list[Article]:
    """All articles of a set; rows without a document or a reference are skipped.

    Args:
        name: Key of `COLUMNS`, and of the section hallucination.
        source: A file of JSON lines or parquet, or a name on the hub, with @revision or without.
        split: Split of a data set on the hub.

    Raises:
        DataError: It is missing, or cannot be downloaded.
        BadInputError: It cannot be read, or has other columns.
    """
    key, path = f"hallucination.{name}", Path(source)
    if is_file(source):
        read = read_parquet if path.suffix == ".parquet" else read_jsonl
        rows = read(path, key=key, remedy="give one of JSON lines or parquet, or a name on the Hugging Face hub")
    else:
        rows = _read_hub(source, split, key)
    found: list[Article] = []
    for number, row in enumerate(rows):
        columns = _OWN if _OWN[1] in row else COLUMNS[name]
        texts = [row.get(column) for column in columns]
        if not all(isinstance(text, str) for text in texts):
            expected = " or ".join(" and ".join(each) for each in (_OWN, COLUMNS[name]))
            raise BadInputError(
                f"{key}={source}: row {number} has the columns {', '.join(row) or '(none)'}, but needs texts "
                f"{expected}: rename its columns"
            )
        document, reference = (str(text).strip() for text in texts)
        if document and reference:
            given = row.get("prediction")
            prediction = None if given is None else str(given)
            found.append(Article(number, str(row.get("id", number)), document, reference, prediction))
    return found


def is_file(source: str) -> bool:
    """Whether a source of articles is a file, not a name on the hub."""
    return Path(source).exists() or Path(source).suffix in _FILES


def draw_articles(articles: Sequence[Article], number: int, *, seed: str) -> list[Article]:
    """A random sample of `number` articles, in their order."""
    rng = random.Random(seed)  # noqa: S311 (not for secrets)
    chosen = rng.sample(range(len(articles)), min(number, len(articles)))
    return [articles[index] for index in sorted(chosen)]


def _read_hub(source: str, split: str, key: str) -> list[dict[str, Any]]:
    require_packages(f"{key}={source}", "datasets", extra="eval")
    from datasets import load_dataset

    name, _, revision = source.partition("@")
    try:
        return [dict(row) for row in load_dataset(name, revision=revision or None, split=split)]
    except Exception as error:
        reason = first_line(error)
        raise DataError(
            f"{key}={source} cannot be downloaded ({type(error).__name__}: {reason[:200]}): connect to the Hugging "
            "Face hub, name a revision that is plain files, or give a local file of JSON lines or parquet"
        ) from error

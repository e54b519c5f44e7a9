"""Reads rows of local files: questions, articles."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meap.errors import BadInputError, DataError
from meap.json_text import parse_json

__all__ = ["read_jsonl", "read_parquet"]


def read_jsonl(path: Path, *, key: str, remedy: str) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines, plain or gzipped.

    Args:
        path: The file; a gzipped one ends in .gz.
        key: The key that names it, for errors.
        remedy: What to do if it does not exist, for errors.

    Raises:
        DataError: It does not exist.
        BadInputError: A line is not a JSON object.
    """
    if not path.is_file():
        raise DataError(f"{key}: there is no file {path}; {remedy}")
    rows: list[dict[str, Any]] = []
    open_file: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = parse_json(line)
                    if not isinstance(row, dict):
                        raise BadInputError(f"{path}, line {number} is not a JSON object: download the file again")
                    rows.append(row)
    except (ValueError, OSError, EOFError) as error:
        raise BadInputError(f"{path} cannot be read after {len(rows)} lines ({error}): download it again") from error
    return rows


def read_parquet(path: Path, *, key: str, remedy: str) -> list[dict[str, Any]]:
    """Rows of a parquet file; see `read_jsonl`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{key}: there is no file {path}; {remedy}")
    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"{path} cannot be read ({error}): download it again") from error

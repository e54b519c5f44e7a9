"""Which format a file has: the end of its name says it. A new format is one file here and one row below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meap.errors import BadInputError
from meap.prep.decompression import COMPRESSIONS
from meap.prep.formats.csv import read_csv
from meap.prep.formats.jsonl import read_json, read_json_lines
from meap.prep.formats.parquet import read_parquet
from meap.prep.formats.records import RawFile, ReadOptions, Record
from meap.prep.formats.text import read_text

__all__ = ["FORMATS", "Format", "format_of", "names_of", "suffixes_of"]


@dataclass(frozen=True)
class Format:
    """How files of a format are read."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[RawFile, ReadOptions], Iterator[Record]]
    record: str = "line"
    """What is numbered in a file."""
    is_compressible: bool = True
    """Whether a suffix such as .gz may follow."""
    has_fields: bool = True
    """Whether a record has fields, as a conversation needs."""

    @property
    def all_suffixes(self) -> tuple[str, ...]:
        """What names of its files end in."""
        compressions = ("", *COMPRESSIONS) if self.is_compressible else ("",)
        return tuple(suffix + compression for compression in compressions for suffix in self.suffixes)


FORMATS = (
    Format("JSON", (".json",), read_json),
    Format("JSON lines", (".jsonl", ".ndjson"), read_json_lines),
    Format("CSV", (".csv",), read_csv, record="row"),
    Format("parquet", (".parquet",), read_parquet, record="row", is_compressible=False),
    Format("text", (".txt",), read_text, has_fields=False),
)


def suffixes_of(*, with_fields: bool = False) -> tuple[str, ...]:
    """What names of readable files end in; of formats whose records have fields if `with_fields`."""
    return tuple(suffix for each in FORMATS if each.has_fields or not with_fields for suffix in each.all_suffixes)


def names_of(*, with_fields: bool = False) -> str:
    """The formats by name, for messages."""
    names = [each.name for each in FORMATS if each.has_fields or not with_fields]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def format_of(name: str) -> Format:
    """The format of a file.

    Raises:
        BadInputError: The end of its name is unknown.
    """
    for each in FORMATS:
        if name.lower().endswith(each.all_suffixes):
            return each
    known = ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
    raise BadInputError(
        f"{name} has no known format: its name must end in one of {known}, which {', '.join(COMPRESSIONS)} may follow "
        "(not after .parquet); rename it, or leave it out of source="
    )

"""Which format a file is of: what its name ends in says it. A new format is one file here and one row below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from meap.errors import BadInputError
from meap.prep.decompression import COMPRESSIONS
from meap.prep.formats.jsonl import read_json_lines
from meap.prep.formats.parquet import read_parquet
from meap.prep.formats.records import RawFile, Record, Wanted
from meap.prep.formats.text import read_text

__all__ = ["FOLDER_SUFFIXES", "FORMATS", "Format", "format_of"]


@dataclass(frozen=True)
class Format:
    """How a kind of file is read."""

    suffixes: tuple[str, ...]
    read: Callable[[RawFile, Wanted], Iterator[Record]]
    record: str = "line"
    """What is numbered in it."""
    is_compressible: bool = True
    """Whether a suffix such as .gz may follow."""

    @property
    def all_suffixes(self) -> tuple[str, ...]:
        """What names end in."""
        compressions = ("", *COMPRESSIONS) if self.is_compressible else ("",)
        return tuple(suffix + compression for compression in compressions for suffix in self.suffixes)


FORMATS = (
    Format((".jsonl", ".json", ".ndjson"), read_json_lines),
    Format((".parquet",), read_parquet, record="row", is_compressible=False),
    Format((".txt",), read_text),
)

FOLDER_SUFFIXES = FORMATS[0].all_suffixes + FORMATS[1].all_suffixes
"""What a folder is looked through for. Text files need a glob: a folder of JSON lines often has a README.txt."""


def format_of(name: str) -> Format:
    """The format of a file.

    Raises:
        BadInputError: Its name ends in none that is known.
    """
    for each in FORMATS:
        if name.lower().endswith(each.all_suffixes):
            return each
    known = ", ".join(suffix for each in FORMATS for suffix in each.suffixes)
    raise BadInputError(
        f"{name} is of no known kind: its name must end in one of {known}, which {', '.join(COMPRESSIONS)} may follow "
        "(not after .parquet); rename it, or leave it out of source="
    )

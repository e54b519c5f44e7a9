"""Raw files -> records: one file per format, all with one signature, and a table by the ends of file names.

records.py   what a format is given and what it yields: an open file and options; records, good or bad
encodings.py text in other encodings as UTF-8
jsonl.py     JSON lines and arrays
arrays.py    elements of a JSON array, one at a time
csv.py       comma-separated values with a header
parquet.py   parquet: some rows of the wanted columns at a time
text.py      plain text: a document per file, line or paragraph
table.py     which of them reads a file
"""

from meap.prep.formats.records import (
    BadRecord,
    RawFile,
    ReadOptions,
    Record,
    has_field,
    size_of,
    stream_of,
    text_of,
    value_at,
)
from meap.prep.formats.table import Format, format_of, names_of, suffixes_of

__all__ = [
    "BadRecord",
    "Format",
    "RawFile",
    "ReadOptions",
    "Record",
    "format_of",
    "has_field",
    "names_of",
    "size_of",
    "stream_of",
    "suffixes_of",
    "text_of",
    "value_at",
]

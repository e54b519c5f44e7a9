"""Raw files -> records: one file per format, all with one signature, and a table by the ends of file names.

records.py   what a format is given and what it yields: an open file and options; records, good or bad
jsonl.py     JSON lines and arrays
parquet.py   parquet: some rows of the wanted columns at a time
text.py      plain text: a document per file, line or paragraph
table.py     which of them reads a file
"""

from meap.prep.formats.records import BadRecord, RawFile, ReadOptions, Record, size_of, stream_of, text_of
from meap.prep.formats.table import Format, format_of, names_of, suffixes_of

__all__ = [
    "BadRecord",
    "Format",
    "RawFile",
    "ReadOptions",
    "Record",
    "format_of",
    "names_of",
    "size_of",
    "stream_of",
    "suffixes_of",
    "text_of",
]

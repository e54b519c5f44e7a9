"""Raw files -> texts: one file per format, all with one signature, and a table by what a file's name ends in.

records.py   what a format is given and what it yields: a file, the wanted fields; records, good or bad
jsonl.py     JSON lines, plain or compressed
parquet.py   parquet: a column of texts, by row groups
text.py      plain text, plain or compressed: a document per file, line or paragraph
table.py     which of them reads a file
"""

from meap.prep.formats.records import BadRecord, RawFile, Record, Wanted
from meap.prep.formats.table import FOLDER_SUFFIXES, Format, format_of

__all__ = ["FOLDER_SUFFIXES", "BadRecord", "Format", "RawFile", "Record", "Wanted", "format_of"]

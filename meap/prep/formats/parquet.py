"""Parquet: only the wanted columns are read, some rows at a time, whatever the size of the row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from meap.errors import BadInputError, first_line
from meap.prep.formats.records import BadRecord, RawFile, Record, Wanted, as_stream, as_text

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["open_parquet", "parquet_batches", "parquet_records", "read_parquet"]

_ROWS = 64
"""Rows held at a time: what is gained by more is not measurable, and a row may be a book."""
_BUFFER_BYTES = 1 << 20
"""With it a column is read piece by piece; without, a whole row group's at once."""


def open_parquet(opened: IO[bytes]) -> pq.ParquetFile:
    """A parquet file whose footer has been read.

    Raises:
        EOFError: It is damaged.
    """
    import pyarrow.parquet as pq

    with _damage_found():
        return pq.ParquetFile(opened, page_checksum_verification=True, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def parquet_batches(parquet: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Rows of a file, in order and some at a time.

    Args:
        parquet: See `open_parquet`.
        columns: Which to read, dotted where nested; all where unset.

    Raises:
        EOFError: The file is damaged.
    """
    with _damage_found():
        yield from parquet.iter_batches(_ROWS, columns=columns, use_threads=False)


def parquet_records(opened: IO[bytes]) -> Iterator[dict[str, Any]]:
    """All columns of all rows.

    Raises:
        EOFError: The file is damaged, or a text in it is not valid UTF-8.
    """
    with _damage_found():
        for batch in parquet_batches(open_parquet(opened)):
            yield from batch.to_pylist()


def read_parquet(file: RawFile, wanted: Wanted) -> Iterator[Record]:
    """The documents of a file.

    Raises:
        BadInputError: There is no such column, or it does not hold text.
        EOFError: The file is damaged.
    """
    parquet = open_parquet(file.opened)
    with _damage_found():
        schema, num_rows = parquet.schema_arrow, parquet.metadata.num_rows
    _require_column(schema, wanted.text_key, key="text_key", name=file.name, of_text=True)
    columns = [wanted.text_key]
    if wanted.stream_key is not None:
        _require_column(schema, wanted.stream_key, key="stream_key", name=file.name, of_text=False)
        columns.append(wanted.stream_key)
    number = 0
    for batch in parquet_batches(parquet, columns):
        texts = [as_text(value, wanted.text_key) for value in _values(batch.column(wanted.text_key))]
        streams: Sequence[str | BadRecord] = [""] * len(texts)
        if wanted.stream_key is not None:
            streams = [as_stream(value, wanted.stream_key) for value in _values(_column(batch, wanted.stream_key))]
        for text, stream in zip(texts, streams, strict=True):
            number += 1
            if isinstance(text, BadRecord) or isinstance(stream, str):
                yield number, text, stream if isinstance(stream, str) else ""
            else:
                yield number, stream, ""
        file.read_bytes = file.size * number // num_rows
    if number != num_rows:
        raise EOFError(f"{number} rows, not {num_rows} as its footer says")


def _values(column: pa.Array) -> list[Any]:
    """What a column holds, decoded; what is not valid UTF-8 stays bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # one of them; pyarrow does not say which
        values = column.cast(pa.large_binary()).to_pylist()
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _column(batch: pa.RecordBatch, key: str) -> pa.Array:
    import pyarrow.compute as pc

    if key in batch.schema.names:
        return batch.column(key)
    name, *below = key.split(".")
    return cast("Any", pc).struct_field(batch.column(name), below)


def _require_column(schema: pa.Schema, path: str, *, key: str, name: str, of_text: bool) -> None:
    import pyarrow as pa

    field = schema.field(path) if path in schema.names else None
    if field is None and not of_text:
        names = path.split(".")
        field = schema.field(names[0]) if names[0] in schema.names else None
        for each in names[1:]:
            is_below = field is not None and pa.types.is_struct(field.type) and field.type.get_field_index(each) >= 0
            field = field.type.field(each) if field is not None and is_below else None
    columns = ", ".join(f"{each.name} ({each.type})" for each in schema)
    if field is None:
        raise BadInputError(f"{name}: there is no column {path!r}, its columns are {columns}: set {key} to one of them")
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    tests = [pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null]
    tests += [pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view]
    if of_text and not any(test(kind) for test in tests):
        raise BadInputError(
            f"{name}: column {path!r} holds {field.type}, not text; its columns are {columns}: set {key} to one of text"
        )


@contextmanager
def _damage_found() -> Iterator[None]:
    """Turn what pyarrow raises for a damaged file into EOFError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise EOFError(first_line(error)) from error
    except OSError as error:
        if error.errno is not None:  # of the storage; arrow's own have no number
            raise
        raise EOFError(first_line(error)) from error

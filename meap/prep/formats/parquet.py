"""Parquet: only the wanted columns are read, some rows at a time, whatever the size of the row groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from meap.errors import BadInputError, first_line
from meap.prep.formats.records import RawFile, ReadOptions, Record, require_one_of_each

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_parquet"]

_ROWS = 64
"""Rows held at a time: more gain nothing measurable, and a row may be a book."""
_BUFFER_BYTES = 1 << 20
"""With it a column is read piece by piece; without it, a whole row group's at once."""


def read_parquet(file: RawFile, options: ReadOptions) -> Iterator[Record]:
    """The rows of a file.

    Raises:
        BadInputError: There is no such column, or that of the text does not hold text.
        EOFError: The file is damaged.
    """
    import pyarrow.parquet as pq

    with _damage_found():
        parquet = pq.ParquetFile(
            file.opened, page_checksum_verification=True, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )
        schema, num_rows = parquet.schema_arrow, parquet.metadata.num_rows
    require_one_of_each(options.fields or schema.names, schema.names, file=file.name)
    for key, column in options.keys.items():
        _require_column(schema, column, name=file.name, key=key)
    number, file.read_ratio = 0, 0.0
    with _damage_found():
        for batch in parquet.iter_batches(_ROWS, columns=options.fields, use_threads=False):
            columns = {name: _values(batch.column(name)) for name in batch.schema.names}
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))
            file.read_ratio = number / num_rows
    if number != num_rows:
        raise EOFError(f"{number} rows, not {num_rows} as its footer says")


def _values(column: pa.Array) -> list[Any]:
    """The values of a column, decoded; what is not valid UTF-8 stays bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # one of them; pyarrow does not say which
        if pa.types.is_nested(column.type):
            raise
        values = column.cast(pa.large_binary()).to_pylist()
    return [_decoded(value) if isinstance(value, bytes) else value for value in values]


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _require_column(schema: pa.Schema, path: str, *, name: str, key: str) -> None:
    import pyarrow as pa

    is_text = key == "text_key"
    field = schema.field(path) if path in schema.names else None
    if field is None:
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
    if is_text and not any(test(kind) for test in tests):
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

"""Every format gives the same documents, and no bytes whatever hang, crash or go missing on the way."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import random
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap.errors import BadInputError
from meap.prep.formats import format_of
from meap.prep.inputs import find_inputs
from meap.prep.progress import Tally
from meap.prep.reader import ReadDocuments

COMPRESS = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def read(path: Path, *, max_bad_lines: int = 10**9, **wanted: str) -> tuple[list[str], Tally]:
    tally = Tally(path.parent)
    inputs = find_inputs(str(path))
    reader = ReadDocuments(inputs, tally, **{"text_key": "text", "max_bad_lines": max_bad_lines} | wanted)
    texts = [text for batch in reader.run() for text in batch.texts]
    assert tally.input_bytes == sum(inputs.sizes)
    return texts, tally


def json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def texts(make_texts) -> list[str]:
    return make_texts(700)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".txt"])
def test_every_format_and_compression_gives_the_same_documents(tmp_path, texts, suffix, compression):
    content = json_lines(texts) if suffix != ".txt" else "\n".join(texts).encode()
    path = tmp_path / f"a{suffix}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    assert read(path, text_unit="line")[0] == texts
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    if compression:
        with pytest.raises(BadInputError, match=r"is damaged after line [\d,]+, near byte .*: fetch the file again"):
            read(path, text_unit="line")


@pytest.mark.parametrize(
    "options",
    [{}, {"row_group_size": 100}, {"use_dictionary": False, "compression": "zstd"}, {"write_page_checksum": True}],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_gives_the_documents_whatever_its_layout(tmp_path, texts, kind, options):
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string()).cast(kind), "url": texts})
    (tmp_path / "a.parquet").write_bytes(parquet(table, **options))
    assert read(tmp_path / "a.parquet")[0] == texts


def test_parquet_is_read_by_pieces_and_says_how_far_it_is(tmp_path, texts):
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(pa.table({"text": texts, "other": [b"x" * 5000] * len(texts)})))
    seen = []

    class Watched(Tally):
        def report(self, *, now: bool = False) -> None:
            seen.append(self.input_bytes)

    inputs = find_inputs(str(path))
    assert len(list(ReadDocuments(inputs, Watched(tmp_path), text_key="text", max_bad_lines=0).run())) > 1
    inside = [size for size in seen if 0 < size < path.stat().st_size]
    assert inside
    assert seen == sorted(seen)


def test_rows_without_a_text_are_counted_one_by_one(tmp_path):
    column = pa.array([b"one", None, b"\xff bad", b"", b"two"], pa.binary())
    for array in (column, column.view(pa.string())):
        (tmp_path / "a.parquet").write_bytes(parquet(pa.table({"text": array})))
        found, tally = read(tmp_path / "a.parquet")
        assert found == ["one", "two"]
        assert tally.empty_documents == 1
        assert [(each.line, each.reason) for each in tally.kept_bad_lines] == [
            (2, "field 'text' is not a string but NoneType"),
            (3, "field 'text' is not valid UTF-8"),
        ]


def test_columns_that_are_not_there_or_hold_no_text_are_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(pa.table({"content": ["x"], "id": [1], "meta": [{"set": "a"}]})))
    with pytest.raises(BadInputError, match=r"a.parquet: there is no column 'text', its columns are content \(string"):
        read(tmp_path / "a.parquet")
    with pytest.raises(BadInputError, match=r"column 'id' holds int64, not text; .*: set text_key to one of text"):
        read(tmp_path / "a.parquet", text_key="id")
    for key in ("kind", "meta.kind", "id.kind", "meta.set.kind"):
        with pytest.raises(BadInputError, match=rf"there is no column '{key}'.*: set stream_key to one of them"):
            read(tmp_path / "a.parquet", text_key="content", stream_key=key)
    assert read(tmp_path / "a.parquet", text_key="content", stream_key="meta.set")[0] == ["x"]


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01, 0.0])
def test_truncated_parquet_is_refused(tmp_path, texts, keep):
    content = parquet(pa.table({"text": texts}))
    (tmp_path / "a.parquet").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(BadInputError, match=r"a.parquet is damaged after row 0, near byte .*: fetch the file again"):
        read(tmp_path / "a.parquet")


def test_plain_text_is_a_document_per_file_line_or_paragraph(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"one\r\ntwo \r\n\r\n \t\r\n\r\n three\nfour")
    assert read(path)[0] == ["one\ntwo \n\n \t\n\n three\nfour"]
    assert read(path, text_unit="line")[0] == ["one", "two ", " three", "four"]
    assert read(path, text_unit="paragraph")[0] == ["one\ntwo ", " three\nfour"]


@pytest.mark.parametrize("content", [b"caf\xe9", b"\0" * 99, b"text\0"])
@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_what_is_no_text_is_left_out(tmp_path, content, unit):
    (tmp_path / "a.txt").write_bytes(b"good\n\n" + content)
    found, tally = read(tmp_path / "a.txt", text_unit=unit)
    assert (found, tally.bad_lines) == (["good"], 1)
    assert tally.kept_bad_lines[0].reason.startswith(("not valid UTF-8 (", "not text: it has a NUL at byte "))


@pytest.mark.fault(13)
def test_odd_lines_have_one_stated_fate_each(tmp_path):
    lines = {
        b"[" * 1_000_000: "not valid JSON",
        b'{"text":' * 1_000_000: "not valid JSON",
        b'{"text": "\\ud800"}': "not valid JSON",
        b'{"text": "a\0b"}': "not valid JSON",
        b'{"text": "\xff"}': "not valid JSON",
        b"\0" * 5000: "not valid JSON",
        b'{"text": 5}': "field 'text' is not a string but int",
        b'{"text": ["a"]}': "field 'text' is not a string but list",
        b'{"a": {"text": "b"}}': "no field 'text'",
        b"null": "not a JSON object but NoneType",
    }
    good = {b'{"text": "first", "text": "last"}\r': "last", b'{"text": "a\\u0000b"}': "a\0b"}
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "first"}\n' + b"\n".join([*lines, *good]))
    found, tally = read(tmp_path / "a.jsonl")
    assert found == ["first", *good.values()]
    assert len(tally.kept_bad_lines) == len(lines)
    for bad, reason in zip(tally.kept_bad_lines, lines.values(), strict=True):
        assert bad.reason.startswith(reason)


@pytest.mark.fault(13)
def test_a_document_of_50_mb_is_a_document_and_one_beyond_the_bound_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(["x" * 50_000_000, "after"]), 1))
    assert [len(text) for text in read(tmp_path / "a.jsonl.gz")[0]] == [50_000_000, 5]
    for module in ("records", "text"):
        monkeypatch.setattr(f"meap.prep.formats.{module}.MAX_RECORD_BYTES", 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json_lines(["before", "x" * 12_345, "after", "x" * 1_000])))
    found, tally = read(tmp_path / "a.jsonl.gz")
    assert found == ["before", "after"]
    assert [(each.line, each.reason) for each in tally.kept_bad_lines] == [
        (2, "longer than 1,000 bytes"),
        (4, "longer than 1,000 bytes"),
    ]
    (tmp_path / "a.txt").write_bytes(b"before\n\n" + b"x\n" * 600 + b"\nafter")
    for unit, kept in (("file", []), ("paragraph", ["before", "after"])):
        if not kept:
            with pytest.raises(
                BadInputError, match=r"a.txt:1: longer than 1,000 bytes; nothing can be read of the whol"
            ):
                read(tmp_path / "a.txt", text_unit=unit)
            continue
        found, tally = read(tmp_path / "a.txt", text_unit=unit)
        assert (found, tally.bad_lines) == (kept, 1)


EMPTY = "the file is empty: fetch it again, or take it out of source="


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.txt", "a.txt.bz2", "a.parquet"])
def test_a_file_without_a_record_counts_as_a_bad_one(tmp_path, name):
    content = parquet(pa.table({"text": pa.array([], pa.string())})) if name.endswith("parquet") else b""
    (tmp_path / name).write_bytes(COMPRESS["." + name.split(".")[-1] if name.count(".") > 1 else ""](content))
    found, tally = read(tmp_path / name, text_unit="line")
    assert (found, tally.empty_documents) == ([], 0)
    assert [(each.line, each.reason) for each in tally.kept_bad_lines] == [(1, EMPTY)]
    with pytest.raises(BadInputError, match=rf"{name}:1: {EMPTY}; that is bad line 1 of task 0"):
        read(tmp_path / name, text_unit="line", max_bad_lines=0)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.zst", "a.txt.xz", "a.txt.bz2", "a.txt.gz", "a.parquet"])
def test_a_compressed_file_of_no_bytes_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(BadInputError, match=rf"{name} is damaged after \w+ 0, near byte 0 of the stored file"):
        read(tmp_path / name)


def test_unknown_kinds_of_files_are_refused_by_name():
    for name in ("a.docx", "notes", "a.parquet.gz", "s3://b/a.jsonl.zip", "a.gz"):
        with pytest.raises(BadInputError, match=r" has no known format: its name must end in one of .json, "):
            format_of(name)
    assert format_of("hf://datasets/x/A.JSONL.GZ").record == "line"


# --- no bytes hang or crash the reader, and every line is accounted for

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a"]), inner, max_size=2),
    max_leaves=6,
)
LINE = JSON.map(lambda value: json.dumps(value).encode()) | st.text(max_size=9).map(
    lambda text: json.dumps({"text": text}).encode()
)
LINES = st.lists(LINE | st.binary(max_size=12), max_size=12).map(b"\n".join)
MUTATIONS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), max_size=4)
FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def mutated(content: bytes, mutations: list[tuple[float, int, bool]]) -> bytes:
    changed = bytearray(content)
    for place, value, cut in mutations:
        position = int(place * len(changed))
        if cut:
            del changed[position:]
        elif position < len(changed):
            changed[position] = value
    return bytes(changed)


def lines_of(content: bytes) -> int:
    """Lines that are not blank, counted another way than the reader's."""
    content = content.removeprefix(codecs.BOM_UTF8) if content[:3] == codecs.BOM_UTF8 else content
    return sum(1 for line in re.split(rb"[\r\n]", content) if line and not line.isspace())


def accounted(name: str, content: bytes, **wanted: str) -> int | None:
    """Documents, bad and empty ones of a file; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            found, tally = read(path, **wanted)
        except BadInputError as error:
            return (
                int(re.search(r"all bad \(([\d,]+), ", str(error))[1]) if "nothing can be read" in str(error) else None
            )
        assert all(text.encode().decode() == text for text in found)
        return len(found) + tally.bad_lines + tally.empty_documents


@FUZZ
@given(LINES, st.sampled_from(["text", "a"]))
def test_fuzz_json_lines(content, key):
    count = accounted("a.jsonl", content, text_key=key)
    first_has_no_text, is_array = count is None, content.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    if not first_has_no_text and not is_array:  # of which each element counts
        assert count == max(lines_of(content), 1)


@FUZZ
@given(LINES | st.binary(max_size=200), st.sampled_from(["file", "line", "paragraph"]))
def test_fuzz_text(content, unit):
    count = accounted("a.txt", content, text_unit=unit)
    if unit == "file":
        assert count == 1
    elif unit == "line":
        assert count == max(lines_of(content), 1)
    else:
        assert count <= max(lines_of(content), 1)


@FUZZ
@given(st.sampled_from([*COMPRESS][1:]), LINES, MUTATIONS, st.booleans())
def test_fuzz_compressed_files(compression, content, mutations, is_text):
    stored = mutated(COMPRESS[compression](content), mutations)
    name = f"a.txt{compression}" if is_text else f"a.jsonl{compression}"
    count = accounted(name, stored, text_unit="line")
    if not mutations and is_text:
        assert count == max(lines_of(content), 1)
    accounted(name, content, text_unit="line")  # which is not what its name says


@FUZZ
@given(st.lists(st.none() | st.text(max_size=9) | st.binary(max_size=5), max_size=80), MUTATIONS, st.integers(1, 40))
def test_fuzz_parquet(values, mutations, row_group_size):
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    table = pa.table({"text": pa.array(encoded, pa.binary()).view(pa.string()), "n": range(len(values))})
    content = parquet(table, row_group_size=row_group_size, write_page_checksum=bool(row_group_size % 2))
    assert accounted("a.parquet", content) == max(1, len(values))
    accounted("a.parquet", mutated(content, mutations))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt.xz", "a.txt.bz2", "a.parquet"])
def test_random_bytes_are_refused_or_left_out(tmp_path, name):
    rng = random.Random(0)
    for _ in range(20):
        content = rng.randbytes(rng.randint(1, 3000))
        assert accounted(name, content) != 0

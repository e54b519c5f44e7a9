"""Whatever compression, damage, encoding, line ends and container: the right documents, or one error; never less."""

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import random
import re
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from meap.errors import BadInputError
from meap.prep.decompression import decompressed
from meap.prep.inputs import find_inputs
from meap.prep.progress import Tally
from meap.prep.reader import ReadDocuments

COMPRESS = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": lambda content: zstandard.ZstdCompressor(write_checksum=True).compress(content),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
PADDING = {".gz": 5, ".xz": 8}


def read(path: Path, *, max_bad_lines: int = 100, **wanted: str | None) -> tuple[list[str], Tally]:
    tally = Tally(path.parents[1])
    reader = ReadDocuments(
        find_inputs(str(path)), tally, **{"text_key": "text", "max_bad_lines": max_bad_lines} | wanted
    )
    return [text for batch in reader.run() for text in batch.texts], tally


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder of its own for input, beside what the reader writes."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def refusal(path: Path, **wanted: str) -> str:
    with pytest.raises(BadInputError) as caught:
        read(path, **wanted)
    return str(caught.value)


def json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


# --- each compression x each damage

TEXTS = [f"{number} {random.Random(number).randbytes(9).hex()}" for number in range(40)]
FLIPPED = {"first": 0.5, "second": 1.5}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("streams", [1, 2, 3])
@pytest.mark.parametrize("padded", ["not", "between", "after"])
def test_every_stream_of_a_file_is_read(tmp_path, compression, streams, padded):
    stream = COMPRESS[compression](json_lines(TEXTS))
    padding = b"\0" * PADDING.get(compression, 0)
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes((padding if padded == "between" else b"").join([stream] * streams) + padding * (padded == "after"))
    assert read(path)[0] == TEXTS * streams


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("rest", [b"\n", b"garbage", b"\0", b"\0\0\0\0", b"\xff" * 3000])
@pytest.mark.parametrize("is_between", [False, True])
def test_what_is_neither_a_stream_nor_padding_is_refused(tmp_path, compression, rest, is_between):
    stream = COMPRESS[compression](json_lines(TEXTS))
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(stream + rest + stream * is_between)
    padding = PADDING.get(compression) and {".gz": 1, ".xz": 4}[compression]
    if padding and not rest.strip(b"\0") and len(rest) % padding == 0:
        assert read(path)[0] == TEXTS * (1 + is_between)
    else:
        assert re.search(rf"a.jsonl{compression} is damaged after line 40, .*stream 1.*: fetch", refusal(path))


@pytest.mark.parametrize("compression", COMPRESS)
def test_no_flipped_byte_and_no_cut_loses_a_document(tmp_path, compression):
    stream = COMPRESS[compression](json_lines(TEXTS[:8]))
    content, path = stream * 2, tmp_path / f"a.jsonl{compression}"
    refused = 0
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        try:
            assert read(path, max_bad_lines=0)[0] == TEXTS[:8] * 2, f"byte {place} of {len(content)} was flipped"
        except BadInputError:
            refused += 1
    assert refused > len(content) / 3 * 0.8, "only a name or a date in a header may change without a word"
    for cut in {*range(0, len(content), 7), 1, len(content) - 1} - {len(stream)}:
        path.write_bytes(content[:cut])
        assert "is damaged after line" in refusal(path)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("content", [b"", b"plain text\n" * 9])
def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(tmp_path, compression, content):
    (tmp_path / f"a.jsonl{compression}").write_bytes(content)
    assert "is damaged after line 0, near byte" in refusal(tmp_path / f"a.jsonl{compression}")


@pytest.mark.parametrize("compression", COMPRESS)
def test_memory_is_bounded_however_much_a_file_unpacks_to(compression):
    stored = io.BytesIO(COMPRESS[compression](bytes(100_000_000)))
    tracemalloc.start()
    stream, size = decompressed(stored, f"a{compression}"), 0
    while block := stream.read(1 << 16):
        size += len(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 100_000_000
    assert peak < 140_000_000 if compression == ".zst" else peak < 30_000_000


def test_zstd_reads_windows_of_2_gb_and_names_a_larger_one(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    for log in (28, 31):
        parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=False, hash_log=12, chain_log=12)
        writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # which stores no size
        path.write_bytes(writer.compress(json_lines(TEXTS)) + writer.flush())
        assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << log
        assert read(path)[0] == TEXTS
    content = bytearray(path.read_bytes())
    content[5] += 1 << 3  # the exponent in the header
    path.write_bytes(content)
    assert "its window has 4,294,967,296 bytes, 2,147,483,648 are the most" in refusal(path)


# --- each line end x encoding x container

ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r", "mixed": None, "none after the last": "\n"}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32", "utf-16-le without a mark", "latin-1"]
DOCUMENTS = ["caf\xe9 one", "na\xefve \u2028 two \x85 three", "\xfcber four"]


def joined(lines: list[str], ends: str) -> str:
    if ends == "mixed":
        return "".join(line + end for line, end in zip(lines, itertools.cycle(["\n", "\r\n", "\r"]), strict=False))
    text = "".join(line + ENDS[ends] for line in lines)
    return text.removesuffix("\n") if ends.startswith("none") else text


def encoded(text: str, encoding: str) -> bytes:
    if encoding == "latin-1":
        return text.encode("latin-1", errors="replace")
    marked = "" if encoding.endswith("a mark") or encoding in {"utf-8", "utf-8-sig", "utf-32"} else "\ufeff"
    return (marked + text).encode(encoding.removesuffix(" without a mark"))


def csv_line(text: str) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(["7", text])
    return row.getvalue()


CONTAINERS = {
    "jsonl": lambda texts: [json.dumps({"text": text}, ensure_ascii=False) for text in texts],
    "json": lambda texts: [json.dumps({"text": text}, ensure_ascii=False) for text in texts],
    "array": lambda texts: [
        "[",
        *(json.dumps({"text": text}, ensure_ascii=False) + "," for text in texts[:-1]),
        json.dumps({"text": texts[-1]}, ensure_ascii=False),
        "]",
    ],
    "csv": lambda texts: ["id,text", *map(csv_line, texts)],
    "txt": lambda texts: texts,
}


@pytest.mark.parametrize("compression", ["", ".gz"])
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_documents_are_right_or_the_file_is_refused_by_name(tmp_path, encoding, ends, container, compression):
    content = encoded(joined(CONTAINERS[container](DOCUMENTS), ends), encoding)
    suffixes = {"array": ("jsonl", "json")}.get(container, (container,))
    for suffix in suffixes:
        path = tmp_path / f"a.{suffix}{compression}"
        path.write_bytes(gzip.compress(content) if compression else content)
        (tmp_path / "good.jsonl").write_bytes(json_lines(["good"] * 50))
        if encoding in {"latin-1", "utf-16-le without a mark"}:
            message = refusal(path, text_unit="line")
            assert f"a.{suffix}{compression}" in message
            assert re.search("UTF-8", message)
            assert refusal(tmp_path, text_unit="line") == message, "also beside a good file"
        else:
            assert read(path, text_unit="line")[0] == DOCUMENTS
            if container == "txt":
                assert "".join(read(path)[0]).rstrip("\n") == "\n".join(DOCUMENTS)
                assert read(path, text_unit="paragraph")[0] == ["\n".join(DOCUMENTS)]


def test_text_that_ends_inside_a_character_is_refused(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be", "utf-32"):
        (tmp_path / "a.txt").write_bytes(encoded("text", encoding)[:-1])
        assert re.search(r"a.txt is damaged .*not valid UTF-(16|32)-[LB]E", refusal(tmp_path / "a.txt"))


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_lines_that_end_in_returns_are_found_across_chunks(tmp_path, monkeypatch, end):
    monkeypatch.setattr("meap.prep.formats.encodings._CHUNK_BYTES", 7)
    (tmp_path / "a.jsonl").write_text(end.join(json.dumps({"text": text}) for text in TEXTS), newline="")
    assert read(tmp_path / "a.jsonl")[0] == TEXTS
    (tmp_path / "a.txt").write_text("\r" + end.join(TEXTS), newline="")
    assert read(tmp_path / "a.txt", text_unit="line")[0] == TEXTS


def test_files_joined_with_their_byte_order_marks_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(b"\xef\xbb\xbf" + json_lines([text]) for text in TEXTS))
    assert read(tmp_path / "a.jsonl")[0] == TEXTS


# --- arrays

ODD_OBJECTS = [
    {"text": 'brackets ]}{[ and "quotes" \\" \\'},
    {"text": "\\", "more": [[1, {"text": "]"}], {}]},
    {"text": "\u2028 \U0001f600", "a": {"b": [True, None, 1e5]}},
    {"text": "]", "": '\\\\"'},
]


@pytest.mark.parametrize("indent", [None, 1, "\t"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
def test_arrays_are_read_element_by_element(tmp_path, monkeypatch, indent, chunk, suffix):
    monkeypatch.setattr("meap.prep.formats.arrays._CHUNK_BYTES", chunk)
    path = tmp_path / f"a{suffix}"
    path.write_text("  \n" + json.dumps(ODD_OBJECTS, indent=indent, ensure_ascii=False) + "\r\n ")
    assert read(path)[0] == [each["text"] for each in ODD_OBJECTS]


@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
def test_elements_that_are_no_records_are_counted_and_broken_arrays_refused(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("meap.prep.formats.arrays._CHUNK_BYTES", chunk)
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "one"}, 5, {"text": 6}, {broken}, [{"text": "x"}], "]", {"text": "two"}]')
    texts, tally = read(path)
    assert texts == ["one", "two"]
    assert [each.line for each in tally.kept_bad_lines] == [2, 3, 4, 5, 6]
    assert tally.bad_bytes == 2 + 10 + 9 + 16 + 4
    array = json.dumps([{"text": text} for text in TEXTS]).encode()
    for cut in (1, 20, len(array) // 2, len(array) - 1):
        path.write_bytes(array[:cut])
        assert re.search(r"a.json is damaged .* inside a JSON array, after element \d+", refusal(path))
    path.write_bytes(array + b"\n" + array)
    assert re.search(r"a.json: .* follows the JSON array after element 40: write the records as one", refusal(path))
    path.write_bytes(b" [ \n] ")
    assert read(path)[1].kept_bad_lines[0].reason.startswith("the file is empty")


def test_an_array_is_never_held_whole(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b"[" + b",".join([json.dumps({"text": "x" * 1000}).encode()] * 20_000) + b"]"))
    reader = ReadDocuments(find_inputs(str(path)), Tally(tmp_path.parent), text_key="text", max_bad_lines=0)
    tracemalloc.start()
    count = sum(len(batch.texts) for batch in reader.run())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 12_000_000


def test_an_element_beyond_the_bound_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("meap.prep.formats.records.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr("meap.prep.formats.arrays._CHUNK_BYTES", 64)
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in ("before", "[x\\" * 5000, "after")]))
    texts, tally = read(tmp_path / "a.json")
    assert texts == ["before", "after"]
    assert [(each.line, each.reason) for each in tally.kept_bad_lines] == [(2, "longer than 1,000 bytes")]
    assert tally.bad_bytes == len(json.dumps({"text": "[x\\" * 5000})) + 1


# --- comma-separated values

ODD_FIELDS = [
    "plain",
    'quoted "twice"',
    "a, b",
    "two\nlines",
    "two\r\nlines",
    "re\rturn",
    " spaces ",
    "\u2028",
    "caf\xe9",
]


@pytest.mark.parametrize("compression", ["", *COMPRESS])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fields_of_csv_come_back_exactly(tmp_path, compression, end):
    rows = io.StringIO()
    csv.writer(rows, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(
        [["text", "id"], *([text, n] for n, text in enumerate(ODD_FIELDS))]
    )
    path = tmp_path / f"a.CSV{compression}"
    path.write_bytes(COMPRESS.get(compression, bytes)(rows.getvalue().encode()))
    assert read(path)[0] == ODD_FIELDS


def test_odd_rows_of_csv_have_one_stated_fate_each(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,one\n\n2\n3,a,b\n4,\xff\n5,"a\nb"\n6,\n7,\0\n8,last')
    texts, tally = read(path)
    assert texts == ["one", "a\nb", "last"]
    assert [(each.line, each.reason) for each in tally.kept_bad_lines] == [
        (4, "1 fields, where the header has 2"),
        (5, "3 fields, where the header has 2"),
        (6, "not valid UTF-8"),
        (10, "not text: it has a NUL"),
    ]
    assert tally.empty_documents == 1
    path.write_bytes(b'id,text\n1,one\n2,"no end\n3,three\n')
    assert re.search(r"a.csv:3: not valid CSV \(.*\): repair the row", refusal(path))
    path.write_bytes(b"id,text,text\n1,one,two\n")
    assert re.search(r"a.csv: 2 columns have the name 'text': rename or drop all but one", refusal(path))
    path.write_bytes(b"id;text\n1;one\n")
    assert re.search(r"a.csv:2: there is no field 'text': the line has 'id;text'", refusal(path))


def test_a_quote_without_an_end_takes_no_more_memory_than_a_record_may(tmp_path, monkeypatch):
    monkeypatch.setattr("meap.prep.formats.csv.MAX_RECORD_BYTES", 1000)
    (tmp_path / "a.csv").write_bytes(b'text\none\n"two\n' + b"line\n" * 5000)
    assert re.search(r"a.csv:\d+: a row is longer than 1,000 bytes: is a quoted field", refusal(tmp_path / "a.csv"))


# --- fields by name

NESTED = [{"text": {"body": text}, "meta": {"id": number, "set": "a"}} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_the_text_and_the_id_may_be_nested_fields(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        path.write_text(json.dumps(NESTED) if suffix == ".json" else "\n".join(map(json.dumps, NESTED)))
    reader = ReadDocuments(
        find_inputs(str(path)), Tally(tmp_path.parent), text_key="text.body", id_key="meta.id", max_bad_lines=0
    )
    batches = list(reader.run())
    assert [text for batch in batches for text in batch.texts] == TEXTS
    assert [each for batch in batches for each in batch.ids] == [str(number) for number in range(len(TEXTS))]
    for key in ("text.title", "body", "text.body.more"):
        assert f"'{key}'" in refusal(path, text_key=key)
    assert "'meta.name'" in refusal(path, text_key="text.body", id_key="meta.name")
    if suffix != ".parquet":
        assert refusal(path, text_key="content").endswith("did you mean text_key=text.body?")


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array([1])], names=["text", "text", "n"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert re.search(r"a.parquet: 2 columns have the name 'text': rename or drop", refusal(tmp_path / "a.parquet"))
    pq.write_table(table.rename_columns(["text", "other", "other"]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == ["a"], "two that are not read do no harm"


# --- losses, and progress


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("b.jsonl", b'{"a": 1}\n' * 3),
        ("b.jsonl", b"plain text\n" * 3),
        ("b.jsonl", b"[1, 2]"),
        ("b.csv", b"a,b\n1\n"),
        ("b.txt", b"caf\xe9"),
        ("b.txt", b"\0\0"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_refused_however_much_is_allowed(tmp_path, name, content):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["good"]))
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path, max_bad_lines=10**9)
    assert re.search(rf"{name}:\d+: .*; nothing can be read of the whole file, .* all bad \(\d+, \d+ B\): rep", message)


def test_progress_moves_inside_one_compressed_file(tmp_path, make_texts):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(json_lines([random.Random(n).randbytes(400).hex()]) for n in range(4000))))
    seen = []

    class Watched(Tally):
        def report(self, *, now: bool = False) -> None:
            seen.append(self.input_bytes)

    list(ReadDocuments(find_inputs(str(path)), Watched(tmp_path), text_key="text", max_bad_lines=0).run())
    assert seen == sorted(seen)
    assert len(set(seen)) >= path.stat().st_size / (1 << 20)
    assert seen[-1] == path.stat().st_size

"""Every kind of bad input has one clear error, or is counted with its place."""

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from meap.config import PrepConfig
from meap.errors import BadInputError, ConfigError, DataError
from meap.prep.corpora import CORPORA, resolve
from meap.prep.inputs import InputFiles, find_inputs
from meap.prep.progress import Tally
from meap.prep.reader import ReadDocuments


def _read(source: Path, tmp_path: Path, *, text_key="text", max_bad_lines=100) -> tuple[list[str], Tally]:
    tally = Tally(tmp_path)
    reader = ReadDocuments(find_inputs(str(source)), tally, text_key=text_key, max_bad_lines=max_bad_lines)
    return [text for batch in reader.run() for text in batch.texts], tally


def test_bad_lines_are_counted_with_file_and_line(tmp_path, write_lines):
    lines = [
        "first",
        b"{broken",
        b'["a list"]',
        b'{"no text": 1}',
        b'{"text": null}',
        b'{"text": "\xff"}',
        b'{"text": ""}',
        b"",
        "last",
    ]
    path = write_lines(tmp_path / "in" / "a.json.gz", lines)
    texts, tally = _read(path, tmp_path)
    assert texts == ["first", "last"]
    assert (tally.bad_lines, tally.empty_documents) == (5, 1)
    assert [(each.file, each.line) for each in tally.kept_bad_lines] == [(str(path), n) for n in range(2, 7)]
    reasons = [each.reason for each in tally.kept_bad_lines]
    assert reasons[1] == "not a JSON object but list"
    assert reasons[2] == "no field 'text'"
    assert reasons[3] == "field 'text' is not a string but NoneType"
    assert tally.input_bytes == path.stat().st_size


def test_bad_lines_are_recorded_and_warned_of(prepare, tmp_path, tokenizer_dir, make_texts, write_lines, capfd):
    write_lines(tmp_path / "in.jsonl", [*make_texts(40), *[b"bad"] * 5, ""])
    prepare("source=in.jsonl", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=15")
    record = json.loads((tmp_path / "out" / ".prep" / "tasks" / "00000.json").read_text())
    assert (record["bad_lines"], record["empty_documents"]) == (5, 1)
    assert [(each["file"], each["line"]) for each in record["kept_bad_lines"]] == [
        ("in.jsonl", n) for n in range(41, 46)
    ]
    assert json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())["bad_lines"] == 5
    out, err = capfd.readouterr()
    assert "; left out: 5 bad lines (20 B, " in out
    warned = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert warned[0].startswith("warning: left out in.jsonl:41: not valid JSON")
    assert warned[3:] == ["warning: more bad lines in task 0 are only counted and recorded"]
    assert len(warned) == sum(" documents | " not in line for line in err.splitlines()), (
        "datatrove's log belongs into files"
    )


def test_too_many_bad_lines_are_fatal(tmp_path, write_lines):
    path = write_lines(tmp_path / "a.jsonl", ["good", b"bad", "good", b"bad"])
    assert _read(path, tmp_path, max_bad_lines=2)[1].bad_lines == 2
    with pytest.raises(BadInputError, match=r"a.jsonl:4: not valid JSON .*bad line 2 of task 0.*max_bad_lines=1 are"):
        _read(path, tmp_path, max_bad_lines=1)
    with pytest.raises(BadInputError, match=r"a.jsonl:2: .*max_bad_lines=0 are allowed: repair the file, or raise"):
        _read(path, tmp_path, max_bad_lines=0)


def test_a_task_that_failed_on_bad_lines_goes_on_when_more_are_allowed(
    prepare, tmp_path, tokenizer_dir, make_texts, write_lines
):
    write_lines(tmp_path / "in.jsonl", [*make_texts(40), b"bad"])
    arguments = ("source=in.jsonl", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=15")
    with pytest.raises(BadInputError, match=r"in.jsonl:41"):
        prepare(*arguments, "max_bad_lines=0")
    assert not (tmp_path / "out" / "train").exists()
    prepare(*arguments, "max_bad_lines=1")
    assert (tmp_path / "out" / "train" / "index.json").is_file()


def test_wrong_text_key_is_fatal_at_once_and_lists_the_fields(tmp_path, write_lines):
    path = write_lines(
        tmp_path / "a.jsonl", ["some text that is longer than its address, as texts are"] * 9, key="content"
    )
    with pytest.raises(
        BadInputError, match=r"a.jsonl:1: there is no field 'text': .*'content', 'url'; did you mean text_key=content\?"
    ):
        _read(path, tmp_path)
    assert len(_read(path, tmp_path, text_key="content")[0]) == 9


def test_byte_order_mark_and_blank_lines_are_no_bad_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\n  \n{"text": "three"}')
    texts, tally = _read(tmp_path / "a.jsonl", tmp_path)
    assert texts == ["one", "two", "three"]
    assert tally.bad_lines == 0


def test_tasks_read_contiguous_ranges_that_cover_all_files():
    for count in (1, 4, 7, 1024):
        files = InputFiles("in", tuple(f"{n:04d}" for n in range(count)), (1,) * count)
        for tasks in {1, 2, 3, count} & set(range(1, count + 1)):
            ranges = [list(files.of_task(task, tasks)) for task in range(tasks)]
            assert [number for each in ranges for number in each] == list(range(count))
            assert all(ranges)


def test_sources_are_files_globs_and_folders(tmp_path, write_lines, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.json.gz", "c.jsonl.zst", "d.json", "e.jsonl.gz", "notes.txt", "odd[1].jsonl"):
        write_lines(tmp_path / "in" / name, ["text"])
    write_lines(tmp_path / "in" / "deeper" / "f.jsonl", ["text"])
    write_lines(tmp_path / "in" / "weights.bin", ["text"])
    everything = ("a.json.gz", "b.jsonl", "c.jsonl.zst", "d.json", "e.jsonl.gz", "notes.txt", "odd[1].jsonl")
    for source in ("in", "in/", f"{tmp_path}/in", f"file://{tmp_path}/in"):
        assert find_inputs(source).names == everything
    assert find_inputs("in").urls[0] == "in/a.json.gz"
    assert find_inputs("in/*.jsonl").urls == ("in/b.jsonl", "in/odd[1].jsonl")
    assert find_inputs("in/odd[1].jsonl").urls == ("in/odd[1].jsonl",)
    assert find_inputs("i*/d*/f.jsonl").urls == ("in/deeper/f.jsonl",)
    assert find_inputs(f"{tmp_path}/in/b.jsonl").urls == (f"{tmp_path}/in/b.jsonl",)
    monkeypatch.chdir(tmp_path / "in")
    assert find_inputs("b.jsonl").urls == ("b.jsonl",)
    assert find_inputs(".").urls == everything
    assert find_inputs("*.json").urls == ("d.json",)
    assert find_inputs("b.jsonl").sizes == ((tmp_path / "in" / "b.jsonl").stat().st_size,)


def test_a_list_of_sources_is_read_in_its_order_and_each_file_once(
    prepare, tmp_path, tokenizer_dir, write_lines, capsys, monkeypatch
):
    for name in ("in/b.jsonl", "in/a.jsonl", "more/c.jsonl"):
        write_lines(tmp_path / name, [f"{name} " * 50])
    (tmp_path / "notes.txt").write_text("notes " * 50)
    monkeypatch.chdir(tmp_path)
    urls = find_inputs(("more", "in/b.jsonl", "in/*", "notes.txt")).urls
    assert urls == ("more/c.jsonl", "in/b.jsonl", "in/a.jsonl", "notes.txt")
    sizes = ("seq_len=15", "heldout_ratio=0", f"tokenizer.name={tokenizer_dir}")
    prepare("source=[more,in/b.jsonl,in/*,notes.txt]", *sizes, "remote=out")
    said = capsys.readouterr()
    assert "note: source holds files of several formats, and all are read: 3 of JSON lines, 1 of text" in said.err
    manifest = json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())
    assert (tuple(manifest["sources"]), manifest["documents"]) == (urls, 4)
    with pytest.raises(DataError, match=r"source=nothing.\* matches no file"):
        find_inputs(("in", "nothing.*"))
    with pytest.raises(ConfigError, match=r"in/a.jsonl is among the files of source and of validation_source"):
        prepare("source=[more,in]", "validation_source=[notes.txt,in/a.jsonl]", *sizes[:1], sizes[2], "remote=two")


def test_source_that_matches_nothing_names_the_known_corpora(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("c5", "nowhere/*.json.gz", str(tmp_path)):
        with pytest.raises(DataError, match=r"^source=.* matches no file.*: .*sample: .*c4: .*slimpajama: "):
            resolve(_config(source=source))
    with pytest.raises(DataError, match=r"s4://bucket/x.jsonl cannot be used \(ValueError: Protocol not known: s4"):
        find_inputs("s4://bucket/x.jsonl")


def test_places_that_cannot_be_read_are_one_error_with_the_remedy(tmp_path, write_lines, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", ["text"])
    inputs = find_inputs(str(path))
    path.unlink()
    with pytest.raises(DataError, match=r"a.jsonl does not exist, .*: check the spelling or create it"), inputs.open(0):
        pass
    path.write_text("{}")
    path.chmod(0)
    if not os.access(path, os.R_OK):  # root may read everything
        with pytest.raises(DataError, match=r"a.jsonl: access denied .*: check the permissions"), inputs.open(0):
            pass
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=r"gs://bucket/x.jsonl needs gcsfs, .*: make install EXTRAS=gcs "):
        find_inputs("gs://bucket/x.jsonl")


def _config(**values) -> PrepConfig:
    from meap.config import TokenizerConfig

    return PrepConfig(**{"source": "in", "remote": "out", "tokenizer": TokenizerConfig(name="t")} | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"remote": None}, r"remote is not set: for source=in say where to write"),
        ({"tokenizer": PrepConfig().tokenizer}, r"tokenizer.name is not set: for source=in give a local folder"),
        ({"tasks": 3}, r"tasks=3 is more than the 2 input files: .*tasks=2 is the most"),
        ({"shard_size": "64 megs"}, r"shard_size='64 megs' is not a size: write for example 64mb"),
        ({"shard_size": "1kb"}, r"shard_size=1kb is out of range: with seq_len=4096 it must be at least 20484"),
        ({"shard_size": "4gb"}, r"shard_size=4gb is out of range: .* less than 4gb"),
        ({"compression": "zip"}, r"compression='zip' is not known: use zstd, zstd:1 to zstd:22, or null"),
        ({"compression": "zstd:23"}, r"compression='zstd:23' is not known"),
        ({"source": "s3://user:pass@host/x.json"}, r"source is a URL with a user or password in it"),
        ({"remote": "s3://key@host/x"}, r"remote is a URL with a user or password in it"),
        ({"source": "https://host/x.json?token=s3cret"}, r"source is a URL with a query"),
    ],
)
def test_configurations_that_cannot_work_are_refused(tmp_path, monkeypatch, write_lines, values, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / "in" / name, ["text"])
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(_config(**values))
    assert "pass@" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_resolve_leaves_nothing_to_default(tmp_path, monkeypatch, write_lines):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / "in" / name, ["text"])
    config, inputs = resolve(_config())
    assert (config.seq_len, config.text_key, config.tasks, config.remote) == (4096, "text", 1, "out")
    assert resolve(config) == (config, inputs)
    # a wildcard, not a query
    from meap.places.addresses import require_plain_url

    require_plain_url("source", "s3://bucket/c4-train.0000?.json.gz")
    require_plain_url("source", "hf://datasets/allenai/c4@main/en/*.json.gz")


def test_default_tasks_follow_the_size_of_the_input(monkeypatch):
    for sizes, tasks in (((1,) * 9, 1), ((256_000_000,) * 9, 9), ((300_000_000,) * 9, 9), ((100_000_000,) * 9, 4)):
        inputs = InputFiles("in", tuple(f"{n}.json" for n in range(9)), sizes)
        monkeypatch.setattr("meap.prep.corpora.find_inputs", lambda *_, inputs=inputs, **__: inputs)
        assert resolve(_config())[0].tasks == tasks


def test_corpora_are_named_as_files_of_the_hub():
    assert CORPORA["c4"].files == "hf://datasets/allenai/c4/en/c4-train.*.json.gz"
    assert CORPORA["sample"].seq_len == 256
    assert all(corpus.about for corpus in CORPORA.values())


def test_progress_lines_tell_what_is_left(tmp_path):
    import io

    from meap.prep.live import Progress

    console = io.StringIO()
    progress = Progress(
        tmp_path,
        tasks=4,
        completed=frozenset({0}),
        total_bytes=100_000_000,
        done_bytes=25_000_000,
        interval=0.01,
        console=console,
    )
    printed = threading.Event()
    console.write = lambda text: ("1,000 doc" in text and printed.set()) or io.StringIO.write(console, text)
    with progress.shown():
        tally = Tally(tmp_path)
        tally.start(3)
        tally.documents["train"], tally.tokens["train"], tally.input_bytes = 1_000, 50_000, 25_000_000
        tally.report(now=True)
        assert printed.wait(30)
    line = next(line for line in console.getvalue().splitlines() if not line.startswith("0 documents"))
    assert line.startswith("1,000 documents | 50.0 MB of 100.0 MB read | 50,000 tokens | ")
    assert " tokens/s | 1 of 4 tasks | time left: 0:00:0" in line
    assert line.endswith(" | 1 running")

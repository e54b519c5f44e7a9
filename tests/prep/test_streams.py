"""A corpus divided by a field of its documents: a data set per value, each of which training opens as a stream."""

import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meap.config import DataConfig, StreamConfig
from meap.errors import BadInputError, ConfigError
from meap.manifest import Manifest
from meap.prep.audit.places import find_data_sets
from meap.prep.audit.statistics import measure
from meap.prep.audit.verify import verify
from meap.prep.streams import MAX_STREAMS, StreamNames, stream_name

SETS = ("RedPajamaC4", "RedPajamaBook", "Stack Exchange/de")
FOLDERS = {value: stream_name(value) for value in SETS}


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """Four files in which three sources alternate, and one source has no share in the last file."""
    for number in range(4):
        sets = SETS if number < 3 else SETS[:2]
        lines = [
            json.dumps({"text": text, "meta": {"redpajama_set_name": sets[index % len(sets)]}}).encode()
            for index, text in enumerate(make_texts(150, seed=number))
        ]
        write_lines(tmp_path / "in" / f"{number}.jsonl", lines)
    return (
        "source=in",
        "remote=out",
        f"tokenizer.name={tokenizer_dir}",
        "seq_len=31",
        "shard_size=8kb",
        "heldout_ratio=0.1",
        "stream_key=meta.redpajama_set_name",
        "tasks=4",
    )


def test_each_stream_is_the_data_set_of_its_documents_alone(prepare, tmp_path, arguments, write_lines, read_rows):
    prepare(*arguments)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".prep", *FOLDERS.values()}
    for value, folder in FOLDERS.items():
        for number in range(4):
            lines = (tmp_path / "in" / f"{number}.jsonl").read_bytes().splitlines()
            of_value = [line for line in lines if json.loads(line)["meta"]["redpajama_set_name"] == value]
            write_lines(tmp_path / folder / f"{number}.jsonl", of_value)
        prepare(*arguments, f"source={folder}", f"remote=alone-{folder}", "stream_key=null", "max_bad_lines=1")
        for split in ("train", "validation"):
            rows = read_rows(tmp_path / "out" / folder / split)
            assert np.array_equal(rows, read_rows(tmp_path / f"alone-{folder}" / split))
            manifest = Manifest.from_json((tmp_path / "out" / folder / split / "manifest.json").read_text(), origin="")
            assert (manifest.split, manifest.rows) == (split, len(rows))


def test_streams_are_audited_as_one_job(prepare, tmp_path, arguments):
    prepare(*arguments)
    expected = dict.fromkeys(FOLDERS.values(), 0)
    for file in (tmp_path / "in").iterdir():
        for document in map(json.loads, file.read_bytes().splitlines()):
            expected[FOLDERS[document["meta"]["redpajama_set_name"]]] += len(document["text"].encode())
    out = tmp_path / "out"
    splits = measure(find_data_sets(str(out)), workers=2, ngrams=False, top=5).splits
    found = {folder: sum(each.text_bytes for each in splits if each.name.startswith(folder)) for folder in expected}
    assert found == expected
    assert verify(find_data_sets(str(out)), workers=2).findings == []
    gone, cut, _ = sorted(expected)
    shutil.rmtree(out / gone)
    shutil.rmtree(out / cut / "validation")
    findings = verify(find_data_sets(str(out)), workers=2).findings
    assert [(each.file.removeprefix(f"{out}/"), each.what) for each in findings if "index.json" in each.file] == [
        (f"{gone}/train/index.json", "data set is not complete"),
        (f"{gone}/validation/index.json", "split is not complete"),
        (f"{cut}/validation/index.json", "split is not complete"),
    ]
    assert len(findings) == 3
    assert f"(source=in, remote={out})" in findings[0].remedy, "the job's folder, not the stream's"


def test_parquet_is_divided_by_a_nested_column(prepare, tmp_path, arguments, hashes_of):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (tmp_path / "in").iterdir():
        values = [json.loads(line) for line in path.read_bytes().splitlines()]
        (tmp_path / "parquet").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(values), tmp_path / "parquet" / f"{path.stem}.parquet", row_group_size=40)
    prepare(*arguments)
    prepare(*arguments, "source=parquet", "remote=other")
    shards = [{k: v for k, v in hashes_of(tmp_path / name).items() if "shard" in k} for name in ("out", "other")]
    assert shards[0] == shards[1]


@pytest.mark.slow
def test_training_opens_the_streams_and_draws_from_each(prepare, tmp_path, arguments):
    from meap.config import MaskingConfig
    from meap.data import build_loader, build_mask_rule, open_shards

    prepare(*arguments)
    streams = {f"s{n}": StreamConfig(str(tmp_path / "out" / folder)) for n, folder in enumerate(FOLDERS.values())}
    data = DataConfig(streams=streams, seq_len=31, num_canonical_nodes=1, num_workers=0)
    for split in ("train", "validation"):
        shards = open_shards(data, split)
        assert len(shards.streams) == 3
        rule = build_mask_rule(MaskingConfig(ratio=0.1), shards.tokenizer, seed=1)
        loader = build_loader(
            data,
            shards,
            rule=rule,
            seed=1,
            global_batch_size=4,
            world_size=1,
            cache_dir=tmp_path / "cache" / split,
            shuffle=True,
        )
        ids = np.concatenate([batch["sample_id"].numpy() for batch in loader])
        assert len(set(ids.tolist())) == len(ids) == shards.rows // 4 * 4


def test_a_rerun_completes_and_completed_streams_are_not_done_again(prepare, tmp_path, arguments, hashes_of, capsys):
    prepare(*arguments)
    assert capsys.readouterr().out.startswith("complete: 600 documents, ")
    expected = hashes_of(tmp_path / "out")
    prepare(*arguments)
    assert capsys.readouterr().out.startswith("already complete: 600 documents, ")
    (tmp_path / "out" / ".prep" / "tasks" / "00002.json").unlink()
    (tmp_path / "out" / FOLDERS["RedPajamaC4"] / "train" / "shard.00001.00000.mds.zstd").unlink()
    (tmp_path / "out" / FOLDERS["RedPajamaBook"] / "train" / "index.json").unlink()
    prepare(*arguments)
    assert hashes_of(tmp_path / "out") == expected


@pytest.mark.slow
def test_workers_change_nothing(run_command_line, prepare, tmp_path, arguments, hashes_of):
    prepare(*arguments, "remote=one")
    done = run_command_line(*arguments, "remote=two", "workers=2")
    assert done.returncode == 0, done.stderr
    assert hashes_of(tmp_path / "one") == hashes_of(tmp_path / "two")


def test_documents_without_the_field_are_bad_lines(prepare, tmp_path, arguments, write_lines, capsys):
    odd = [
        {},
        {"meta": None},
        {"meta": "x"},
        {"meta": {"redpajama_set_name": ""}},
        {"meta": {"redpajama_set_name": 1.5}},
    ]
    good = [{"meta": {"redpajama_set_name": value}} for value in (SETS[0], 7)]
    texts = ["word " * 99] * len(odd + good)
    lines = [json.dumps(meta | {"text": text}).encode() for meta, text in zip(odd + good, texts, strict=True)]
    write_lines(tmp_path / "in.jsonl", lines)
    prepare(*arguments, "source=in.jsonl", "tasks=1", "heldout_ratio=0")
    assert "; left out: 5 bad lines (" in capsys.readouterr().out
    reasons = [
        each["reason"] for each in json.loads((tmp_path / "out/.prep/tasks/00000.json").read_text())["kept_bad_lines"]
    ]
    assert reasons[:4] == ["no field 'meta.redpajama_set_name', which names the stream"] * 4
    assert reasons[4] == "field 'meta.redpajama_set_name', which names the stream, is not a string but float"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".prep", "RedPajamaC4", "7"}


def test_a_stream_too_small_for_a_row_is_named_and_does_not_hold_up_the_others(
    prepare, tmp_path, arguments, write_lines, capsys
):
    lines = [json.dumps({"text": "word " * count, "set": name}).encode() for name, count in (("web", 99), ("tiny", 2))]
    write_lines(tmp_path / "in.jsonl", lines)
    for start in ("complete: ", "already complete: "):
        prepare(*arguments, "source=in.jsonl", "tasks=1", "heldout_ratio=0", "stream_key=set")
        out = capsys.readouterr().out
        assert out.startswith(start)
        assert re.search(r"; too little for a row to train on: tiny \(\d+ tokens\)", out)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".prep", "web"}


def test_a_field_that_names_documents_is_one_error_and_no_folders(prepare, tmp_path, arguments, write_lines):
    lines = [json.dumps({"text": "word " * 99, "id": number}).encode() for number in range(MAX_STREAMS + 1)]
    write_lines(tmp_path / "in.jsonl", lines)
    with pytest.raises(
        BadInputError, match=r"in.jsonl:101: stream_key=id has more than 100 different values \(0, 1, 2, \.\.\.\)"
    ):
        prepare(*arguments, "source=in.jsonl", "tasks=1", "stream_key=id")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".prep"}


@given(st.lists(st.text(min_size=1), unique=True, max_size=30))
@example(["train", "validation", "tokenizer", "a b", "a_b", "a/b", "..", ".prep", "web-0123456789abcdef", "x" * 300])
def test_names_are_safe_and_never_the_same(values):
    try:
        [value.encode() for value in values]
    except UnicodeEncodeError:
        return  # lone surrogates, which the reader refuses
    names = [stream_name(value) for value in values]
    assert len(set(names)) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)
    assert not {"train", "validation", "tokenizer"} & set(names)
    assert names == [stream_name(value) for value in values]


def test_hashed_names_do_not_meet_plain_ones():
    hashed = stream_name("a b")
    assert hashed.startswith("a_b-")
    assert stream_name(hashed) != hashed
    assert stream_name("RedPajamaCommonCrawl") == "RedPajamaCommonCrawl"
    assert StreamNames(None).name_of("", "x:1") == ""


@pytest.mark.slow
def test_validation_files_are_the_validation_split_and_the_others_are_train(
    prepare, tmp_path, arguments, make_texts, write_lines, read_rows
):
    lines = [
        json.dumps({"text": text, "meta": {"redpajama_set_name": SETS[index % 2]}}).encode()
        for index, text in enumerate(make_texts(90, seed=9))
    ]
    write_lines(tmp_path / "heldout" / "a.jsonl", lines[:60])
    write_lines(tmp_path / "heldout" / "b.jsonl", lines[60:])
    own = [*arguments, "validation_source=heldout", "heldout_ratio=null", "stream_key=null"]
    prepare(*own, "tasks=5", "remote=five")
    prepare(*own, "tasks=1", "remote=one")
    prepare(*own, "tasks=4", "remote=all", "validation_source=null", "heldout_ratio=0")
    prepare(*own, "source=heldout", "tasks=1", "remote=alone", "validation_source=null", "heldout_ratio=0")
    for remote in ("five", "one"):
        assert np.array_equal(read_rows(tmp_path / remote / "validation"), read_rows(tmp_path / "alone" / "train"))
    assert np.array_equal(read_rows(tmp_path / "five" / "train"), read_rows(tmp_path / "all" / "train"))
    manifests = [
        json.loads((tmp_path / "one" / split / "manifest.json").read_text()) for split in ("train", "validation")
    ]
    assert [manifest["documents"] for manifest in manifests] == [600, 90]
    assert manifests[0]["config"]["heldout_ratio"] == 0
    prepare(*own, "tasks=5", "remote=streams", "stream_key=meta.redpajama_set_name")
    assert (tmp_path / "streams" / "RedPajamaC4" / "validation" / "index.json").is_file()
    assert not (tmp_path / "streams" / FOLDERS[SETS[2]] / "validation").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("validation_source=in/0.jsonl",), r"in/0.jsonl is among the files of source and of validation_source"),
        (
            ("validation_source=heldout/*.jsonl",),
            r"^validation_source=heldout/\*.jsonl matches no file .*: .*c4_validation: ",
        ),
        (("validation_source=s3://user:pass@host/x",), r"validation_source is a URL with a user or password in it"),
        (
            ("validation_source=in", "heldout_ratio=0.1"),
            r"heldout_ratio=0.1 and validation_source=in exclude each other",
        ),
        (
            ("source=in/0.jsonl", "validation_source=in/1.jsonl", "tasks=3"),
            r"tasks=3 .*the 1 input files and one for val",
        ),
        (("text_unit=page",), r"text_unit='page' is not known: choose one of file, line, paragraph"),
    ],
)
def test_validation_files_that_cannot_be_meant_are_refused(prepare, arguments, overrides, message):
    from meap.errors import MeapError

    with pytest.raises(MeapError, match=message):
        prepare(*[each for each in arguments if not each.startswith("heldout")], *overrides)


def test_a_corpus_of_the_table_brings_its_validation_files(monkeypatch):
    from meap.config import PrepConfig, TokenizerConfig
    from meap.prep import corpora
    from meap.prep.inputs import InputFiles

    listed = []
    monkeypatch.setattr(
        corpora,
        "find_inputs",
        lambda sources, **_: listed.extend(sources) or InputFiles(sources[0], ("a.jsonl",), (1,)),
    )
    config = PrepConfig(source="slimpajama", remote="out", tokenizer=TokenizerConfig(name="t"))
    resolved, inputs = corpora.resolve(config)
    root = "hf://datasets/cerebras/SlimPajama-627B"
    assert listed == [f"{root}/train/chunk*/*.jsonl.zst", f"{root}/validation/chunk*/*.jsonl.zst"]
    assert (resolved.heldout_ratio, resolved.tasks, inputs.num_validation) == (0, 2, 1)
    assert corpora.resolve(resolved) == (resolved, inputs)
    listed.clear()
    heldout = PrepConfig(source="slimpajama", remote="out", tokenizer=TokenizerConfig(name="t"), heldout_ratio=0.1)
    assert corpora.resolve(heldout)[1].num_validation == 0
    own = PrepConfig(source="c4", remote="out", tokenizer=TokenizerConfig(name="t"), validation_source="c4_validation")
    listed.clear()
    corpora.resolve(own)
    assert [source.rpartition("/")[2] for source in listed] == ["c4-train.*.json.gz", "c4-validation.*.json.gz"]
    with pytest.raises(ConfigError, match="exclude each other"):
        PrepConfig(validation_source="x", heldout_ratio=0.1)

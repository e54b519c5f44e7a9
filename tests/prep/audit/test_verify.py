"""A whole data set is found whole, and whatever is done to one is found, named, and told with a remedy."""

import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import zstandard

from meap.cli import main
from meap.prep.audit.places import find_data_sets
from meap.prep.audit.verify import verify

_KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


def findings_of(remote, *, workers=2):
    return verify(find_data_sets(str(remote)), workers=workers).findings


def shards_of(split_dir):
    return [shard["zip_data"]["basename"] for shard in json.loads((split_dir / "index.json").read_text())["shards"]]


def test_what_preparation_writes_is_whole(rows_remote, sft_remote, streams_remote, capsys):
    counts = []
    for remote in (rows_remote, sft_remote, streams_remote, rows_remote / "train", sft_remote / "validation"):
        capsys.readouterr()
        assert main(["verify", f"remote={remote}", "workers=3"]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        counts.append([int(each) for each in re.findall(r"(\d+) (?:splits|shards|rows)", told.out.replace(",", ""))])
    manifests = [json.loads((rows_remote / split / "manifest.json").read_text()) for split in ("train", "validation")]
    expected = [2, sum(len(each["shards"]) for each in manifests), sum(each["rows"] for each in manifests)]
    assert expected[1] > 4
    assert counts[0] == expected
    assert counts[2] == [2 * each for each in expected]
    assert counts[3] == [1, len(manifests[0]["shards"]), manifests[0]["rows"]]


def test_verification_changes_nothing_and_finds_the_same_with_any_number_of_workers(rows_remote, hashes_of):
    before = hashes_of(rows_remote)
    for name in shards_of(rows_remote / "train")[1:3]:
        path = rows_remote / "train" / name
        path.write_bytes(path.read_bytes()[:-1])
    one, four = findings_of(rows_remote, workers=1), findings_of(rows_remote, workers=4)
    assert one == four
    assert len(one) == 2
    after = hashes_of(rows_remote)
    assert {name for name in before if before[name] != after[name]} == {finding_file(rows_remote, each) for each in one}


def finding_file(remote, finding):
    return finding.file.split(" ")[0].removeprefix(f"{remote}/")


@pytest.mark.slow
@pytest.mark.fault(4)
def test_every_flipped_byte_of_a_shard_is_found(rows_remote, sft_remote, record_property):
    rng = random.Random(5)
    for remote in (rows_remote, sft_remote):
        shards = sorted(remote.glob("*/shard.*"))
        for _ in range(40):
            path = rng.choice(shards)
            good = path.read_bytes()
            place = rng.randrange(len(good))
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1 :])
            found = findings_of(remote)
            assert {finding_file(remote, each) for each in found} == {str(path.relative_to(remote))}, place
            assert {"sha256", "xxh3_64"} <= {each.what for each in found}
            path.write_bytes(good)
    record_property("injected", 80)


def _set(path, value):
    """Set a value of a parsed JSON file by its path."""
    *keys, last = path

    def change(values):
        for key in keys:
            values = values[key]
        values[last] = value

    return change


def _add(path, amount):
    *keys, last = path

    def change(values):
        for key in keys:
            values = values[key]
        values[last] += amount

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("index.json", _set(["version"], 1), "version: expected 2, found 1"),
        ("index.json", _set(["shards", 1, "format"], "pkl"), "format: expected mds, found 'pkl'"),
        ("index.json", _set(["shards", 1, "column_encodings"], ["pkl"]), "of column 'tokens': expected integer arrays"),
        ("index.json", _set(["shards", 1, "column_encodings"], ["ndarray"]), "found 'ndarray'"),
        ("index.json", _set(["shards", 1, "column_encodings"], ["ndarray:uint32:32"]), "columns: expected tokens "),
        ("index.json", _set(["shards", 1, "column_names"], ["token"]), "found token ndarray:uint16:32"),
        ("index.json", _set(["shards", 1, "compression"], "gz"), "compression: expected null or zstd, found 'gz'"),
        ("index.json", _set(["shards", 1, "zip_data", "basename"], "../x"), "basename: expected a plain file name"),
        ("index.json", _set(["shards", 1, "raw_data", "basename"], "/etc/x"), "found '/etc/x': do not load it"),
        ("index.json", _set(["shards", 1, "zip_data", "basename"], "a\\b"), "basename: expected a plain file name"),
        ("index.json", _set(["shards", 1, "zip_data"], None), "zip_data: expected a file where there is a compression"),
        ("index.json", _set(["shards", 1, "samples"], "7"), "entry of a shard: expected an MDS shard, found TypeError"),
        ("index.json", _set(["shards", 1], 7), "entry of a shard: expected an MDS shard, found TypeError"),
        ("index.json", _set(["shards", 1, "raw_data", "bytes"], 1 << 40), "bytes: expected less than 4 GiB, "),
        ("index.json", _set(["shards"], None), "index: expected one that can be read"),
        ("index.json", _add(["shards", 1, "samples"], 1), "manifest.json: rows of shard."),
        ("index.json", _add(["shards", 1, "zip_data", "bytes"], 1), "manifest.json: bytes of shard."),
        ("index.json", _add(["shards", 1, "raw_data", "bytes"], 1), "bytes after decompression: expected "),
        ("index.json", _add(["shards", 1, "raw_data", "bytes"], -1), "found more: copy the file again"),
        ("index.json", _set(["shards", 1, "zip_data", "hashes"], {}), "expected xxh3_64, found none"),
        ("index.json", _set(["shards", 1, "zip_data", "hashes", "xxh3_64"], "00"), "xxh3_64: expected 00, found "),
        ("index.json", _set(["shards", 1, "raw_data", "hashes", "xxh3_64"], "00"), "(decompressed): xxh3_64: "),
        ("index.json", lambda values: values["shards"].reverse(), "order of shards: expected shard.00000.00000"),
        ("index.json", lambda values: values["shards"].pop(), "expected it in both, found it in manifest.json only"),
        ("index.json", lambda values: values["shards"].append(values["shards"][0]), "expected each once, found shard."),
        ("manifest.json", lambda values: values["shards"].pop(), "expected it in both, found it in index.json only"),
        ("manifest.json", _set(["shards", 0, "sha256"], "00"), "sha256: expected 00, found "),
        ("manifest.json", _add(["rows"], 1), "rows: expected "),
        ("manifest.json", _add(["tokens"], 1), "as rows * (seq_len + 1) + dropped_tail_tokens give, found "),
        ("manifest.json", _add(["dropped_tail_tokens"], 1), "tokens: expected "),
        ("manifest.json", _add(["documents"], 100), "BOS tokens in the rows allow, found "),
        ("manifest.json", _set(["dtype"], "uint32"), "dtype: expected uint16, for 301 ids, found uint32"),
        ("manifest.json", _set(["kind"], "pictures"), "kind: expected rows or conversations, found pictures"),
        ("manifest.json", _set(["kind"], "conversations"), "columns: expected answer ndarray:uint8, "),
        ("manifest.json", _set(["seq_len"], 15), "columns: expected tokens ndarray:uint16:16, found "),
        ("manifest.json", _set(["seq_len"], "x"), "manifest: expected one that can be read"),
        ("manifest.json", _set(["split"], "validation"), "split: expected train, found validation"),
        ("manifest.json", _set(["format_version"], 9), "has format version 9, this program reads 2"),
        ("manifest.json", _set(["hash_algorithm"], "md5"), "hash algorithm: expected xxh3_64, found md5"),
        ("manifest.json", _set(["tokenizer", "fingerprint"], "sha256:0"), "fingerprint: expected sha256:0, as "),
        ("manifest.json", _set(["tokenizer", "bos_id"], 7), "first token: expected BOS (7), with which each "),
        ("manifest.json", _set(["tokenizer", "mask_id"], 999), "tokenizer.mask_id: expected 0 to 300, found 999"),
    ],
)  # fmt: skip
def test_metadata_that_is_wrong_is_found(rows_remote, edit_json, capsys, file, change, expected):
    edit_json(rows_remote / "train" / file, change)
    assert main(["verify", f"remote={rows_remote}"]) == 1
    told = capsys.readouterr()
    assert expected in told.out
    assert told.err.startswith(f"error: {rows_remote} is not whole: ")
    assert len(told.out.splitlines()) == int(re.search(r"(\d+) findings?, listed above: do what they say", told.err)[1])


@pytest.mark.parametrize("file", ["train/index.json", "validation/manifest.json", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b"null", b'{"shards": [{}], "version": 2}'])
def test_metadata_that_is_no_metadata_is_found(rows_remote, file, content):
    (rows_remote / file).write_bytes(content)
    found = findings_of(rows_remote)
    assert any(f"{rows_remote}/{file}".startswith(each.file.split(",")[0]) for each in found)
    assert all(each.remedy for each in found)


def test_files_that_are_missing_or_too_many_are_found(rows_remote):
    train = rows_remote / "train"
    names = shards_of(train)
    (train / names[0]).unlink()
    (train / names[1]).write_bytes(b"")
    shutil.copy(train / names[2], train / "shard.00009.00000.mds.zstd")
    found = [(finding_file(rows_remote, each), each.what, each.found) for each in findings_of(rows_remote)]
    assert found == [
        ("train/shard.00009.00000.mds.zstd", "shard file", "none"),
        (f"train/{names[0]}", "bytes", "no such file"),
        (f"train/{names[1]}", "bytes", "0"),
    ]
    (train / "manifest.json").unlink()
    whats = {(finding_file(rows_remote, each), each.what) for each in findings_of(rows_remote)}
    assert whats >= {("train/manifest.json", "manifest"), (f"train/{names[0]}", "shard file")}


def test_two_shards_that_changed_places_are_found(rows_remote):
    one, other = (rows_remote / "train" / name for name in shards_of(rows_remote / "train")[:2])
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])
    assert {finding_file(rows_remote, each) for each in findings_of(rows_remote)} == {
        f"train/{one.name}",
        f"train/{other.name}",
    }


def _tokens_of(raw: bytearray, values: dict[tuple[int, int], int], row_len=32) -> None:
    start = struct.unpack_from("<I", raw, 4)[0]
    for (row, position), value in values.items():
        struct.pack_into("<H", raw, start + 2 * (row * row_len + position), value)


def _move_offset(raw: bytearray, number: int, by: int) -> None:
    place = 4 * (1 + number)
    struct.pack_into("<I", raw, place, struct.unpack_from("<I", raw, place)[0] + by)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda raw: _tokens_of(raw, {(3, 5): 301, (4, 0): 60000}),
            "token ids: expected less than the tokenizer's 301, found 2 beyond, the first 301 in row 3, position 5",
        ),
        (
            lambda raw: _tokens_of(raw, {(2, 31): 300}),
            "token ids: expected none with the mask token's id 300, found 1, the first in row 2, position 31",
        ),
        (lambda raw: struct.pack_into("<I", raw, 0, 3), "rows: expected "),
        (lambda raw: struct.pack_into("<I", raw, 8, 2**31), "offsets of rows: expected ascending from "),
        (lambda raw: struct.pack_into("<I", raw, 4, 9), "offsets of rows: expected ascending from "),
        (lambda raw: _move_offset(raw, 1, 2), "bytes of each row: expected 64, found 66 in row 0 and 1 more"),
        (lambda raw: raw.extend(b"xx"), "offsets of rows: expected ascending from "),
        (lambda raw: raw.__delitem__(slice(6, None)), "of offsets alone, for "),
    ],
)  # fmt: skip
def test_rows_that_are_wrong_but_hashed_are_found(rows_remote, rewrite_shard, change, expected):
    name = rewrite_shard(rows_remote / "train", 1, change)
    found = findings_of(rows_remote)
    assert [finding_file(rows_remote, each) for each in found] == [f"train/{name}"]
    assert expected in str(found[0])


def test_conversations_that_contradict_themselves_are_found(sft_remote, rewrite_shard, edit_json):
    def flags_of_two(raw: bytearray) -> None:
        start = struct.unpack_from("<I", raw, 4)[0] + 16
        assert raw[start] == 4 or raw[start] == 5  # one axis, its length in one or two bytes
        raw[start + 3 : start + 5] = b"\x02\x02"

    name = rewrite_shard(sft_remote / "train", 0, flags_of_two)
    (finding,) = findings_of(sft_remote)
    assert (finding_file(sft_remote, finding), finding.expected) == (
        f"train/{name}",
        "flags of an end or a long answer at scored tokens only",
    )
    edit_json(sft_remote / "validation" / "manifest.json", _add(["documents"], 1))
    edit_json(sft_remote / "validation" / "manifest.json", _add(["tokens"], 1))
    assert [each.what for each in findings_of(sft_remote)] == [
        "documents",  # in documents.json
        "rows of conversations",
        "documents",
        "tokens",
    ]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda path: path.unlink(), "none"),
        (lambda path: path.write_text('{"lengths": {"1": 1}, "hashes": "", "level": 0}'), "1"),
        (
            lambda path: path.write_text('{"lengths": {"1": 1}, "hashes": "AQAAAAAAAAA=", "level": 1}'),
            "not end in 1 zero",
        ),
        (lambda path: path.write_text("[]"), "documents.json is not readable (TypeError"),
    ],
)
def test_document_counts_that_are_wrong_are_found(rows_remote, change, found):
    change(rows_remote / "train" / "documents.json")
    (finding,) = findings_of(rows_remote)
    assert finding_file(rows_remote, finding) == "train/documents.json"
    assert found in finding.found
    assert finding.remedy.startswith(f"delete {rows_remote}/train/index.json and run the same preparation command")


def test_a_few_bytes_that_stand_for_gigabytes_are_not_unpacked(rows_remote, edit_json):
    name = shards_of(rows_remote / "train")[0]
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    assert len(bomb) < 1 << 15
    (rows_remote / "train" / name).write_bytes(bomb)
    edit_json(rows_remote / "train" / "index.json", _set(["shards", 0, "zip_data", "bytes"], len(bomb)))
    found = [each for each in findings_of(rows_remote) if each.what == "bytes after decompression"]
    assert [each.found for each in found] == ["more"]


def test_a_file_that_is_too_large_is_not_read(rows_remote):
    name = shards_of(rows_remote / "train")[0]
    with (rows_remote / "train" / name).open("r+b") as file:
        file.truncate(1 << 42)  # sparse: more than any memory
    (finding,) = findings_of(rows_remote)
    assert (finding_file(rows_remote, finding), finding.what, finding.found) == (
        f"train/{name}", "bytes", "4,398,046,511,104"
    )  # fmt: skip


def test_a_file_that_may_not_be_read_is_a_finding(rows_remote):
    name = shards_of(rows_remote / "train")[0]
    size = (rows_remote / "train" / name).stat().st_size
    (rows_remote / "train" / name).unlink()
    (rows_remote / "train" / name).symlink_to("/proc/self/mem")  # exists, but cannot be read
    (finding,) = findings_of(rows_remote)
    assert finding_file(rows_remote, finding) == f"train/{name}"
    assert finding.expected in {f"{size:,}", "a readable file"}


def test_another_tokenizer_is_found(rows_remote, streams_remote):
    path = rows_remote / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"</s>"', '"</t>"'))
    assert {each.what for each in findings_of(rows_remote)} == {"tokenizer"}  # without its EOS it cannot be loaded
    path.unlink()
    (finding,) = findings_of(rows_remote)
    assert "there is no tokenizer.json" in finding.found

    path = streams_remote / "web" / "tokenizer" / "tokenizer.json"
    values = json.loads(path.read_text())
    first, second = list(values["model"]["vocab"])[40:42]
    vocabulary = values["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(values))
    assert {each.what for each in findings_of(streams_remote)} == {"fingerprint"}


def test_a_data_set_that_was_interrupted_is_not_complete(rows_remote, streams_remote, capsys):
    (rows_remote / "train" / "index.json").unlink()
    assert main(["verify", f"remote={rows_remote}"]) == 1
    told = capsys.readouterr().out
    assert f"{rows_remote}/train/index.json: data set is not complete: expected an index, found none: run " in told
    assert "source=in" in told
    assert len(told.splitlines()) == 1
    shutil.rmtree(rows_remote / "train")
    shutil.rmtree(rows_remote / "validation")
    assert [each.what for each in findings_of(rows_remote)] == ["data set is not complete", "split is not complete"]
    shutil.rmtree(rows_remote / ".prep" / "tasks")
    assert [each.what for each in findings_of(rows_remote)] == ["data set is not complete"]
    (streams_remote / "books.v1" / "validation" / "index.json").unlink()
    (streams_remote / "web" / "train" / "index.json").unlink()
    assert [(finding_file(streams_remote, each), each.what) for each in findings_of(streams_remote)] == [
        ("books.v1/validation/index.json", "split is not complete"),
        ("web/train/index.json", "data set is not complete"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "remote={here}/nothing"], "remote={here}/nothing holds no data set"),
        (["stats", "remote={here}"], "remote={here} holds no data set"),
    ],
)
def test_a_place_without_data_is_one_line(arguments, message, tmp_path, capsys):
    assert main([each.format(here=tmp_path) for each in arguments]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert re.fullmatch("error: [^\n]*\n", written.err)
    assert message.format(here=tmp_path) in written.err


@pytest.mark.slow
def test_on_s3_as_in_a_folder(
    rows_remote, streams_remote, bucket, server, project_root, warm_python, quiet_environment, tmp_path
):
    for path in sorted(streams_remote.rglob("*")):
        if path.is_file() and path.name != "lock":
            bucket.upload_file(str(path), f"all/{path.relative_to(streams_remote)}")
    environment = quiet_environment | _KEYS | {"S3_ENDPOINT_URL": server, "PYTHONPATH": str(project_root)}
    environment.pop("AWS_ENDPOINT_URL", None)

    def run(*arguments):
        command = [warm_python, "-m", "meap", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    whole = run("verify", "remote=s3://corpus/all")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith("whole: 4 splits, ")
    shards = shards_of(rows_remote / "train")
    bucket.Object(f"all/web/train/{shards[0]}").delete()
    good = bucket.Object(f"all/books.v1/train/{shards[1]}").get()["Body"].read()
    bucket.Object(f"all/books.v1/train/{shards[1]}").put(Body=bytes(len(good)))
    broken = run("verify", "remote=s3://corpus/all", "workers=3")
    assert broken.returncode == 1
    assert f"s3://corpus/all/web/train/{shards[0]}: bytes: expected " in broken.stdout
    assert f"s3://corpus/all/books.v1/train/{shards[1]}: sha256: expected " in broken.stdout
    assert broken.stdout.count("/train/shard.") == len(broken.stdout.splitlines())
    stats = run("stats", "remote=s3://corpus/all/web/validation", "json=stats.json")
    assert stats.returncode == 0, stats.stderr
    assert json.loads((tmp_path / "stats.json").read_text())["splits"][0]["name"] == "validation"
    nothing = run("verify", "remote=s3://nobucket/all")
    assert nothing.returncode == 1
    assert nothing.stderr.count("\n") == 1
    environment["AWS_ACCESS_KEY_ID"] = environment["AWS_SECRET_ACCESS_KEY"] = ""
    del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"}
    denied = run("verify", "remote=s3://corpus/all")
    assert denied.returncode == 1
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in denied.stderr


@pytest.mark.slow
def test_an_output_that_is_not_read_to_its_end_is_no_error(rows_remote, project_root, quiet_environment):
    for path in rows_remote.glob("train/shard.*"):
        path.unlink()
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "meap", "verify", f"remote={rows_remote}"],
        env=quiet_environment | {"PYTHONPATH": str(project_root)},
        stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 1
    assert re.fullmatch("error: [^\n]* is not whole: [^\n]*\n", done.stderr)


def test_rows_are_as_a_reader_of_the_format_reads_them(rows_remote, read_rows):
    from meap.prep.audit.places import read_whole_manifest
    from meap.prep.audit.shard import read_shard
    from meap.prep.audit.statistics import shards_of as tasks_of

    (data,) = find_data_sets(str(rows_remote))
    tasks = tasks_of(data, "train", read_whole_manifest(data, "train"))
    assert (np.concatenate([read_shard(task) for task in tasks]) == read_rows(rows_remote / "train")).all()

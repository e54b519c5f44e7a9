"""Packed chunks of the official code become rows: every block in its place, the padding left out, nothing trusted."""

import hashlib
import importlib.util
import json
import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap.cli import main
from meap.config import LitpkdsPrepConfig, load_config
from meap.errors import BadInputError, ConfigError, DataError, MismatchError
from meap.manifest import Manifest
from meap.prep.inputs import find_inputs
from meap.prep.litpkds import PADDING, ReadChunks
from meap.prep.progress import Tally

# As the official code numbers them, spelled out a second time.
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float32": 6, "float64": 7, "uint16": 8}
BOS, EOS, MASK = 0, 1, 300
_KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


def chunk_bytes(tokens, *, dtype="uint16", magic=b"LITPKDS", version=1, code=None, size=None) -> bytes:
    header = magic + struct.pack("<Q", version) + struct.pack("<B", CODES[dtype] if code is None else code)
    header += struct.pack("<Q", len(tokens) if size is None else size)
    return header + np.array(tokens, dtype).tobytes()


def write_chunks(folder: Path, documents, *, chunk_size: int, prefix="c4_0", dtype="uint16") -> list[list[int]]:
    """What the builder does, a token at a time: documents run on from chunk to chunk, EOS fills the last."""
    chunks, current = [], []
    for document in documents:
        for token in document:
            if len(current) == chunk_size:
                chunks.append(current)
                current = []
            current.append(token)
    chunks.append(current + [EOS] * (chunk_size - len(current)))
    folder.mkdir(parents=True, exist_ok=True)
    for number, chunk in enumerate(chunks):
        (folder / f"{prefix}_{number:010d}.bin").write_bytes(chunk_bytes(chunk, dtype=dtype))
    return chunks


def make_documents(count: int, *, seed: int = 0, longest: int = 60) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[BOS, *random.integers(2, 300, random.integers(1, longest)).tolist(), EOS] for _ in range(count)]


def blocks_of(chunk: list[int], row_len: int) -> tuple[list[list[int]], int, int]:
    """Blocks as the official reader cuts them, those with padding left out; tokens dropped, tokens of padding."""
    end = len(chunk)
    while end and chunk[end - 1] == EOS:
        end -= 1
    content = min(len(chunk), end + 1) if end else 0
    blocks = [chunk[start : start + row_len] for start in range(0, len(chunk) // row_len * row_len, row_len)]
    kept = [block for number, block in enumerate(blocks) if (number + 1) * row_len <= content]
    return kept, content - len(kept) * row_len, len(chunk) - content


@pytest.fixture
def convert(prepare, project_root, tokenizer_dir):
    """Run the entry point's steps here, in tmp_path."""
    del prepare  # only its set-up is needed
    spec = importlib.util.spec_from_file_location("litpkds_to_mds", project_root / "dataprep" / "litpkds_to_mds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*overrides: str) -> None:
        given_keys = ("workers=1", f"tokenizer.name={tokenizer_dir}", "remote=out", "seq_len=15", "shard_size=8kb")
        module.prepare(load_config(LitpkdsPrepConfig, None, [*given_keys, *overrides]))

    return run


@pytest.fixture(scope="session")
def command_path(project_root):
    return project_root / "dataprep" / "litpkds_to_mds.py"


def manifest_of(split_dir: Path) -> Manifest:
    return Manifest.from_json((split_dir / "manifest.json").read_text(), origin="test")


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64"])
def test_every_block_is_a_row(convert, tmp_path, read_rows, dtype, capsys):
    chunks = [
        *write_chunks(tmp_path / "in", make_documents(150), chunk_size=16 * 40, dtype=dtype),
        *write_chunks(tmp_path / "in", make_documents(90, seed=1), chunk_size=16 * 40, prefix="c4_1", dtype=dtype),
    ]
    convert("source=in", "heldout_ratio=0", "tasks=3")
    kept, dropped, padding = zip(*(blocks_of(chunk, 16) for chunk in chunks), strict=True)
    expected = [block for blocks in kept for block in blocks]
    assert padding[-1] > 1, "the last chunk is padded"
    rows = read_rows(tmp_path / "out" / "train")
    assert rows.dtype == np.uint16
    assert rows.tolist() == expected
    manifest = manifest_of(tmp_path / "out" / "train")
    assert manifest.dropped_tail_tokens == sum(dropped)
    assert manifest.counts == {PADDING: sum(padding)}
    assert manifest.documents == sum(token == EOS for block in expected for token in block)
    assert manifest.tokens == 16 * len(expected) + sum(dropped) == sum(map(len, chunks)) - sum(padding)
    assert main(["verify", "remote=out"]) == 0
    assert main(["stats", "remote=out"]) == 0
    told = capsys.readouterr().out
    assert "bytes per token not known" in told
    assert "imported rows come without their text" in told


def test_held_out_are_whole_blocks_by_hash(convert, tmp_path, read_rows):
    chunks = write_chunks(tmp_path / "in", make_documents(400), chunk_size=1000)  # leaves 8 tokens over in each chunk
    convert("source=in/*.bin", "heldout_ratio=0.2", "seed=3")
    expected = [tuple(block) for chunk in chunks for block in blocks_of(chunk, 16)[0]]
    train, validation = (
        [tuple(row) for row in read_rows(tmp_path / "out" / split).tolist()] for split in ("train", "validation")
    )
    assert sorted(train + validation) == sorted(expected)
    order = {block: number for number, block in enumerate(expected)}
    for rows in (train, validation):
        assert [order[row] for row in rows] == sorted(order[row] for row in rows)
    assert 0.1 < len(validation) / len(expected) < 0.3
    assert main(["verify", "remote=out"]) == 0
    convert("source=in/*.bin", "heldout_ratio=0.2", "seed=3", "remote=again", "tasks=2")
    assert [tuple(row) for row in read_rows(tmp_path / "again" / "validation").tolist()] == validation


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_chunk_gives_its_blocks(data, tmp_path_factory, tokenizer):
    row_len = data.draw(st.integers(2, 9))
    chunk = data.draw(st.lists(st.sampled_from([BOS, EOS, EOS, EOS, 7, 8]), max_size=60))
    folder = tmp_path_factory.mktemp("chunk")
    (folder / "a.bin").write_bytes(chunk_bytes(chunk))
    tally = Tally(folder)
    step = ReadChunks(
        find_inputs(str(folder), suffixes=(".bin",)), tokenizer, tally, seq_len=row_len - 1, heldout_ratio=0, seed=0
    )
    rows = [row for batch in step.run() for row in batch.rows.tolist()]
    kept, dropped, padding = blocks_of(chunk, row_len)
    assert rows == kept
    assert (tally.tail_tokens.total(), tally.counts["train", PADDING]) == (dropped, padding)
    assert tally.tokens.total() == len(chunk) - padding


_TOKENS = [BOS, 5, 6, 7, EOS] * 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.bin is not a packed chunk: it begins with b'' at byte 0, not b'LITPKDS'"),
        (b"PK\x03\x04 something else", r"it begins with b'PK\\x03\\x04 so' at byte 0"),
        (chunk_bytes(_TOKENS, magic=b"LITPKDX"), r"it begins with b'LITPKDX' at byte 0"),
        (chunk_bytes(_TOKENS)[:20], r"a\.bin is truncated: 20 bytes, less than a header's 24"),
        (chunk_bytes(_TOKENS, version=2), r"a\.bin has version 2 at byte 7; only version 1 is known"),
        (chunk_bytes(_TOKENS, version=2**64 - 1), r"has version 18446744073709551615 at byte 7"),
        (
            chunk_bytes(_TOKENS, code=0),
            r"has dtype code 0 at byte 15, which is not known; tokens are integers \(1 uint8",
        ),
        (chunk_bytes(_TOKENS, code=9), r"has dtype code 9 at byte 15, which is not known"),
        (chunk_bytes(_TOKENS, dtype="float32"), r"has dtype code 6 at byte 15, float32; tokens are integers"),
        (
            chunk_bytes(_TOKENS)[:-3],
            r"is truncated: a chunk size of 50 uint16 tokens at byte 16 makes 124 bytes, but it has 121",
        ),
        (chunk_bytes(_TOKENS) + b"x", r"a\.bin is longer than its header says: .* makes 124 bytes, but it has 125"),
        (chunk_bytes(_TOKENS, size=2**64 - 1), r"is truncated: a chunk size of 18,446,744,073,709,551,615 uint16"),
        (chunk_bytes(_TOKENS, code=4), r"is truncated: a chunk size of 50 int32 tokens"),
        (
            chunk_bytes([*_TOKENS, 301, 7, 7]),
            r"a\.bin: token 50 \(byte 124\) is 301, but tokenizer '.*' has ids 0 to 299",
        ),
        (chunk_bytes([*_TOKENS, 7, -4, 7], dtype="int32"), r"a\.bin: token 51 \(byte 228\) is -4, but tokenizer"),
        (chunk_bytes([5, MASK, 6]), r"token 1 \(byte 26\) is 300, the id of the mask token '\[MASK\]'"),
    ],
)
def test_a_file_that_is_no_chunk_is_one_error(convert, tmp_path, content, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        convert("source=in")
    assert not (tmp_path / "out" / "train").exists()


@pytest.mark.slow
def test_chunks_of_another_tokenizer_are_noticed_where_they_can_be(convert, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(chunk_bytes(np.full(1 << 22, 7)))
    with pytest.raises(BadInputError, match=r"has read 4,194,304 tokens without one EOS \(id 1\): tokenizer"):
        convert("source=in")


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("source=null", ConfigError, "source is not set: say where the chunks are"),
        ("remote=null", ConfigError, "remote is not set: for source=in say where to write"),
        ("tokenizer.name=null", ConfigError, "tokenizer.name is not set: chunks do not say which tokenizer made them"),
        ("tasks=9", ConfigError, "tasks=9 is more than the 1 input files"),
        ("tasks=0", ConfigError, "tasks=0 is too small"),
        ("seq_len=1", ConfigError, "seq_len=1 is too small"),
        ("seed=-1", ConfigError, "seed=-1 is out of range"),
        ("progress_interval=0", ConfigError, "progress_interval=0.0 must be more than 0 seconds"),
        ("seq_len=63", DataError, "not a single row: 50 tokens in 1 tasks, and a row takes 64"),
        ("source=elsewhere/*.bin", DataError, r"matches no file .*: .* packed chunks \(.bin\) of the official code"),
    ],
)
def test_what_does_not_fit_is_one_error(convert, tmp_path, override, error, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bin").write_bytes(chunk_bytes(_TOKENS))
    with pytest.raises(error, match=message):
        convert("source=in", override)


def test_an_interrupted_import_continues_to_the_same_bytes(convert, tmp_path, hashes_of):
    write_chunks(tmp_path / "in", make_documents(300), chunk_size=16 * 100)
    whole = ("source=in", "tasks=3", "heldout_ratio=0.1")
    convert(*whole, "remote=expected")
    last = max((tmp_path / "in").iterdir())
    good = last.read_bytes()
    last.write_bytes(good[:30] + b"\xff\xff" + good[32:])  # a size and a name like before, so the same job
    with pytest.raises(BadInputError, match=r"token 3 \(byte 30\) is 65535"):
        convert(*whole)
    assert not (tmp_path / "out" / "train" / "index.json").exists()
    last.write_bytes(good)
    convert(*whole)
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")
    with pytest.raises(MismatchError, match="out holds another data set; seq_len=15 there, seq_len=31 here"):
        convert(*whole, "seq_len=31")


@pytest.mark.slow
def test_killed_at_any_point_it_continues_to_the_same_bytes(
    forked_commands, convert, tmp_path, tokenizer_dir, hashes_of, wait_until
):
    for number in range(4):
        documents = make_documents(900, seed=number)
        write_chunks(tmp_path / "in", documents, chunk_size=16 * 500, prefix=f"c4_{number}")
    arguments = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=15", "shard_size=8kb", "tasks=4", "workers=1")
    convert(*arguments, "remote=expected")
    out = tmp_path / "out"
    killed = 0

    def is_new(path: Path) -> bool:
        return path.stat().st_mtime_ns > started

    for pattern in (
        ".prep/job.json",
        "train/shard.*",
        ".prep/tasks/*.json",
        "train/shard.00003.*",
        ".prep/tasks/00002.json",
    ):
        started = time.time_ns() if "shard" in pattern else 0
        with forked_commands(*arguments, "remote=out") as group:
            wait_until(
                lambda pattern=pattern, group=group: any(map(is_new, out.glob(pattern))) or not is_running(group)
            )
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        killed += forked_commands.status == -signal.SIGKILL
        assert len(list(out.glob(".prep/tasks/*.json"))) == 4 or not list(out.glob("*/index.json"))
        if not list(out.glob("train/index.json")):
            assert main(["verify", "remote=out"]) == 1
    assert killed >= 2
    with forked_commands(*arguments, "remote=out"):
        pass
    assert forked_commands.status == 0
    assert hashes_of(out) == hashes_of(tmp_path / "expected")
    assert main(["verify", "remote=out"]) == 0


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_command_from_s3_to_s3_with_many_workers(
    run_command_line, convert, tmp_path, server, bucket, tokenizer_dir, tokenizer
):
    write_chunks(tmp_path / "in", make_documents(300), chunk_size=16 * 100)
    for path in sorted((tmp_path / "in").iterdir()):
        bucket.upload_file(str(path), f"lit/{path.name}")
    arguments = (f"tokenizer.name={tokenizer_dir}", "seq_len=15", "shard_size=8kb", "tasks=3", "heldout_ratio=0.1")
    convert("source=in", *arguments)
    done = run_command_line(
        "source=s3://corpus/lit", "remote=s3://corpus/mds", *arguments, "workers=2", **_KEYS, S3_ENDPOINT_URL=server
    )
    assert done.returncode == 0, done.stderr
    stored = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix="mds/")}
    for path in (tmp_path / "out").rglob("*"):
        name = str(path.relative_to(tmp_path / "out"))
        if path.is_file() and not name.startswith(".prep") and path.name != "manifest.json":  # names the source
            assert hashlib.sha256(stored[f"mds/{name}"]).digest() == hashlib.sha256(path.read_bytes()).digest(), name
    manifest = json.loads(stored["mds/train/manifest.json"])
    assert manifest["tokenizer"]["fingerprint"] == tokenizer.fingerprint
    assert manifest["sources"][0] == "s3://corpus/lit/c4_0_0000000000.bin"

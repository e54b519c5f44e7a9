"""Prepared data sets to look into, and ways to change them as damage or malice would."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import xxhash
import zstandard

from meap.show.progress import Display


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory) -> Callable[..., Path]:
    """Prepare a data set for the first test that wants it, and give every test a copy of its own."""
    kept: dict[str, Path] = {}

    def copy(name: str, make: Callable[[], Path], to: Path) -> Path:
        if name not in kept:
            kept[name] = shutil.copytree(make(), tmp_path_factory.mktemp("prepared") / name)
        return shutil.copytree(kept[name], to, dirs_exist_ok=True)

    return copy


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch) -> None:
    """What stderr has does not depend on how long it takes."""
    monkeypatch.setattr("meap.prep.audit.workers.Display", partial(Display, interval=600.0))


@pytest.fixture
def rows_remote(prepared_once, make_rows, tmp_path) -> Path:
    """Two tasks, several shards each, of texts of which some are there twice."""
    return prepared_once("rows", make_rows, tmp_path / "out")


@pytest.fixture
def sft_remote(prepared_once, make_conversations, tmp_path) -> Path:
    """Conversations in several shards."""
    return prepared_once("sft", make_conversations, tmp_path / "sft")


@pytest.fixture
def make_rows(prepare, tmp_path, tokenizer_dir, make_texts, write_lines) -> Callable[[], Path]:
    def make() -> Path:
        for number in range(2):
            write_lines(tmp_path / "in" / f"{number}.json.gz", [*make_texts(120, seed=number), *make_texts(20, seed=9)])
        sizes = ("seq_len=31", "shard_size=8kb", "heldout_ratio=0.05", "tasks=2")
        prepare("source=in", f"tokenizer.name={tokenizer_dir}", *sizes, "remote=made_rows")
        return tmp_path / "made_rows"

    return make


@pytest.fixture
def make_conversations(prepare_sft, tmp_path, make_texts) -> Callable[[], Path]:
    def make() -> Path:
        records = [
            {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}]}
            for text in make_texts(150, words=30)
        ]
        (tmp_path / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        sizes = ("max_length=255", "shard_size=16kb", "heldout_ratio=0.05", "min_answer_tokens=20")
        prepare_sft("source=chats.jsonl", *sizes, "remote=made_sft")
        return tmp_path / "made_sft"

    return make


@pytest.fixture
def streams_remote(rows_remote, tmp_path) -> Path:
    """Two data sets side by side."""
    for name in ("books.v1", "web"):
        shutil.copytree(rows_remote, tmp_path / "streams" / name)
    return tmp_path / "streams"


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., None]:
    """Change what a JSON file holds."""

    def edit(path: Path, change: Callable[[dict], object]) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return edit


@pytest.fixture(scope="session")
def rewrite_shard(edit_json) -> Callable[..., str]:
    """Change a shard's raw bytes, and every size and hash of it with them: what only a look inside can find."""

    def rewrite(split_dir: Path, number: int, change: Callable[[bytearray], object]) -> str:
        shard = json.loads((split_dir / "index.json").read_text())["shards"][number]
        name = shard["zip_data"]["basename"]
        raw = bytearray(zstandard.ZstdDecompressor().decompress((split_dir / name).read_bytes()))
        change(raw)
        stored = zstandard.ZstdCompressor().compress(bytes(raw))
        (split_dir / name).write_bytes(stored)

        def set_index(values: dict) -> None:
            for key, content in (("raw_data", bytes(raw)), ("zip_data", stored)):
                values["shards"][number][key]["bytes"] = len(content)
                values["shards"][number][key]["hashes"] = {"xxh3_64": xxhash.xxh3_64(content).hexdigest()}

        def set_manifest(values: dict) -> None:
            (record,) = [each for each in values["shards"] if each["basename"] == name]
            record |= {"bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}

        edit_json(split_dir / "index.json", set_index)
        edit_json(split_dir / "manifest.json", set_manifest)
        return name

    return rewrite

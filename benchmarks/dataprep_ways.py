"""The ways that `dataprep.py` compares, each run as ``python dataprep_ways.py WAY TEXT TOKENIZER CORE``.

A way loads its packages, times its work and returns (seconds, tokens); its result is one line of JSON. The peers work
as in their projects: one document at a time, on the same input and with the same tokenizer.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

SEQ_LEN = 4096
BATCH = 512
CHUNK_ROWS = 1024
SHARD_SIZE = "16mb"
"""Small, so that a corpus of some 50 MB fills several shards and memory reaches its long-run level."""
Result = tuple[float, int]


def ours(text: Path, tokenizer: str, out: Path, engine: str = "auto") -> Result:
    """The steps of dataprep/c4_to_mds.py."""
    import runpy

    from meap.config import PrepConfig, load_config
    from meap.prep.executors.local import LocalExecutor

    prepare = runpy.run_path(str(Path(__file__).parent.parent / "dataprep" / "c4_to_mds.py"))["prepare"]
    keys = [
        f"tokenizer.name={tokenizer}",
        "workers=1",
        "tasks=1",
        f"engine={engine}",
        "heldout_ratio=0.001",
        f"shard_size={SHARD_SIZE}",
    ]
    began: list[float] = []
    run = LocalExecutor.run

    def timed(executor: Any) -> None:
        began.append(time.process_time())
        run(executor)

    setattr(LocalExecutor, "run", timed)  # noqa: B010 (the clock starts once the tokenizer is loaded, as for the others)
    prepare(load_config(PrepConfig, None, [*keys, f"source={text}", f"remote={out}"]))
    seconds = time.process_time() - began[0]
    manifest = json.loads((out / "train" / "manifest.json").read_text())
    return seconds, manifest["tokens"]


def ours_without_table(text: Path, tokenizer: str, out: Path) -> Result:
    """The same, with ids from fastokens alone, as for tokenizers without a word table."""
    from meap.prep.encoding import encoder

    setattr(encoder, "find_cuts", lambda _: None)  # noqa: B010
    return ours(text, tokenizer, out)


def ours_by_tokenizers(text: Path, tokenizer: str, out: Path) -> Result:
    """The same, with ids from tokenizers' encode_batch_fast."""
    return ours(text, tokenizer, out, engine="tokenizers")


def ours_twice(text: Path, tokenizer: str, out: Path) -> Result:
    """The same on two copies of the text in one task, time per copy: does memory grow with the corpus?"""
    copies = out / "copies"
    copies.mkdir()
    for number in range(2):
        (copies / f"{number}.json.gz").symlink_to(text)
    seconds, tokens = ours(copies, tokenizer, out / "mds")
    return seconds / 2, tokens // 2


def official_loop(text: Path, tokenizer: str, out: Path) -> Result:
    """As the official prepare_c4.py: encode each document by transformers, fill chunks of 1,024 rows, write them."""
    fast = _transformers(tokenizer)
    chunk, filled, tokens = np.zeros(CHUNK_ROWS * (SEQ_LEN + 1), np.uint16), 0, 0
    began = time.process_time()
    with gzip.open(text, "rt", encoding="utf-8") as lines:
        for line in lines:
            ids = np.array([*fast.encode(json.loads(line)["text"]), fast.eos_token_id], np.uint16)
            tokens += len(ids)
            while len(ids):
                taken = ids[: len(chunk) - filled]
                chunk[filled : filled + len(taken)] = taken
                filled, ids = filled + len(taken), ids[len(taken) :]
                if filled == len(chunk):
                    (out / f"{tokens}.bin").write_bytes(chunk.tobytes())
                    filled = 0
    (out / "last.bin").write_bytes(chunk.tobytes())
    return time.process_time() - began, tokens


def document_tokenizer(text: Path, tokenizer: str, out: Path) -> Result:
    """Datatrove's own reader and tokenizer, at its defaults."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    step = DocumentTokenizer(
        str(out / "tokens"),
        tokenizer_name_or_path=f"{tokenizer}/tokenizer.json",
        eos_token=_special_tokens(tokenizer)["eos_token"],
        local_working_dir=str(out / "work"),
    )
    reader = JsonlReader(str(text.parent), glob_pattern=text.name)
    _ = step.tokenizer  # load it
    executor = LocalPipelineExecutor([reader, step], tasks=1, workers=1, logging_dir=str(out / "logs"))
    began = time.process_time()
    executor.run()
    seconds = time.process_time() - began
    size = sum(file.stat().st_size for file in (out / "tokens").glob("*.ds"))
    return seconds, size // (2 if step.token_size == 2 else 4)


def mds_writer_loop(text: Path, tokenizer: str, out: Path) -> Result:
    """As llm-foundry's ConcatTokensDataset: encode each document, cut rows off a list, write each with MDSWriter."""
    from streaming import MDSWriter
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(f"{tokenizer}/tokenizer.json").encode
    special = _special_tokens(tokenizer)
    ids_of = Tokenizer.from_file(f"{tokenizer}/tokenizer.json").token_to_id
    bos, eos = [ids_of(special["bos_token"])], [ids_of(special["eos_token"])]
    buffer: list[Any] = []
    tokens = 0
    began = time.process_time()
    columns = {"tokens": f"ndarray:uint16:{SEQ_LEN + 1}"}
    with MDSWriter(
        out=str(out / "mds"), columns=columns, compression="zstd", hashes=["xxh3_64"], size_limit=SHARD_SIZE
    ) as writer:
        for line in _lines(text):
            ids = encode(json.loads(line)["text"], add_special_tokens=False).ids
            buffer += bos + ids + eos
            tokens += len(ids) + 2
            while len(buffer) > SEQ_LEN:
                row, buffer = buffer[: SEQ_LEN + 1], buffer[SEQ_LEN + 1 :]
                writer.write({"tokens": np.array(row, np.uint16)})
    return time.process_time() - began, tokens


def engine_alone(text: Path, tokenizer: str, _: Path) -> Result:
    """Fastokens on all documents, flat arrays, nothing kept."""
    from meap.prep.encoding.engines import FastokensEngine

    return _encode_all(text, FastokensEngine(_definition(tokenizer)).encode)


def tokenizers_alone(text: Path, tokenizer: str, _: Path) -> Result:
    """encode_batch_fast on all documents."""
    from meap.prep.encoding.engines import TokenizersEngine

    return _encode_all(text, TokenizersEngine(_definition(tokenizer)).encode)


def encoder_alone(text: Path, tokenizer: str, _: Path) -> Result:
    """What our pipeline encodes with."""
    from meap.config import TokenizerConfig
    from meap.prep.encoding import build_encoder
    from meap.tokenizer import load_tokenizer

    encoder = build_encoder(load_tokenizer(TokenizerConfig(name=tokenizer)))
    return _encode_all(text, lambda texts: encoder.encode(texts, [each.encode() for each in texts]))


def gunzip_stdlib(text: Path, _tokenizer: str, _: Path) -> Result:
    """Lines of the compressed file, by Python's gzip."""
    began = time.process_time()
    for _line in _lines(text):
        pass
    return time.process_time() - began, 0


def gunzip(text: Path, _tokenizer: str, _: Path) -> Result:
    """Lines of the compressed file, as we read them."""
    from meap.prep.decompression import decompressed

    began = time.process_time()
    with text.open("rb") as raw:
        for _line in decompressed(raw, text.name):
            pass
    return time.process_time() - began, 0


def parse(text: Path, _tokenizer: str, _: Path) -> Result:
    """Orjson on every line."""
    import orjson

    lines = gzip.decompress(text.read_bytes()).splitlines()
    began = time.process_time()
    for line in lines:
        orjson.loads(line)["text"]
    return time.process_time() - began, 0


def write(text: Path, tokenizer: str, out: Path) -> Result:
    """Pack, shard, compress and hash precomputed ids."""
    from meap.mds.writing import MdsWriter
    from meap.packing import RowPacker

    documents = _ids(text, tokenizer)
    began = time.process_time()
    packer = RowPacker(SEQ_LEN + 1, borders=(0, 1), dtype=np.dtype(np.uint16))
    writer = MdsWriter({"tokens": f"ndarray:uint16:{SEQ_LEN + 1}"}, compression="zstd:3", shard_bytes=16 << 20)
    for start in range(0, len(documents), BATCH):
        for shard in writer.add_rows(packer.pack(documents[start : start + BATCH])):
            (out / "shard").write_bytes(shard.to_file("shard.00000.mds").content)
    for shard in writer.finish():
        (out / "last").write_bytes(shard.to_file("shard.00001.mds").content)
    return time.process_time() - began, sum(map(len, documents))


def write_by_mds_writer(text: Path, tokenizer: str, out: Path) -> Result:
    """The same by streaming.MDSWriter."""
    from streaming import MDSWriter

    from meap.packing import RowPacker

    documents = _ids(text, tokenizer)
    began = time.process_time()
    packer = RowPacker(SEQ_LEN + 1, borders=(0, 1), dtype=np.dtype(np.uint16))
    columns = {"tokens": f"ndarray:uint16:{SEQ_LEN + 1}"}
    with MDSWriter(
        out=str(out / "mds"), columns=columns, compression="zstd:3", hashes=["xxh3_64"], size_limit=SHARD_SIZE
    ) as writer:
        for start in range(0, len(documents), BATCH):
            for row in packer.pack(documents[start : start + BATCH]):
                writer.write({"tokens": row})
    return time.process_time() - began, sum(map(len, documents))


OURS = "ours"
WITHOUT_TABLE = "ours, without the word table"
WHOLE: dict[str, Callable[[Path, str, Path], Result]] = {
    OURS: ours,
    WITHOUT_TABLE: ours_without_table,
    "ours, twice the text": ours_twice,
    "ours, ids by tokenizers": ours_by_tokenizers,
    "official loop": official_loop,
    "DocumentTokenizer": document_tokenizer,
    "MDSWriter loop": mds_writer_loop,
}
FLOORS: dict[str, Callable[[Path, str, Path], Result]] = {
    "floor: engine alone (fastokens)": engine_alone,
    "floor: our encoder alone": encoder_alone,
    "floor: tokenizers.encode_batch_fast alone": tokenizers_alone,
    "floor: gunzip (isal, as ours)": gunzip,
    "floor: gunzip (Python's gzip)": gunzip_stdlib,
    "floor: JSON (orjson)": parse,
    "floor: pack, zstd, hash, write (as ours)": write,
    "floor: the same by MDSWriter": write_by_mds_writer,
}


def write_text(source: str, folder: Path, megabytes: float) -> Path:
    """The first documents of files of JSON lines, as one gzip file in C4's format.

    Raises:
        SystemExit: There is no text.
    """
    path, size = folder / "text.json.gz", 0
    with gzip.open(path, "wb", compresslevel=6) as out:
        for file in sorted(glob(source)):  # noqa: PTH207 (a pattern as the user wrote it)
            for line in _lines(Path(file)):
                document = json.loads(line)["text"]
                size += len(document.encode())
                out.write(json.dumps({"text": document, "url": "https://example.org/"}).encode() + b"\n")
                if size >= megabytes * 1e6:
                    return path
    return path if size else sys.exit(f"{source} holds no text: give kind=path or glob of JSON lines")


def train_byte_level(text: Path, folder: Path) -> str:
    """A 32k byte-level BPE with GPT-2's split, trained on a third of the text."""
    from itertools import islice

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(islice(_texts(text), 0, None, 3), trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return str(folder)


def _lines(file: Path) -> Iterator[bytes]:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        yield from lines


def _texts(text: Path) -> Iterator[str]:
    return (json.loads(line)["text"] for line in _lines(text))


def _encode_all(text: Path, encode: Callable[[list[str]], Any]) -> Result:
    texts = list(_texts(text))
    began = time.process_time()
    tokens = sum(len(encode(texts[start : start + BATCH]).ids) for start in range(0, len(texts), BATCH))
    return time.process_time() - began, tokens


def _ids(text: Path, tokenizer: str) -> list[Any]:
    from meap.prep.encoding.engines import FastokensEngine

    encoded = FastokensEngine(_definition(tokenizer)).encode(list(_texts(text)))
    return np.split(encoded.ids.astype(np.uint16), encoded.offsets[1:-1])


def _definition(tokenizer: str) -> str:
    return (Path(tokenizer) / "tokenizer.json").read_text(encoding="utf-8")


def _special_tokens(tokenizer: str) -> dict[str, str]:
    config = json.loads((Path(tokenizer) / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokens = {key: config[key] for key in ("bos_token", "eos_token")}
    return {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items()}


def _transformers(tokenizer: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=f"{tokenizer}/tokenizer.json", **_special_tokens(tokenizer))


def main(way: str, text: Path, tokenizer: str, core: int) -> None:
    """Run one way and print its result."""
    os.sched_setaffinity(0, {core})
    megabytes = sum(len(each.encode()) for each in _texts(text)) / 1e6
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as out:
        seconds, tokens = (WHOLE | FLOORS)[way](text, tokenizer, Path(out))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": seconds, "tokens": tokens, "megabytes": megabytes, "peak_mb": peak}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))

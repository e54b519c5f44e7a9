"""Whether rows arrive from object storage as fast as eight GPUs train on them: S3 against a local folder.

    python benchmarks/s3_streaming.py                       # five minutes on two cores
    python benchmarks/s3_streaming.py shard_mb=1 latency_ms=200 workers=4

The loader of a training run, one rank of it, in a process of its own per measurement, reads one shuffled epoch: from a
local folder, and from moto's S3 server with an empty cache, with a full one, behind a proxy that delays every request
and connection, with a cache that holds a part of the data, and behind a proxy that answers a share of the requests with
503 or closes the connection. All variants are measured in turn, so that other load affects them alike. Prints rows and
tokens per second and the seconds to the first batch, as medians. moto is written in Python and shares the cores with
the loader, so S3's own figures are lower bounds.
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPETITIONS = 3
ROWS, SEQ_LEN, BATCH, VOCAB = 8_192, 4_096, 32, 32_001
CANONICAL_NODES, BLOCK = 2, 2_048
GPUS, GPU_TOKENS_PER_SECOND = 8, 50_000
DEFAULTS = {
    "shard_mb": 2,
    "latency_ms": 50,
    "errors_percent": 1,
    "workers": 2,
    "predownload": 0,
    "repetitions": REPETITIONS,
}
BUCKET = "benchmark"
KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


def main(arguments: list[str]) -> int:
    """Measure all variants in turn and print."""
    settings = DEFAULTS | {key: int(value) for key, _, value in (each.partition("=") for each in arguments)}
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as name, store() as endpoint:
        folder = Path(name)
        write_rows(folder / "mds", settings["shard_mb"] << 20)
        upload(folder / "mds", endpoint)
        milliseconds, percent = settings["latency_ms"], settings["errors_percent"]
        with proxy(endpoint, milliseconds) as far, proxy(endpoint, milliseconds, percent) as faulty:
            measured = measure_all(folder, settings, endpoint, far, faulty)
    needed = GPUS * GPU_TOKENS_PER_SECOND / SEQ_LEN
    print(
        f"{ROWS:,} rows of {SEQ_LEN:,} tokens in shards of {settings['shard_mb']} MB, batches of {BATCH}, "
        f"{settings['workers']} loader workers, predownload {settings['predownload'] or 'unset'}\n"
        f"{GPUS} GPUs at {GPU_TOKENS_PER_SECOND:,} tokens/s read {needed:.0f} rows/s, {needed / GPUS:.0f} of them by "
        "one rank\n"
    )
    local = statistics.median(rows for rows, _ in measured["local folder"])
    for variant, figures in measured.items():
        rows, first = (statistics.median(column) for column in zip(*figures, strict=True))
        print(
            f"{variant:<38}{rows:>8,.0f} rows/s {rows * SEQ_LEN / 1e6:>6.2f} M tokens/s   {rows / local:.2f} of local"
            f"   {rows * GPUS / needed:>5.0f} x a rank's need   first batch {first:.2f} s"
        )
    without, with_errors = (
        statistics.median(rows for rows, _ in figures)
        for variant, figures in measured.items()
        if variant.endswith(("away, empty cache", "requests fail"))
    )
    print(f"\nwith {settings['errors_percent']} % of the requests failing: {with_errors / without:.2f} of without")
    return 0


def measure_all(
    folder: Path, settings: dict[str, int], endpoint: str, far: str, faulty: str
) -> dict[str, list[tuple[float, float]]]:
    """Rows per second and seconds to the first batch, per variant."""
    cold, late = "S3, empty cache", f"S3 {settings['latency_ms']} ms away"
    variants: dict[str, dict[str, Any]] = {
        "local folder": {"remote": str(folder / "mds")},
        cold: {"remote": f"s3://{BUCKET}/mds"},
        "S3, full cache": {"remote": f"s3://{BUCKET}/mds", "keep_cache": True},
        f"{late}, empty cache": {"remote": f"s3://{BUCKET}/mds", "endpoint": far},
        f"{late}, {settings['errors_percent']} % of requests fail": {
            "remote": f"s3://{BUCKET}/mds",
            "endpoint": faulty,
        },
        f"{late}, bounded cache": {
            "remote": f"s3://{BUCKET}/mds",
            "endpoint": far,
            "cache_limit": f"{30 * settings['shard_mb']}mb",
            "predownload": 4,
        },
    }
    measured: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
    cache = folder / "cache"
    for _ in range(settings["repetitions"]):
        for variant, options in variants.items():
            if not options.get("keep_cache"):
                shutil.rmtree(cache, ignore_errors=True)
            address = options.get("endpoint", endpoint)
            finished = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, "measure", json.dumps(settings | options), str(cache)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | KEYS | {"S3_ENDPOINT_URL": address, "AWS_ENDPOINT_URL": address},
            )
            measured[variant].append(tuple(json.loads(finished.stdout)))
    return measured


def measure(options: dict[str, Any], cache: Path) -> tuple[float, float]:
    """Read one epoch; returns rows per second, and seconds to the first batch."""
    from meap.config import DataConfig
    from meap.data import Shards, build_loader
    from meap.data.shards import StreamShards
    from meap.manifest import Manifest, TokenizerRecord
    from meap.masking import MaskRule

    tokenizer = TokenizerRecord("benchmark", "", VOCAB - 1, 1, 2, VOCAB - 1)
    counts = {"documents": ROWS, "tokens": ROWS * (SEQ_LEN + 1), "rows": ROWS, "dropped_tail_tokens": 0, "bad_lines": 0}
    rest: dict[str, Any] = {"shards": (), "sources": (), "config": {}, "versions": {}}
    manifest = Manifest("train", SEQ_LEN, "uint16", "xxh3_64", tokenizer=tokenizer, **counts, **rest)
    data = DataConfig(
        remote=options["remote"],
        seq_len=SEQ_LEN,
        num_canonical_nodes=CANONICAL_NODES,
        shuffle_block_size=BLOCK,
        num_workers=options["workers"],
        predownload=options["predownload"] or None,
        cache_limit=options.get("cache_limit"),
    )
    loader = build_loader(
        data,
        Shards("train", (StreamShards(None, data.remote, None, manifest),)),
        rule=MaskRule(mask_id=VOCAB - 1, ratio=0.15, seed=0),
        seed=0,
        global_batch_size=BATCH,
        world_size=1,
        cache_dir=cache,
        shuffle=True,
    )
    start = time.perf_counter()
    first, rows = 0.0, 0
    for batch in loader:
        first = first or time.perf_counter() - start
        rows += len(batch["sample_id"])
    return rows / (time.perf_counter() - start), first


def write_rows(folder: Path, shard_bytes: int) -> None:
    """Shards of random tokens."""
    import numpy as np
    from streaming import MDSWriter

    from meap.schema import TOKENS_COLUMN, mds_columns

    generator = np.random.default_rng(0)
    columns = mds_columns(SEQ_LEN, VOCAB)
    out = str(folder / "train")
    with MDSWriter(out=out, columns=columns, compression="zstd", hashes=["xxh3_64"], size_limit=shard_bytes) as writer:
        for _ in range(ROWS):
            writer.write({TOKENS_COLUMN: generator.integers(3, VOCAB - 1, SEQ_LEN + 1).astype(np.uint16)})


def upload(folder: Path, endpoint: str) -> None:
    """Put the data set into the store."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"mds/{path.relative_to(folder)}")


@contextmanager
def store() -> Iterator[str]:
    """An S3 server of moto's, in a process of its own."""
    with served("store") as address:
        yield address


@contextmanager
def proxy(endpoint: str, milliseconds: int, errors_percent: int = 0) -> Iterator[str]:
    """A proxy before `endpoint` that holds back each connection and each request, and lets some fail."""
    with served("proxy", endpoint.rpartition(":")[2], str(milliseconds), str(errors_percent)) as address:
        yield address


@contextmanager
def served(*command: str) -> Iterator[str]:
    """Run this file as a server; it prints its port and stops at the end of its input."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # moto prints each request
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.stdin.close()
        process.wait()


def serve_store() -> None:
    """Serve an empty S3 store until the input ends."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    server.stop()


async def serve_proxy(port: int, seconds: float, error_ratio: float) -> None:
    """Forward bytes to `port`, those of clients later, until the input ends; some requests fail, by a fixed seed."""
    generator = random.Random(0)  # noqa: S311

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while content := await reader.read(1 << 16):
                writer.write(content)
                await writer.drain()
        writer.close()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while content := await reader.read(1 << 16):
                await asyncio.sleep(seconds)
                # One request at a time and without a body: each is one piece.
                if content.startswith((b"GET", b"HEAD")) and generator.random() < error_ratio:
                    if generator.random() < 0.5:
                        client.close()
                        break
                    client.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
                    await client.drain()
                    continue
                writer.write(content)
                await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(ask(reader, upstream_writer, writer), answer(upstream_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure", options, cache]:
            print(json.dumps(measure(json.loads(options), Path(cache))))
        case ["store"]:
            serve_store()
        case ["proxy", port, milliseconds, *percent]:
            asyncio.run(serve_proxy(int(port), int(milliseconds) / 1000, sum(map(int, percent)) / 100))
        case arguments:
            sys.exit(main(arguments))

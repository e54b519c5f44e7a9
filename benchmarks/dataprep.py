"""Data preparation on one core: our whole pipeline against peers and against the floor of each stage, in one run.

    python benchmarks/dataprep.py prose='c4/c4-train.0000*.json.gz' --tokenizer path/to/llama2 --tokenizer byte-level
    python benchmarks/dataprep.py prose=a.jsonl.gz code=b.jsonl.gz --tokenizer path/to/llama2 --word-table

The text is real: JSON lines in C4's format, by kind; the first 50 MB of each kind are used (--megabytes). `byte-level`
stands for a 32k byte-level BPE with GPT-2's split, trained on a part of that text. Every way runs in a process of its
own, bound to one core and to one thread, in turn, three times (--repeat). Processor time is counted, from the end of
imports and of loading the tokenizer until the last file is closed. Medians are printed; ratios are those of each round.
With `--word-table` only the pipeline with and without that table runs. `dataprep_ways.py` has the ways.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataprep_ways import FLOORS, OURS, WHOLE, WITHOUT_TABLE, write_text

PEERS = ("official loop", "DocumentTokenizer", "MDSWriter loop")
RAW = "floor: engine alone (fastokens)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="kind=path or glob of JSON lines with a key text")
    parser.add_argument("--tokenizer", action="append", default=[], help="folder with a tokenizer.json, or byte-level")
    parser.add_argument(
        "--word-table", action="store_true", help="compare only the pipeline with and without the word table"
    )
    parser.add_argument(
        "--megabytes", type=float, default=50.0, help="most text of each kind, in millions of UTF-8 bytes"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    asked = parser.parse_args(arguments)
    print(f"{_processor()}, core {asked.core}, Python {platform.python_version()}, {platform.platform()}")
    ways = [OURS, WITHOUT_TABLE] if asked.word_table else [*WHOLE, *FLOORS]
    for source in asked.source:
        kind, _, pattern = source.partition("=")
        with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
            text = write_text(pattern, Path(folder), asked.megabytes)
            for name in asked.tokenizer or ["byte-level"]:
                tokenizer = _byte_level(text, Path(folder)) if name == "byte-level" else name
                _measure(f"{kind}, {name}", ways, text, tokenizer, asked.repeat, asked.core)
    return 0


def _measure(title: str, ways: Sequence[str], text: Path, tokenizer: str, repeat: int, core: int) -> None:
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(repeat):
        for way in ways if number % 2 == 0 else reversed(ways):
            print(f"  round {number + 1} of {repeat}: {way:<60}", end="\r", file=sys.stderr, flush=True)
            measured[way].append(_run(way, text, tokenizer, core))
    times = {
        way: statistics.median(one["seconds"] / own["seconds"] for one, own in zip(rounds, measured[OURS], strict=True))
        for way, rounds in measured.items()
    }
    print(f"\n{title}, {measured[OURS][0]['megabytes']:.1f} MB of text")
    for way, rounds in measured.items():
        each = {key: statistics.median(result[key] for result in rounds) for key in rounds[0]}
        speed = f"{each['megabytes'] / each['seconds']:9.1f} MB/s"
        tokens = f"{each['tokens'] / each['seconds'] / 1e6:8.2f} M tokens/s" if each["tokens"] else " " * 19
        memory = f"{each['peak_mb']:7,.0f} MB peak" if way in WHOLE else ""
        print(f"  {way:<44}{speed} {tokens}  ours / this {times[way]:6.2f}  {memory}", flush=True)
    if all(peer in times for peer in PEERS):
        slowest, fastest = (choose(times[peer] for peer in PEERS) for choose in (max, min))
        print(f"  => {fastest:.1f} to {slowest:.1f} times the peers, {times[RAW]:.2f} of the engine alone")


def _run(way: str, text: Path, tokenizer: str, core: int) -> dict[str, Any]:
    ways = Path(__file__).with_name("dataprep_ways.py")
    one_thread = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ways), way, str(text), tokenizer, str(core)],
        env=os.environ | one_thread,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{way} failed: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _byte_level(text: Path, folder: Path) -> str:
    from dataprep_ways import train_byte_level

    return train_byte_level(text, folder / "byte-level")


def _processor() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].partition(":")[2].strip() if models else platform.machine()


if __name__ == "__main__":
    sys.exit(main())

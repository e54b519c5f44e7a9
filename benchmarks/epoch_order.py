"""What the order of an epoch costs a node in time and memory: this project's dataset against streaming's own.

    python benchmarks/epoch_order.py [rows]     153,000,000 unless given: SlimPajama in rows of 4,096 tokens

Each is a process of its own that opens a data set of which only the index exists, and orders the first epoch for one
node, one rank and no loader workers. Prints processor time, wall time and the peak of resident memory (Linux) of both
steps, checks that both orders are equal, and prints ratios.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS, ROWS_PER_SHARD, SEQ_LEN, BATCH, CANONICAL_NODES = 153_000_000, 8_192, 4_096, 128, 24
KINDS = ("ours", "streaming")


def main(rows: int) -> int:
    """Measure both in turn and print."""
    measured = {}
    for kind in KINDS:
        command = [sys.executable, "-W", "ignore", __file__, kind, str(rows)]
        measured[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ours, theirs = (measured[kind] for kind in KINDS)
    print(f"{rows:,} rows\n")
    for figure in (figure for figure in ours if figure != "hash"):
        ratio = ours[figure] / theirs[figure] if theirs[figure] else float("nan")
        print(f"{figure:<24}ours {ours[figure]:>8.2f}   streaming {theirs[figure]:>8.2f}   ratio {ratio:.2f}")
    return int(ours["hash"] != theirs["hash"])


def measure(kind: str, rows: int) -> dict[str, Any]:
    """Open and order, in this process."""
    from streaming import StreamingDataset

    from meap.data.pinned.dataset import CheckedDataset

    make = CheckedDataset if kind == "ours" else StreamingDataset
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
        write_index(Path(folder, "remote"), rows)
        figures: dict[str, Any] = {}
        with watched("opening", figures):
            dataset: Any = make(
                remote=f"{folder}/remote",
                local=f"{folder}/local",
                batch_size=BATCH,
                num_canonical_nodes=CANONICAL_NODES,
                shuffle=True,
                shuffle_seed=17,
                shuffle_block_size=65_536,
            )
        dataset._unique_worker_world = dataset._parallel_worker_world = dataset._unique_rank_world.detect_workers()
        with watched("ordering", figures):
            order = dataset._get_work(0, 0)
        digest = hashlib.sha256()
        for start in range(0, len(order), 1 << 20):
            digest.update(order[start : start + (1 << 20)].astype("int64").tobytes())
        return figures | {"hash": digest.hexdigest()}


def write_index(folder: Path, rows: int) -> None:
    """The index of a data set whose shards do not exist."""
    rows = rows // (BATCH * CANONICAL_NODES) * BATCH * CANONICAL_NODES
    shards = []
    for number, first in enumerate(range(0, rows, ROWS_PER_SHARD)):
        samples = min(ROWS_PER_SHARD, rows - first)
        raw = {"basename": f"shard.{number:05}.mds", "bytes": samples * 2 * (SEQ_LEN + 1), "hashes": {}}
        columns = {"column_names": ["tokens"], "column_encodings": ["ndarray:uint16"], "column_sizes": [None]}
        shard = {"format": "mds", "version": 2, "samples": samples, "size_limit": 1 << 26, "compression": None}
        shards.append(shard | columns | {"hashes": [], "raw_data": raw, "zip_data": None})
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


class watched:  # noqa: N801 (a context manager)
    """Measures time and memory of its block."""

    def __init__(self, step: str, figures: dict[str, Any]) -> None:
        self._step, self._figures = step, figures

    def __enter__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = time.process_time(), time.monotonic(), resident("VmRSS")

    def __exit__(self, *_: object) -> None:
        processor, wall, memory = self._before
        self._figures[f"{self._step}, processor s"] = time.process_time() - processor
        self._figures[f"{self._step}, wall s"] = time.monotonic() - wall
        self._figures[f"{self._step}, peak GB"] = resident("VmHWM") - memory


def resident(name: str) -> float:
    """A line of /proc/self/status, in gigabytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in KINDS:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        sys.exit(main(int(float(sys.argv[1])) if sys.argv[1:] else ROWS))

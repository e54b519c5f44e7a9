"""What masking costs in memory: a loader worker of the masked dataset against one of a plain StreamingDataset.

    python benchmarks/loader_memory.py

Same shards, batches and collation; every measurement is a process of its own with two loader workers, which are read
from /proc after each batch (Linux). Prints the largest unique memory (pages that a worker shares with nobody) and the
peak resident memory, as medians over repetitions and as ratios. What masking costs in time: benchmarks/masking.py.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPETITIONS, WORKERS, EPOCHS = 5, 2, 2
ROWS, SEQ_LEN, BATCH, RATIO, VOCAB = 1_024, 4_096, 16, 0.15, 32_001
KINDS = ("masked", "plain")
FIGURES = {"unique": "MB unique per worker", "peak": "MB resident at peak per worker"}


def main() -> int:
    """Measure both datasets in turn and print."""
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
        write_rows(Path(folder))
        measured: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(REPETITIONS):
            for kind in KINDS:
                command = [sys.executable, "-W", "ignore", __file__, kind, folder]
                finished = subprocess.run(command, check=True, capture_output=True, text=True)
                measured[kind].append(json.loads(finished.stdout))
    print(f"{ROWS:,} rows of {SEQ_LEN:,} tokens, batches of {BATCH}, {WORKERS} loader workers, {EPOCHS} epochs\n")
    for figure, unit in FIGURES.items():
        masked, plain = (statistics.median(each[figure] for each in measured[kind]) for kind in KINDS)
        print(f"{unit:<32}masked {masked:>9.1f}   plain {plain:>9.1f}   masked / plain {masked / plain:.3f}")
    return 0


def write_rows(folder: Path) -> None:
    """Shards of random tokens."""
    import numpy as np
    from streaming import MDSWriter

    from meap.schema import TOKENS_COLUMN, mds_columns

    generator = np.random.default_rng(0)
    columns = mds_columns(SEQ_LEN, VOCAB)
    with MDSWriter(out=str(folder / "mds"), columns=columns, hashes=["xxh3_64"], size_limit=1 << 20) as writer:
        for _ in range(ROWS):
            writer.write({TOKENS_COLUMN: generator.integers(3, VOCAB - 1, SEQ_LEN + 1).astype(np.uint16)})


def measure(kind: str, folder: Path) -> dict[str, float]:
    """Iterate over the rows with loader workers, and look at them after each batch."""
    from torch.utils.data import DataLoader

    loader = DataLoader(make_dataset(kind, folder), batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)
    unique = 0.0
    for _ in range(EPOCHS):
        for _ in loader:
            unique = max(unique, *(unique_memory(pid) for pid in workers_of(loader)))
    peak = statistics.mean(read_kb(f"/proc/{pid}/status", "VmHWM") for pid in workers_of(loader))
    return {"unique": unique, "peak": peak}


def make_dataset(kind: str, folder: Path) -> Any:
    """The masked dataset, or the same samples without masks."""
    import numpy as np
    import torch
    from streaming import StreamingDataset

    from meap.data import StreamingMaskedDataset
    from meap.masking import MaskRule
    from meap.schema import TOKENS_COLUMN

    class PlainDataset(StreamingDataset):
        def get_item(self, sample_id: int, retry: int = 7) -> Any:
            row = super().get_item(sample_id, retry)[TOKENS_COLUMN].astype(np.int64)
            return {
                "input_ids": torch.from_numpy(row[:-1]),
                "labels": torch.from_numpy(row[1:]),
                "sample_id": torch.tensor(int(sample_id)),
            }

    arguments: dict[str, Any] = {
        "local": str(folder / "mds"),
        "shuffle": True,
        "batch_size": BATCH,
        "num_canonical_nodes": 1,
        "shuffle_seed": 17,
    }
    if kind == "plain":
        return PlainDataset(**arguments)
    rule = MaskRule(mask_id=VOCAB - 1, ratio=RATIO, seed=17)
    return StreamingMaskedDataset(rule=rule, labels="shifted", **arguments)


def workers_of(loader: Any) -> list[int]:
    """Process ids of a loader's workers."""
    return [worker.pid for worker in loader._iterator._workers]


def unique_memory(pid: int) -> float:
    """Megabytes of pages that no other process maps."""
    path = f"/proc/{pid}/smaps_rollup"
    return read_kb(path, "Private_Clean") + read_kb(path, "Private_Dirty")


def read_kb(path: str, name: str) -> float:
    """A line such as ``VmHWM: 123 kB``, in megabytes."""
    (line,) = [line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))

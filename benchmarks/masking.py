"""What masking costs, as ratios against named peers in the same process.

    python benchmarks/masking.py

Prints the time to choose the positions of a 4,096-token row (ours, numpy's `choice`, the official code's
`random.sample`), and the time per sample of the masked dataset against a plain StreamingDataset on the same shards with
the same collation. Medians of interleaved repetitions; one process, no loader workers.
"""

import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPETITIONS = 15
ROWS, SEQ_LEN, RATIO, VOCAB = 2_048, 4_096, 0.15, 32_001


def main() -> int:
    """Measure and print."""
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    report("positions of a 4,096-token row, ratio 0.15", choosing(), unit=1e6, unit_name="us")
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
        report("a sample, collated in batches of 16", loading(Path(folder)), unit=1e6, unit_name="us")
    return 0


def choosing() -> dict[str, Callable[[], int]]:
    """Ways to choose 614 of 4,095 positions; each returns how many rows it did."""
    import numpy as np

    from meap.masking import choose_masked, count_masked

    count, num_calls = count_masked(SEQ_LEN, RATIO), 200
    samples = np.arange(num_calls)

    def ours() -> int:
        for sample in samples:
            choose_masked(np.array([sample]), num_tokens=SEQ_LEN, ratio=RATIO, seed=17, epoch=0)
        return num_calls

    def numpy_choice() -> int:
        for sample in samples:
            generator = np.random.Generator(np.random.Philox(key=np.array([17, sample])))
            positions = generator.choice(SEQ_LEN - 1, count, replace=False, shuffle=False)
            np.zeros(SEQ_LEN, bool)[positions] = True
        return num_calls

    def official() -> int:
        for sample in range(num_calls):
            random.Random(sample).sample(range(SEQ_LEN - 1), count)  # noqa: S311
        return num_calls

    return {"ours": ours, "numpy Philox choice": numpy_choice, "random.sample (official code)": official}


def loading(folder: Path) -> dict[str, Callable[[], int]]:
    """Iterate over one epoch of the same shards; each returns how many samples it saw."""
    import numpy as np
    import torch
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    from meap.data import StreamingMaskedDataset
    from meap.masking import MaskRule
    from meap.schema import TOKENS_COLUMN, mds_columns

    generator = np.random.default_rng(0)
    with MDSWriter(out=str(folder / "mds"), columns=mds_columns(SEQ_LEN, VOCAB), hashes=["xxh3_64"]) as writer:
        for _ in range(ROWS):
            writer.write({TOKENS_COLUMN: generator.integers(3, VOCAB - 1, SEQ_LEN + 1).astype(np.uint16)})

    class PlainDataset(StreamingDataset):
        """The same samples without masks."""

        def get_item(self, sample_id: int, retry: int = 7) -> Any:
            row = super().get_item(sample_id, retry)[TOKENS_COLUMN].astype(np.int64)
            return {
                "input_ids": torch.from_numpy(row[:-1]),
                "labels": torch.from_numpy(row[1:]),
                "sample_id": torch.tensor(int(sample_id)),
            }

    common = {"shuffle": True, "batch_size": 16, "num_canonical_nodes": 1, "shuffle_seed": 17}
    rule = MaskRule(mask_id=VOCAB - 1, ratio=RATIO, seed=17)
    masked = StreamingMaskedDataset(rule=rule, labels="shifted", local=str(folder / "mds"), **common)
    plain = PlainDataset(local=str(folder / "mds"), **common)

    def iterate(dataset: Any) -> Callable[[], int]:
        loader = DataLoader(dataset, batch_size=16)
        return lambda: sum(len(batch["sample_id"]) for batch in loader)

    return {"masked dataset": iterate(masked), "plain StreamingDataset": iterate(plain)}


def report(title: str, ways: dict[str, Callable[[], int]], *, unit: float, unit_name: str) -> None:
    """Time all ways in turn and print medians and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(REPETITIONS + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            count = run()
            if repetition:  # the first warms up
                seconds[name].append((time.perf_counter() - started) / count)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    print(title)
    for name, median in medians.items():
        print(f"  {name:<32}{median * unit:>9.1f} {unit_name}   ours / this {first / median:.2f}")
    print()


if __name__ == "__main__":
    sys.exit(main())

"""What masking costs, as ratios against named peers in the same process.

    python benchmarks/masking.py

Prints the time to choose the positions of a 4,096-token row (ours, numpy's `choice`, the official code's
`random.sample`), and the time per sample of the masked dataset against a plain StreamingDataset on the same shards with
the same collation: rows of 4,096 and of 512 tokens, without a loader worker and with one. The ways take turns, an epoch
each, and processor time is counted, the worker's included, so that a busy machine changes little. Medians are printed,
and the median of each way's ratios to the last in the same turn.
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

import psutil

REPETITIONS = 11
SEQ_LEN, RATIO, VOCAB = 4_096, 0.15, 32_001
NUM_ROWS, BATCH = 1_024, 16
Way = Callable[[], int]
"""Does a turn's work, and returns how many rows that was."""


def main() -> int:
    """Measure and print."""
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    report("positions of a 4,096-token row, ratio 0.15", choosing())
    for seq_len in (4_096, 512):
        for num_workers in (0, 1):
            with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
                ways = loading(Path(folder), seq_len, num_workers)
                report(f"a sample of {seq_len:,} tokens, {num_workers} loader workers", ways)
    return 0


def choosing() -> dict[str, Way]:
    """Ways to choose 614 of 4,095 positions; each returns how many rows it did."""
    import numpy as np

    from meap.positions import choose_masked, count_masked

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


def loading(folder: Path, seq_len: int, num_workers: int) -> dict[str, Way]:
    """Iterate over one epoch of the same shards."""
    import numpy as np
    import torch
    from streaming import MDSWriter, StreamingDataset
    from torch.utils.data import DataLoader

    from meap.data import StreamingMaskedDataset
    from meap.masking import MaskRule
    from meap.schema import TOKENS_COLUMN, mds_columns

    generator = np.random.default_rng(0)
    with MDSWriter(out=str(folder / "mds"), columns=mds_columns(seq_len, VOCAB), hashes=["xxh3_64"]) as writer:
        for _ in range(NUM_ROWS):
            writer.write({TOKENS_COLUMN: generator.integers(3, VOCAB - 1, seq_len + 1).astype(np.uint16)})

    class PlainDataset(StreamingDataset):
        """The same samples without masks."""

        def get_item(self, sample_id: int, retry: int = 7) -> Any:
            row = super().get_item(sample_id, retry)[TOKENS_COLUMN].astype(np.int64)
            return {
                "input_ids": torch.from_numpy(row[:-1]),
                "labels": torch.from_numpy(row[1:]),
                "sample_id": torch.tensor(int(sample_id)),
            }

    common = {"shuffle": True, "batch_size": BATCH, "num_canonical_nodes": 1, "shuffle_seed": 17}

    def masked(**changed: Any) -> Any:
        rule = MaskRule(mask_id=VOCAB - 1, ratio=RATIO, seed=17, **changed)
        return StreamingMaskedDataset(rule=rule, labels="shifted", local=str(folder / "mds"), **common)

    def iterate(dataset: Any) -> Way:
        loader = DataLoader(dataset, batch_size=BATCH, num_workers=num_workers, persistent_workers=num_workers > 0)
        return lambda: sum(len(batch["sample_id"]) for batch in loader)

    datasets = {
        "masked": masked(),
        "masked, spans of 5": masked(span_length=5),
        "masked, BOS and EOS protected": masked(protected_ids=(1, 2)),
        "plain StreamingDataset": PlainDataset(local=str(folder / "mds"), **common),
    }
    return {name: iterate(dataset) for name, dataset in datasets.items()}


def report(title: str, ways: dict[str, Way]) -> None:
    """Let all ways take turns, and print the median of each and of its ratios to the last."""
    microseconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REPETITIONS + 1):
        for name, run in ways.items():
            started = processor_seconds()
            count = run()
            if turn:  # the first warms up
                microseconds[name].append((processor_seconds() - started) / count * 1e6)
    *_, peer = microseconds.values()
    print(title)
    for name, own in microseconds.items():
        ratio = statistics.median(one / other for one, other in zip(own, peer, strict=True))
        print(f"  {name:<32}{statistics.median(own):>9.1f} us   {ratio:.2f} of the last")
    print(flush=True)


def processor_seconds() -> float:
    """What this process and its loader workers have taken."""
    workers = [worker.cpu_times() for worker in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(times.user + times.system for times in workers)


if __name__ == "__main__":
    sys.exit(main())

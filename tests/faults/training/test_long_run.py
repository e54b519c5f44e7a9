"""Two epochs with a checkpoint every so often hold no more at their end than after their first fifth."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from meap.config import save_config
from tests.lengths import IS_THOROUGH

pytestmark = [pytest.mark.slow, pytest.mark.fault(12), pytest.mark.timeout(1800)]

STEPS = 20_000 if IS_THOROUGH else 600
BATCH, SEQ_LEN, KEEP, SAVES = 2, 16, 3, 40
INTERVAL = STEPS // SAVES


@pytest.fixture(scope="module")
def samples(small_config, write_shards, tmp_path_factory) -> list[dict[str, float]]:
    folder = tmp_path_factory.mktemp("long")
    data = write_shards(
        folder / "mds", rows=STEPS // 2 * BATCH, seq_len=SEQ_LEN, validation_rows=0, shard_rows=STEPS // 10
    )
    config = small_config(
        folder / "run",
        *(f"data.remote={data}", f"data.seq_len={SEQ_LEN}", "data.num_canonical_nodes=1", "model.num_hidden_layers=1"),
        *(f"train.max_duration={STEPS}ba", f"train.global_batch_size={BATCH}", f"train.microbatch_size={BATCH}"),
        *(f"train.log_interval={INTERVAL}ba", f"checkpoint.interval={INTERVAL}ba", f"checkpoint.keep={KEEP}"),
    )
    save_config(config, folder / "config.yaml")
    script, notes = Path(__file__).with_name("long_run.py"), folder / "notes.jsonl"
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(folder / "config.yaml"), str(notes), str(INTERVAL)],
        env=os.environ | {"PYTHONPATH": str(script.parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1700,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads(line) for line in notes.read_text().splitlines()]


def growth(samples: list[dict[str, float]], name: str) -> float:
    """From the fifth of the run after the first, to the last fifth; medians, so that one moment decides nothing."""
    fifth = len(samples) // 5
    early, late = (
        statistics.median(each[name] for each in part) for part in (samples[fifth : 2 * fifth], samples[-fifth:])
    )
    return late - early


def test_nothing_grows(samples, record_property, capsys):
    assert len(samples) == SAVES
    with capsys.disabled():
        ms, memory = statistics.median(each["ms"] for each in samples), growth(samples, "memory") / 1e6
        print(f"\nlong run: {STEPS} steps, {ms:.1f} ms each, memory {memory:+.2f} MB, {samples[-1]}", end="")
    assert growth(samples, "memory") < 4e6
    for name in ("files", "threads", "shared", "checkpoint_files"):
        assert growth(samples, name) <= 0, (name, [each[name] for each in samples])
    usual = statistics.median(each["disk"] for each in samples[len(samples) // 5 : 2 * len(samples) // 5])
    assert growth(samples, "disk") < 0.1 * usual
    # One more may be about to be written, or to go.
    assert max(each["disk"] for each in samples) < 1.1 * usual * (KEEP + 1) / KEEP
    # A checkpoint is two files. They share three files of the tokenizer, and the run's lock.
    assert max(each["checkpoint_files"] for each in samples) <= 2 * (KEEP + 1) + 4
    record_property("injected", STEPS)

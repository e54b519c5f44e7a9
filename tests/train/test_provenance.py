"""What a run's folder says about where the run comes from."""

import json
import subprocess
from pathlib import Path

from meap.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_start_stays_and_later_ones_are_added(train, tmp_path, remote):
    run_dir = tmp_path / "run"
    train(run_dir, "train.max_duration=4ba")
    versions = (run_dir / "versions.json").read_text()
    (run_dir / "versions.json").write_text(marked := versions.replace("{", '{"first": true, ', 1))
    train(run_dir, "train.max_duration=6ba", "train.eval_batches=1")

    assert (run_dir / "versions.json").read_text() == marked
    facts = json.loads(versions)
    assert facts["packages"]["mosaicml"] == "0.32.1"
    assert (facts["world_size"], facts["gpus"]) == (1, {})
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert facts["git_revision"] == done.stdout.strip()
        assert facts["git_dirty"] in {True, False}
    starts = [json.loads(line) for line in (run_dir / "starts.jsonl").read_text().splitlines()]
    assert [(start["from_step"], start["steps"]) for start in starts] == [(0, 4), (4, 6)]
    assert starts[0]["time"] <= starts[1]["time"]
    assert starts[0].items() >= facts.items()

    for split in ("train", "validation"):
        copy = (run_dir / "data" / split / "manifest.json").read_text()
        assert Manifest.from_json(copy, origin="copy") == Manifest.from_json(
            (remote / split / "manifest.json").read_text(), origin="data"
        )
    assert "step      6/6" in (run_dir / "log.txt").read_text()
    assert {path.name for path in run_dir.iterdir()} >= {"config.yaml", "metrics.jsonl", "checkpoints", "tensorboard"}

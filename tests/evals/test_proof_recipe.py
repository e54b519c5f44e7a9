"""The proof's entry point, whole and tiny: both arms of every seed are trained, exported, measured and compared."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = (
    "seeds=[1000,1001]",
    "out_dir=proof",
    "corpus.megabytes=0.6",
    "corpus.vocab_size=700",
    "training=train.yaml",
    "evaluation=eval.yaml",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("proof")
    (folder / "train.yaml").write_text(
        f"base: {project_root}/experiments/proof/train_cpu.yaml\ntrain:\n  max_duration: 4ba\n  log_interval: 2ba\n"
    )
    (folder / "eval.yaml").write_text(
        f"base: {project_root}/experiments/proof/eval_cpu.yaml\nperplexity:\n  rows: 4\n"
        "record_retrieval:\n  sentences: [0]\n  examples: 4\n"
        "attention_decay:\n  lengths: [32]\n  rows: 4\n"
    )
    return folder


@pytest.fixture
def prove(
    folder: Path, project_root: Path, warm_python: str, quiet_environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [warm_python, "-W", "ignore", project_root / "experiments/proof.py", *SETTINGS, *overrides],
            cwd=folder,
            env=quiet_environment | {"PYTHONPATH": str(project_root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )

    return run


def test_two_seeds_end_in_a_table_and_go_on_where_they_stopped(prove, folder):
    # A yaml that breaks one of the commands: what is done stays, and the error is the command's.
    training = (folder / "train.yaml").read_text()
    broken = prove("ratio=0.15", "corpus.vocab_size=300000")
    assert broken.returncode == 1
    assert "300000" in broken.stderr
    (folder / "proof" / "proof.yaml").unlink()

    done = prove()
    assert done.returncode == 0, done.stderr
    assert "4/4 runs" in done.stdout
    assert "retrieval, ranking" in done.stdout
    found = json.loads((folder / "proof" / "proof.json").read_text())
    assert found["arms"] == ["NTP", "MEAP"]
    assert found["seeds"] == [1000, 1001]
    for row in found["rows"]:
        assert [len(values) for values in row["values"]] == [2, 2]
        assert row["p"] in {0.5, 1.0}
    loss = next(row for row in found["rows"] if row["measure"]["name"] == "loss")
    assert len({*loss["values"][0], *loss["values"][1]}) == 4, "four models"
    assert (folder / "proof" / "proof.png").read_bytes().startswith(b"\x89PNG")

    configs = [(folder / "proof/runs" / name / "config.yaml").read_text() for name in ("ntp-1000", "meap-1000")]
    changed = [pair for pair in zip(*(text.splitlines() for text in configs), strict=True) if len(set(pair)) == 2]
    assert {line.split(":")[0].strip() for pair in changed for line in pair} <= {
        "name",
        "dir",
        "ratio",
        "folder",
        "out_dir",
    }

    weights = folder / "proof/runs/meap-1001/hf/model.safetensors"
    written = weights.stat().st_mtime_ns
    (folder / "proof" / "proof.json").unlink()
    again = prove("parallel=1")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "proof" / "proof.json").read_text()) == found
    assert weights.stat().st_mtime_ns == written

    (folder / "train.yaml").write_text(training.replace("4ba", "5ba"))
    other = prove()
    assert other.returncode == 2
    assert "holds a proof under other settings" in other.stderr

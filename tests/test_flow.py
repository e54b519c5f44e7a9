"""The whole flow by the four commands of the README, from raw text to an evaluated model, in an empty folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meap.report import __main__ as report

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(sys.executable).parent

YAML = f"""\
base: {ROOT}/yamls/tiny.yaml
run:
  name: flow
data:
  num_canonical_nodes: 4
train:
  max_duration: 12ba
  global_batch_size: 4
  microbatch_size: 4
  log_interval: 6ba
  eval_interval: 12ba
  eval_batches: 1
checkpoint:
  interval: 6ba
"""


@pytest.mark.slow
def test_raw_text_becomes_an_evaluated_model(tmp_path: Path, quiet_environment: dict[str, str]):
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus

    corpus = write_sample_corpus(tmp_path / "corpus", megabytes=0.4)
    train_sample_tokenizer(corpus, tmp_path / "tokenizer")
    (tmp_path / "flow.yaml").write_text(YAML)

    def run(program: str, script: str, *arguments: str) -> str:
        command = [str(PROGRAMS / program), str(ROOT / script), *arguments]
        finished = subprocess.run(
            command, cwd=tmp_path, env=quiet_environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        # What is said beside results is where preparation stands, and nothing that libraries have to say.
        assert not [line for line in finished.stderr.splitlines() if not re.match(r"[\d,]+ documents \|", line)]
        return finished.stdout

    run(
        "python",
        "dataprep/c4_to_mds.py",
        "source=corpus/*.json.gz",
        "tokenizer.name=tokenizer",
        "remote=data/sample/mds",
        "seq_len=256",
        "heldout_ratio=0.05",
    )
    assert "step     12/12" in run("composer", "recipes/meap_1b.py", "flow.yaml")
    run("python", "recipes/export_hf.py", "flow.yaml")
    assert json.loads((tmp_path / "runs/flow/hf/meap_export.json").read_text())["max_abs_diff"] < 1e-5
    run("python", "recipes/evaluate.py", f"{ROOT}/yamls/eval_small.yaml", "model=runs/flow/hf", "limit=8")
    tasks = json.loads((tmp_path / "runs/flow/eval/results.json").read_text())["tasks"]
    assert 1 < tasks["perplexity"]["perplexity"]["value"] < 2000
    assert tasks["key_retrieval"]["n"] == 8
    # The report knows what training and evaluation write by name only.
    assert (
        report.main([str(tmp_path / "runs/flow"), "--out", str(tmp_path / "a.html"), "--json", str(tmp_path / "a")])
        == 0
    )
    told = json.loads((tmp_path / "a").read_text())
    assert {"train_loss", "heldout_loss", "masked_loss", "mask_ratio", "learning_rate"} <= told["curves"].keys()
    assert told["evaluations"]
    assert told["settings"]["same"]["masking.ratio"] == 0.15
    assert told["runs"]["flow"]["notes"] == []

    # Nothing is done twice, and nothing was written outside the folder that the commands ran in.
    assert "already complete" in run(
        "python",
        "dataprep/c4_to_mds.py",
        "source=corpus/*.json.gz",
        "tokenizer.name=tokenizer",
        "remote=data/sample/mds",
        "seq_len=256",
        "heldout_ratio=0.05",
    )

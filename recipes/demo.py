"""The whole flow on a small sample, from raw text to an evaluated model: what `make demo` runs.

    python recipes/demo.py

Runs the four commands a user would run, shows what they print, and ends in a table. A stage whose command, yaml and
code have not changed since it finished is not run again.
"""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from meap.config import run_command
from meap.processes import leave

ROOT = Path(__file__).resolve().parent.parent
YAML = "yamls/tiny.yaml"
RUN_DIR = ROOT / "runs/tiny"
STATE = RUN_DIR / "demo.json"


@dataclass(frozen=True)
class Stage:
    """One command of the flow."""

    name: str
    command: tuple[str, ...]
    artefact: str
    """What it writes, relative to the project."""


STAGES = (
    Stage("prepare", ("python", "dataprep/c4_to_mds.py"), "data/sample/mds/train/index.json"),
    Stage("train", ("composer", "recipes/meap_1b.py", YAML), "runs/tiny/metrics.jsonl"),
    Stage("export", ("python", "recipes/export_hf.py", YAML), "runs/tiny/hf/model.safetensors"),
    Stage(
        "evaluate",
        ("python", "recipes/evaluate.py", "yamls/eval_small.yaml", "model=runs/tiny/hf"),
        "runs/tiny/eval/results.json",
    ),
)


@dataclass(frozen=True)
class DemoConfig:
    """No keys: the demo is what it is."""


def main(_: DemoConfig) -> None:
    """Run every stage that is not done, then print the table."""
    state = json.loads(STATE.read_text()) if STATE.is_file() else {}
    key = _code_fingerprint()
    rows = []
    for stage in STAGES:
        key = hashlib.sha256(f"{key} {stage.command}".encode()).hexdigest()
        done = state.get(stage.name, {})
        reused = done.get("key") == key and (ROOT / stage.artefact).exists()
        if not reused:
            seconds = _run(stage)
            state[stage.name] = done = {"key": key, "seconds": seconds}
            STATE.parent.mkdir(parents=True, exist_ok=True)
            STATE.write_text(json.dumps(state, indent=2))
        rows.append((stage, done["seconds"], reused))
    _print_table(rows)


def _run(stage: Stage) -> float:
    print(f"\n=== {stage.name}: {' '.join(stage.command)}", flush=True)
    from meap.errors import MeapError

    programs = Path(sys.executable).parent
    started = time.perf_counter()
    finished = subprocess.run([str(programs / stage.command[0]), *stage.command[1:]], cwd=ROOT, check=False)
    if finished.returncode:
        raise MeapError(f"`{' '.join(stage.command)}` ended with status {finished.returncode}, see above: run it alone")
    return time.perf_counter() - started


def _code_fingerprint() -> str:
    """Hash of everything the stages are made of, so that a changed project is not mistaken for a finished one."""
    digest = hashlib.sha256()
    for folder in ("meap", "dataprep", "recipes", "yamls"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".yaml", ".html", ".css", ".svg"}:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _print_table(rows: list[tuple[Stage, float, bool]]) -> None:
    from meap.show.tables import align

    spent = sum(seconds for _, seconds, reused in rows if not reused)
    table = [("stage", "seconds", "result", "artefact")]
    for stage, seconds, reused in rows:
        note = _SUMMARIES[stage.name]() + (" (reused)" if reused else "")
        table.append((stage.name, f"{seconds:.1f}", note, str(Path(stage.artefact).parent)))
    table.append(("total", f"{spent:.1f}", "spent in this call", ""))
    print("", *align(table, left=(0, 2, 3)), sep="\n")


def _summarise_preparation() -> str:
    manifest = json.loads((ROOT / "data/sample/mds/train/manifest.json").read_text())
    return f"{manifest['documents']:,} documents -> {manifest['tokens']:,} tokens -> {manifest['rows']:,} rows"


def _summarise_training() -> str:
    records = [json.loads(line) for line in (RUN_DIR / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss/train/total"] for record in records if "loss/train/total" in record]
    speeds = [each for each in (record.get("throughput/tokens_per_sec") for record in records) if each]
    speed = f", {sorted(speeds)[len(speeds) // 2]:,.0f} tokens/s" if speeds else ""
    return f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses):,} steps{speed}"


def _summarise_export() -> str:
    record = json.loads((RUN_DIR / "hf/meap_export.json").read_text())
    return f"largest difference of logits when loaded back: {record['max_abs_diff']:.1e}"


def _summarise_evaluation() -> str:
    tasks = json.loads((RUN_DIR / "eval/results.json").read_text())["tasks"]
    perplexity, ranking = tasks["perplexity"]["perplexity"], tasks["key_retrieval"]["metrics"]["ranking"]
    return (
        f"held-out perplexity {perplexity['value']:.1f}; key retrieval {ranking['value']:.0%} "
        f"(chance {ranking['chance']:.0%})"
    )


_SUMMARIES = {
    "prepare": _summarise_preparation,
    "train": _summarise_training,
    "export": _summarise_export,
    "evaluate": _summarise_evaluation,
}

if __name__ == "__main__":
    leave(run_command, DemoConfig, main, doc=__doc__, starts_bare=True)

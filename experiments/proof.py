"""Masked against plain training at small scale: the same rows, steps and tokens, several seeds, one table, one picture.

    python experiments/proof.py experiments/proof_cpu.yaml       # half an hour on two CPU cores
    python experiments/proof.py experiments/proof_gpu.yaml       # on a GPU

Generates records to look things up in, prepares them, and for every seed trains two models that differ in
masking.ratio alone, exports them, and measures retrieval, held-out loss and attention on what neither has seen. Writes
<out_dir>: proof.json, proof.png, and below it corpus, shards and every run. A proof that was stopped continues.

What it may say: how the two compare on this corpus, at this size and budget, over runs that differ in their seed. It
says nothing about other data or larger models. Settings were chosen on other seeds than those that are reported.
"""

import dataclasses
import json
import multiprocessing
import os
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meap.config import ProofConfig, run_command
from meap.processes import leave

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("NTP", "MEAP")
NUM_PASSAGES = 100

# Entry points run in processes of their own, forked from one that has imported what they need and done nothing else:
# imports take as long as hundreds of steps.
SERVER = multiprocessing.get_context("forkserver")
IMPORTED = ["datatrove.executor", "meap.train.trainer", "meap.evals.hugging_face"]
ENVIRONMENT = {
    # Runs share the machine: threads of each beyond its part of the cores only get in each other's way.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Who looks for GPUs while importing asks the driver's library, not CUDA, which does not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


@dataclass(frozen=True)
class Run:
    """One model: trained, exported, measured."""

    arm: str
    seed: int
    ratio: float
    dir: Path


def main(cfg: ProofConfig) -> None:
    """Corpus, shards, runs, table."""
    from meap.extras import require_packages

    # Each of the commands says by itself what it misses, but the last of them begins an hour after the first.
    require_packages("experiments/proof.py", "datatrove", extra="prep")
    require_packages("experiments/proof.py", "composer", "torch", extra="train")
    require_packages("experiments/proof.py", "scipy", "transformers", extra="eval")
    from meap.evals.proof import compare_arms, draw_arms, measure_run, table_of_arms
    from meap.places.whole import write_whole
    from meap.show.figures import save_panels
    from meap.show.progress import counting

    out_dir = Path(cfg.out_dir).absolute()
    os.environ |= ENVIRONMENT | os.environ
    SERVER.set_forkserver_preload(IMPORTED)
    _remember(cfg, out_dir)
    shards, passages = _prepare(cfg, out_dir)
    runs = [
        Run(arm, seed, ratio, out_dir / "runs" / f"{arm.lower()}-{seed}")
        for seed in cfg.seeds
        for arm, ratio in zip(ARMS, (0.0, cfg.ratio), strict=True)
    ]
    with ThreadPoolExecutor(cfg.parallel) as pool, counting("proof", unit="runs", interval=0) as progress:
        pending = [pool.submit(_train_and_measure, cfg, run, shards, passages) for run in runs]
        for done, each in enumerate(as_completed(pending), start=1):
            each.result()
            progress(done, len(runs))

    first, second = ([measure_run(run.dir / "eval") for run in runs if run.arm == arm] for arm in ARMS)
    rows = compare_arms(first, second)
    title = f"{len(cfg.seeds)} seeds, {cfg.ratio:.0%} masked, {Path(cfg.training).name}"
    save_panels([partial(draw_arms, row=row, arms=ARMS) for row in rows], out_dir / "proof.png", title=title)
    found = {"arms": ARMS, "seeds": cfg.seeds, "rows": [dataclasses.asdict(row) for row in rows]}
    write_whole(out_dir / "proof.json", json.dumps(found, indent=2) + "\n", several_writers=True)
    print("\n".join(["", title, *table_of_arms(ARMS, rows), "", f"written     {cfg.out_dir}"]))


def _remember(cfg: ProofConfig, out_dir: Path) -> None:
    """Keep the settings in the folder; what was begun under others is not continued."""
    from meap.config import to_yaml
    from meap.errors import ConfigError

    kept, asked = out_dir / "proof.yaml", to_yaml(dataclasses.replace(cfg, parallel=1))
    for path in (cfg.training, cfg.evaluation):
        asked += Path(path).read_text(encoding="utf-8")
    if kept.is_file() and kept.read_text(encoding="utf-8") != asked:
        raise ConfigError(
            f"{cfg.out_dir} holds a proof under other settings ({kept}): give another out_dir, or delete it"
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    kept.write_text(asked, encoding="utf-8")


def _prepare(cfg: ProofConfig, out_dir: Path) -> tuple[Path, Path]:
    """Corpus, vocabulary and shards, and passages to read attention on; returns where the latter two are."""
    from meap.config import RecipeConfig, load_config
    from meap.evals.passages import generate_record_passages, write_passages
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
    from meap.synthetic import generate_record

    corpus = write_sample_corpus(
        out_dir / "corpus", seed=cfg.corpus.seed, megabytes=cfg.corpus.megabytes, text_of=generate_record
    )
    tokenizer = train_sample_tokenizer(corpus, out_dir / "tokenizer", vocab_size=cfg.corpus.vocab_size)
    write_passages(generate_record_passages(cfg.corpus.seed, NUM_PASSAGES), out_dir / "passages.jsonl")
    seq_len = load_config(RecipeConfig, cfg.training).data.seq_len
    _command(
        out_dir / "prepare.txt",
        "dataprep/c4_to_mds.py",
        f"source={out_dir / 'corpus'}/*.json.gz",
        f"tokenizer.name={tokenizer}",
        f"remote={out_dir / 'mds'}",
        f"seq_len={seq_len}",
    )
    return out_dir / "mds", out_dir / "passages.jsonl"


def _train_and_measure(cfg: ProofConfig, run: Run, shards: Path, passages: Path) -> None:
    """Train, export, evaluate, each as a user would; what is done is not done again."""
    if not (run.dir / "eval" / "results.json").is_file():
        own = (
            cfg.training,
            f"run.name={run.dir.name}",
            f"run.dir={run.dir}",
            f"run.seed={run.seed}",
            f"masking.ratio={run.ratio}",
            f"data.remote={shards}",
        )
        given = (
            cfg.evaluation,
            f"model={run.dir / 'hf'}",
            f"out_dir={run.dir / 'eval'}",
            f"perplexity.remote=[{shards}]",
            f"attention_segments.source={passages}",
        )
        output = run.dir.with_suffix(".txt")
        _command(output, "recipes/meap_1b.py", *own)
        _command(output, "recipes/export_hf.py", *own)
        _command(output, "recipes/evaluate.py", *given)


def _command(output: Path, script: str, *arguments: str) -> None:
    """Run an entry point; what it prints goes to a file.

    Raises:
        MeapError: It failed; with its last line.
    """
    from meap.errors import MeapError

    output.parent.mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(target=_run_script, args=(output, script, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        *_, last = output.read_text(encoding="utf-8").splitlines() or [""]
        raise MeapError(
            f"{script} ended with status {process.exitcode}: {last.removeprefix('error: ')} (all it printed: "
            f"{output}); the same command goes on from here"
        )


def _run_script(output: Path, script: str, *arguments: str) -> None:
    import torch

    with output.open("a", encoding="utf-8") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.argv = [str(ROOT / script), *arguments]
    if torch.cuda._is_in_bad_fork():  # an import has touched CUDA all the same
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
    runpy.run_path(sys.argv[0], run_name="__main__")


def check(cfg: ProofConfig) -> None:
    """What can be told from the configuration and its two yamls."""
    from meap.config import EvaluationConfig, RecipeConfig, load_config

    load_config(RecipeConfig, cfg.training)
    load_config(EvaluationConfig, cfg.evaluation)


if __name__ == "__main__":
    leave(run_command(ProofConfig, main, doc=__doc__, check=check, loads="datatrove, torch and transformers"))

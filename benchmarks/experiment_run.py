"""A whole run of an experiment against a bare loop in torch on the same shapes: what start-up, metrics, checks cost.

    python benchmarks/experiment_run.py                     # 300 steps of 250,000 parameters, three rounds
    python benchmarks/experiment_run.py --steps 3000        # about as long as a run of experiments/d_repetition.yaml

Both are forked from a process that has imported what they need, as experiments do it, in turn, and run on one thread.
The run is recipes/meap_1b.py with an evaluation of held-out loss every 100 steps and its last checkpoint; the loop
holds random rows in memory, steps transformers' own model of the same shape with torch's AdamW, and measures, logs and
saves nothing. Processor time is measured, which neighbours hardly move, and its ratio within a round.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import runpy
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
YAML = ROOT / "experiments/settings/train_cpu.yaml"


def main() -> None:
    """Prepare, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="section.key=value of the run, such as train.compile=true")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    for name in ("meap.processes", "meap.train.trainer", "meap.train.fitting", "meap.train.start", "meap.prep.job"):
        __import__(name)
    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
        shards = _prepare(Path(folder), num_tokens=asked.steps * 8 * 256)
        runs, loops = list[float](), list[float]()
        for number in range(asked.rounds):
            settings = (
                *(str(YAML), f"run.dir={folder}/run-{number}", f"data.remote={shards}", "masking.ratio=0"),
                *(f"train.max_duration={asked.steps}ba", "train.eval_interval=100ba", "train.eval_batches=4"),
                *asked.overrides,
            )
            runs.append(_processor_seconds(lambda settings=settings: _run_script("recipes/meap_1b.py", *settings)))
            loops.append(_processor_seconds(lambda: _loop(shards, steps=asked.steps)))
            print(f"round {number}: run {runs[-1]:.1f} s, loop {loops[-1]:.1f} s", flush=True)
    ratios = [run / loop for run, loop in zip(runs, loops, strict=True)]
    tokens = asked.steps * 8 * 256
    print(
        f"bare loop  {tokens / statistics.median(loops):,.0f} tokens/s\n"
        f"whole run  {tokens / statistics.median(runs):,.0f} tokens/s, {statistics.median(ratios):.2f} times the loop "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _prepare(folder: Path, *, num_tokens: int) -> Path:
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
    from meap.synthetic import generate_record

    corpus = write_sample_corpus(folder / "corpus", megabytes=5 * num_tokens / 1e6 + 0.5, text_of=generate_record)
    tokenizer = train_sample_tokenizer(corpus, folder / "tokenizer", vocab_size=1280)
    settings = (f"source={folder}/corpus/*.json.gz", f"tokenizer.name={tokenizer}", f"remote={folder}/mds")
    _processor_seconds(lambda: _run_script("dataprep/c4_to_mds.py", *settings, "seq_len=256", "heldout_ratio=0.05"))
    return folder / "mds"


def _run_script(script: str, *arguments: str) -> None:
    sys.argv = [str(ROOT / script), *arguments]
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        runpy.run_path(sys.argv[0], run_name="__main__")


def _loop(shards: Path, *, steps: int) -> None:
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    from meap.config import RecipeConfig, load_config
    from meap.data import open_shards
    from meap.schema import TRAIN_SPLIT
    from meap.train.model import decoder_config

    config = load_config(RecipeConfig, YAML, [f"data.remote={shards}"])
    vocab_size, seq_len = open_shards(config.data, TRAIN_SPLIT).tokenizer.vocab_size, config.data.seq_len
    architecture = decoder_config(config.model, vocab_size=vocab_size, seq_len=seq_len)
    model = AutoModelForCausalLM.from_config(architecture, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.05)
    rows_BT = torch.randint(2, vocab_size - 1, (steps * config.train.global_batch_size, seq_len + 1))
    for batch_BT in rows_BT.split(config.train.global_batch_size):
        logits_BTV = model(batch_BT[:, :-1], use_cache=False).logits
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _processor_seconds(work: Callable[[], None]) -> float:
    """Of a forked process and those that it starts."""
    process = multiprocessing.get_context("fork").Process(target=work)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a process ended with status {process.exitcode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

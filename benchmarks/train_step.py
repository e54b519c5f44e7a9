"""The training step on one device: how fast, how near the hardware, and what each part of it costs.

    python benchmarks/train_step.py                                 # yamls/tiny.yaml, on a CPU under two minutes
    python benchmarks/train_step.py yamls/1b.yaml                   # one GPU; data.remote=... reads real shards
    python benchmarks/train_step.py yamls/1b.yaml train.compile=false --json step.json

Trains a few steps as the recipe does, with the same Trainer, callbacks and loader, on rows of random tokens where the
yaml's shards are not there. Between its steps other ways take turns with the same weights and optimiser: a bare loop in
torch, with masked rows, with plain rows and with one repeated batch; and transformers' own model, not compiled. Each
way runs a block of steps per round, in changing order; medians over rounds are printed, ratios within a round. On a
CPU, one core is used, and processor time is measured. Goals are those for the 1.1B model on an H100 or H200.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap.config import RecipeConfig, load_config
from meap.config.command import report_errors

if TYPE_CHECKING:
    from train_step_ways import Measured

STARTED = time.perf_counter()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yaml", nargs="?", default="yamls/tiny.yaml", help="the run to measure")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds")
    parser.add_argument("--warm-up", type=int, default=2, help="rounds before them, which are not measured")
    parser.add_argument("--steps", type=int, default=2, help="steps of each way per round")
    parser.add_argument(
        "--rows", type=int, help="rows per step; default: four micro-batches, or the whole batch if that is less"
    )
    parser.add_argument("--vocab-size", type=int, help="ids of random rows; default: 4,001 on a CPU, else 32,001")
    parser.add_argument("--alone", action="store_true", help="measure the recipe alone, without other ways")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    asked = parser.parse_args(arguments)
    if "=" in asked.yaml:
        asked.yaml, asked.overrides = parser.get_default("yaml"), [asked.yaml, *asked.overrides]
    return report_errors(lambda: _run(asked))


def _run(asked: argparse.Namespace) -> None:
    from train_step_ways import measure  # torch and all: these seconds count to the first step

    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as folder:
        config = load_config(RecipeConfig, asked.yaml, asked.overrides)
        rows = asked.rows or min(config.train.global_batch_size, 4 * config.train.microbatch_size)
        # The schedule of a long run, on this device's share of its batch; nothing is evaluated or saved.
        settings = (
            *("train.max_duration=1000000ba", f"train.global_batch_size={rows}", "train.eval_batches=0"),
            *("checkpoint.interval=1000000ba", f"run.dir={folder}/run", f"checkpoint.folder={folder}/checkpoints"),
        )
        config = load_config(RecipeConfig, asked.yaml, [*asked.overrides, *settings])
        measured = measure(
            config,
            Path(folder),
            rounds=asked.rounds,
            warm_up=asked.warm_up,
            steps=asked.steps,
            started=STARTED,
            alone=asked.alone,
            vocab_size=asked.vocab_size,
        )
    figures = _figures(measured)
    _print(asked.yaml, measured, figures)
    if asked.json:
        asked.json.write_text(json.dumps({"yaml": asked.yaml, **vars(measured), "figures": figures}, indent=2))


def _figures(measured: Measured) -> dict[str, float | None]:
    from train_step_ways import BARE, CACHED, PLAIN, RECIPE, STOCK

    seconds = {way: statistics.median(each) for way, each in measured.seconds.items()}
    tokens_per_second = measured.tokens_per_step / seconds[RECIPE]

    def mfu(convention: str) -> float | None:
        peak = measured.peak_flops
        return tokens_per_second * measured.flops_per_token[convention] / peak if peak else None

    def speed(way: str, *, against: str) -> float | None:
        """How many steps of `way` fit into the time of one of `against`."""
        if not {way, against} <= measured.seconds.keys():
            return None
        pairs = zip(measured.seconds[against], measured.seconds[way], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)

    return {
        "tokens_per_second": tokens_per_second,
        "mfu_palm": mfu("palm"),
        "mfu_causal": mfu("causal"),
        "recipe_of_bare": speed(RECIPE, against=BARE),
        "meap_of_ntp": speed(BARE, against=PLAIN),
        "loader_of_cached": speed(BARE, against=CACHED),
        "data_wait": statistics.median(measured.waits) / seconds[BARE] if measured.waits else None,
        "ours_of_stock": speed(CACHED, against=STOCK),
        "seconds_to_first_step": measured.first_step,
        "seconds_compiling": measured.compiling,
        "peak_memory_gb": measured.peak_memory / 1e9,
        "syncs_per_step": measured.syncs_per_step,
    }


def _print(yaml: str, measured: Measured, figures: dict[str, Any]) -> None:
    def line(name: str, key: str, form: str, goal: str = "") -> None:
        value = figures[key]
        print(f"  {name:<58}{'not known here' if value is None else format(value, form):>14}   {goal}")

    print(
        f"{yaml} on {measured.device}, Python {platform.python_version()}, torch {measured.torch}\n"
        f"{measured.parameters:,} parameters, {measured.tokens_per_step:,} tokens per step, {measured.how}\n"
    )
    for way, each in measured.seconds.items():
        spread = (max(each) - min(each)) / statistics.median(each)
        print(f"  {way:<58}{statistics.median(each) * 1e3:>11,.1f} ms   spread {spread:.0%}")
    palm, causal = (measured.flops_per_token[key] / 1e9 for key in ("palm", "causal"))
    print(f"\n  {'':<58}{'':>14}   goal")
    line("recipe, tokens/s", "tokens_per_second", ",.0f")
    line(f"MFU (PaLM: 6 N + 12 L H T, {palm:.3f} GFLOP/token)", "mfu_palm", ".1%", ">= 50 %, 60 % wanted")
    line(f"MFU (causal attention: 6 N + 6 L H T, {causal:.3f})", "mfu_causal", ".1%")
    line("recipe / bare loop", "recipe_of_bare", ".3f", ">= 0.98 (0.95 at 0.1B)")
    line("MEAP / NTP", "meap_of_ntp", ".3f", ">= 0.995")
    line("masked loader / one cached batch", "loader_of_cached", ".3f", ">= 0.99")
    line("share of the step that waits for data", "data_wait", ".2%", "<= 1 %")
    line("ours / stock transformers (sdpa, eager)", "ours_of_stock", ".2f", ">= 1.4")
    line("seconds from start to the end of the first step", "seconds_to_first_step", ".1f", "<= 90")
    line("of these, first step beyond a usual one (compilation)", "seconds_compiling", ".1f")
    line("peak memory, GB", "peak_memory_gb", ".2f")
    line("waits for the device per step, between two logs", "syncs_per_step", ".1f", "0")
    print(
        "\n  MFU = tokens/s x FLOP/token / dense bf16 peak"
        + (f" ({measured.peak_flops / 1e12:,.0f} TFLOP/s)" if measured.peak_flops else " (not known for this device)")
        + "; N weights that are multiplied with, head\n  included, L layers, H width of all heads, T tokens of a row"
    )


if __name__ == "__main__":
    sys.exit(main())

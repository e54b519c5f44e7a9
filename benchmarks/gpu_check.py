"""Checks correctness and speed on this GPU, as far as a CPU cannot: at most eight minutes per call.

    make gpu-check                                          # one H100, H200 or B200; resumes where it stopped
    python benchmarks/gpu_check.py --size small             # the same on a CPU with small models, to try it
    python benchmarks/gpu_check.py --only attention,step    # some of them, again

Each check is a process of its own, since a CUDA error ends a process. Results are stored in --results. A check that has
passed is repeated only if GPU, torch or size differ. Exits with status 0 if all checks passed; a figure below its goal
is marked, but is not a failure.

It needs torch 2.11 or later for this GPU and what benchmarks/gpu_wheels.txt names: no network, shards or datatrove.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WAYS = ROOT / "benchmarks/gpu_check_ways.py"
STEP = ROOT / "benchmarks/train_step.py"

PASSED, FAILED, LEFT_OUT, NOT_MADE = "passed", "FAILED", "left out", "not made yet"


@dataclass(frozen=True)
class Size:
    """The models measured: the paper's on a GPU, ones that take seconds on a CPU."""

    model: str
    long: str
    step: tuple[str, ...]
    variant: tuple[str, ...]


SIZES = {
    "full": Size(
        model="yamls/1b.yaml",
        long="yamls/long/1b_64k.yaml",
        step=("--rounds", "4", "--warm-up", "1", "--steps", "4", "--rows", "16"),
        variant=("--rounds", "2", "--warm-up", "1", "--steps", "2", "--rows", "16", "--alone"),
    ),
    "small": Size(
        model="yamls/tiny.yaml",
        long="yamls/long/tiny_long.yaml",
        step=("--rounds", "2", "--warm-up", "1", "--steps", "1"),
        variant=("--rounds", "1", "--warm-up", "0", "--steps", "1", "--alone"),
    ),
}


@dataclass(frozen=True)
class Check:
    """One check: what it shows, the command behind it, and the goals of its figures."""

    name: str
    shows: str
    seconds: int
    """Estimated time on an H200; the check is stopped after three times that."""
    overrides: tuple[str, ...] | None = None
    """Those of the yaml for benchmarks/train_step.py; None for a check of benchmarks/gpu_check_ways.py."""
    needs: str = ""
    """A package without which it is left out."""
    goals: dict[str, tuple[str, float]] = field(default_factory=dict[str, "tuple[str, float]"])

    def command(self, size_name: str, report: Path, scratch: Path) -> list[str]:
        """The process of the check; it writes its figures to `report`, and its runs to `scratch`."""
        size = SIZES[size_name]
        if self.overrides is None:
            places = ("--scratch", str(scratch), "--json", str(report))
            return [sys.executable, str(WAYS), self.name, "--size", size_name, *places]
        yaml, settings = {
            "step": (size.model, size.step),
            "long": (size.long, (*size.variant, "--rows", "1")),
        }.get(self.name, (size.model, size.variant))
        return [sys.executable, str(STEP), yaml, *self.overrides, *settings, "--json", str(report)]


# The most telling first: time may end.
CHECKS = (
    Check("attention", "every way to compute attention equals fp32, forward and backward", 40),
    Check("masks", "a GPU draws the masks that a CPU draws", 20),
    Check(
        "step",
        "20 steps of 1b: recipe, bare loops, transformers",
        150,
        overrides=(),
        goals={
            "mfu_palm": (">=", 0.50),
            "recipe_of_bare": (">=", 0.98),
            "meap_of_ntp": (">=", 0.995),
            "data_wait": ("<=", 0.01),
            "syncs_per_step": ("<=", 0.0),
        },
    ),
    Check("kernels", "cuDNN's attention against flash-attention 2's, at 1b's shapes and at 64K", 30),
    Check("resume", "a killed run continues bit for bit, with train.deterministic=true", 60),
    Check("export", "its checkpoint as a bf16 folder of transformers, and an answer", 40),
    Check("packed", "a fine-tuning step of 1b on packed rows", 30),
    Check("long", "one row of 64K", 50, overrides=()),
    Check(
        "eager",
        "1b without torch.compile and with torch's kernels",
        35,
        overrides=("train.compile=false", "model.kernels=torch"),
    ),
    Check(
        "liger",
        "with Liger's kernels",
        35,
        overrides=("train.compile=false", "model.kernels=liger"),
        needs="liger_kernel",
    ),
    Check("whole-loss", "with the loss in one piece", 35, overrides=("train.loss_chunks=1",)),
    Check(
        "flash-attn",
        "with the flash-attn package",
        35,
        overrides=("model.attention=flash_attention_2",),
        needs="flash_attn",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks without a result, then print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full", help="small: for a CPU, in minutes")
    parser.add_argument("--only", help="names of checks to run or repeat, separated by commas")
    parser.add_argument("--minutes", type=float, default=8, help="time limit; no check starts that could exceed it")
    parser.add_argument("--results", type=Path, default=ROOT / "runs/gpu_check.json", help="file of results so far")
    asked = parser.parse_args(arguments)
    names = [check.name for check in CHECKS]
    wanted = asked.only.split(",") if asked.only else []
    if unknown := set(wanted) - set(names):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(names)}")

    started = time.monotonic()
    scratch = asked.results.with_suffix(".runs").absolute()
    device = _report_of(Check("device", "", 30), asked.size, scratch)[0]
    if "error" in device:
        print(device["error"], file=sys.stderr)
        return 1
    if asked.size == "full" and not device["gpu"]:
        print(f"torch {device['torch']} sees no CUDA device: use --size small to try the check here", file=sys.stderr)
        return 1
    found = _kept(asked.results, device)
    for name in wanted:
        found.pop(name, None)
    for check in CHECKS:
        if found.get(check.name, {}).get("status") in (PASSED, LEFT_OUT) or (wanted and check.name not in wanted):
            continue
        if time.monotonic() - started + check.seconds > 60 * asked.minutes:
            print(
                f"{check.name:<12}no time left in --minutes {asked.minutes:g}: run the same command again to continue",
                flush=True,
            )
            continue
        print(f"{check.name:<12}{check.shows} ...", flush=True)
        found[check.name] = _make(check, asked.size, device, scratch)
        _keep(asked.results, device, found)
    if found.get("export", {}).get("status") == PASSED:
        shutil.rmtree(
            scratch, ignore_errors=True
        )  # the run of `resume`, gigabytes on a GPU; `export` was its last user
    _print(device, found)
    print(f"\nwritten {asked.results}, {time.monotonic() - started:.0f} s")
    return int(any(each["status"] == FAILED for each in found.values()))


def _make(check: Check, size_name: str, device: dict[str, Any], scratch: Path) -> dict[str, Any]:
    if check.needs and check.needs not in device["packages"]:
        return {"status": LEFT_OUT, "why": f"{check.needs} is not installed"}
    figures, seconds = _report_of(check, size_name, scratch)
    if "error" in figures:
        return {"status": FAILED, "why": figures["error"], "seconds": seconds}
    if "left_out" in figures:
        return {"status": LEFT_OUT, "why": figures["left_out"], "seconds": seconds}
    return {"status": PASSED, "figures": figures.get("figures", figures), "seconds": seconds}


def _report_of(check: Check, size_name: str, scratch: Path) -> tuple[dict[str, Any], float]:
    """What the check's process wrote, or the end of what it printed as ``error``; and how long it took."""
    started = time.monotonic()
    limit = 3 * check.seconds if size_name == "full" else 900  # a CPU that others use as well
    with tempfile.TemporaryDirectory(prefix="meap-gpu-check-") as folder:
        report, log = Path(folder) / "report.json", Path(folder) / "log"
        with log.open("w") as printed:
            process = subprocess.Popen(
                check.command(size_name, report, scratch),
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
                },
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            status = f"status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
            process.wait()
        if process.returncode or not report.is_file():
            return {"error": "\n".join([status, *log.read_text().splitlines()[-12:]])}, time.monotonic() - started
        return json.loads(report.read_text()), time.monotonic() - started


def _kept(path: Path, device: dict[str, Any]) -> dict[str, Any]:
    """Stored results of the same device, torch and size; others do not count."""
    if not path.is_file():
        return {}
    kept = json.loads(path.read_text())
    if kept["device"] == device:
        return kept["checks"]
    print(f"{path} is of {kept['device']['name']}, torch {kept['device']['torch']}: all checks are repeated")
    return {}


def _keep(path: Path, device: dict[str, Any], found: dict[str, Any]) -> None:
    # Not by `meap.places`: this process needs nothing but Python, so that it can say what is missing.
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"device": device, "checks": found}, indent=2))
    partial.replace(path)


def _print(device: dict[str, Any], found: dict[str, Any]) -> None:
    print(f"\n{device['name']}, torch {device['torch']}, transformers {device['transformers']}, size {device['size']}")
    for check in CHECKS:
        result = found.get(check.name, {"status": NOT_MADE})
        seconds = f"{result['seconds']:6.0f} s" if "seconds" in result else ""
        print(f"\n{check.name:<12}{result['status']:<14}{check.shows}{seconds:>10}")
        if "why" in result:
            print("    " + result["why"].replace("\n", "\n    "))
        for name, value in result.get("figures", {}).items():
            if value is None:
                continue
            goal = ""
            if name in check.goals:
                sign, bound = check.goals[name]
                met = value >= bound if sign == ">=" else value <= bound
                goal = f"   goal {sign} {bound:g}" + ("" if met or device["size"] == "small" else "   BELOW ITS GOAL")
            print(f"    {name:<44}{f'{value:,.4g}' if isinstance(value, float) else value!s:>14}{goal}")
    seconds = {
        name: each["figures"]["tokens_per_second"]
        for name, each in found.items()
        if "tokens_per_second" in each.get("figures", {})
    }
    for name in ("eager", "liger", "whole-loss", "flash-attn"):
        if name in seconds and "step" in seconds:
            print(f"\n{'as it comes / ' + name:<48}{seconds['step'] / seconds[name]:>14.3f}", end="")
    print()


if __name__ == "__main__":
    sys.exit(main())

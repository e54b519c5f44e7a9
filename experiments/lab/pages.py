"""The map: what is known about every experiment, as pages whose sentences come from the numbers by rule."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from meap.config import load_config
from meap.errors import DataError

from .declaration import ExperimentConfig
from .findings import find, sentence_of, tables_of
from .launching import ROOT

__all__ = ["FOLDER", "ROOT", "page_of", "read_all", "take_over", "with_summary"]

FOLDER = ROOT / "experiments"
RESULTS = FOLDER / "results"

_MARKS = ("<!-- experiments -->", "<!-- /experiments -->")
_VERDICTS = {"supported": "hypothesis supported", "refuted": "hypothesis refuted", "undecided": "undecided"}
_HEAD = """\
# When does masking help, and when does it cost?

A map at small scale. Each experiment is one command, and its yaml was fixed before its first reported run: question,
hypothesis, primary endpoint, arms, seeds, tests, and what would refute it. What was changed after trial runs, which
are not reported, stands in the yaml. This page is written from the numbers in `experiments/results/` by `python
experiments/map.py`. A result against the method is a result. All runs were made from 2026-11-29 on, on two cores of a
shared machine (x86-64, torch 2.15).

    python experiments/run.py experiments/d_repetition.yaml

The same command continues what was stopped or killed, with `begin_with=experiments/results/d_repetition.json` also
what was begun on another machine. Learning rates are chosen for each arm on seeds that are not reported, one or two,
in A and D by shorter runs; arms may differ in them. The unit of observation is the run: intervals (95 %) are Welch's
over seeds, p is that of an exact permutation test of runs between two arms. Where the arms of a seed continue from
one base (B and C), the unit is the pair of a seed. Where the control is too near to guessing or to certainty for a
difference that would matter, nothing is refuted. Declared secondaries are corrected for their number (Holm). All
other differences are shown without a correction, and no verdict hangs on them.

| experiment | question | result | seeds | tokens of a run | verdict |
|---|---|---|---|---|---|
"""

Found = dict[str, Any]


def take_over(folder: Path) -> None:
    """Copy results and picture of an experiment, which may be unfinished."""
    if not (folder / "results.json").is_file() or not (FOLDER / f"{folder.name}.yaml").is_file():
        raise DataError(
            f"{folder} holds no results of an experiment: give the folder that experiments/run.py wrote, named as the "
            "experiment's yaml"
        )
    RESULTS.mkdir(exist_ok=True)
    for name in ("results.json", "picture.png"):
        if (folder / name).is_file():
            shutil.copy(folder / name, RESULTS / f"{folder.name}{Path(name).suffix}")


def read_all() -> dict[str, Found]:
    """What is known about every declared experiment, by the name of its yaml."""
    experiments: dict[str, Found] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        stored = RESULTS / f"{path.stem}.json"
        declared = load_config(ExperimentConfig, path)
        experiments[path.stem] = (
            json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else find(declared, [], {})
        )
    return experiments


def page_of(experiments: dict[str, Found]) -> str:
    """experiments/README.md."""
    lines: list[str] = [*_HEAD.splitlines()]
    for name, found in experiments.items():
        seeds = max((len(arm["seeds"]) for arm in found["arms"].values()), default=0)
        tokens = f"{found['tokens'] / 1e6:.1f} M" if found["tokens"] else "-"
        cells = (f"[{found['title']}]({name}.yaml)", found["question"], _result(name, found), str(seeds), tokens)
        lines.append(f"| {' | '.join(cells)} | {_VERDICTS.get(found['verdict'], 'none yet')} |")
    for name, found in experiments.items():
        if not found["runs"]["finished"]:
            continue
        lines += ["", f"## {found['title']}", "", sentence_of(found), ""]
        lines += [f"Hypothesis: {found['hypothesis']} Refuted by: {found['refuted_by'].rstrip('.')}.", ""]
        lines += [f"Not tried: {found['not_tried'].rstrip('.')}."]
        if found["tuned"]["at_edge"]:
            labels = ", ".join(found["arms"][arm]["label"] for arm in found["tuned"]["at_edge"])
            tried = ", ".join(found["tuned"]["values"])
            lines += [f"The chosen `{found['tuned']['key']}` is at the edge of what was tried ({tried}) for: {labels}."]
        if (RESULTS / f"{name}.png").is_file():
            lines += ["", f"![{found['title']}: means and intervals of all arms](results/{name}.png)"]
        for table in tables_of(found):
            if len(table) > 1:
                lines += ["", *_markdown(table)]
    return "\n".join(lines) + "\n"


def with_summary(readme: str, experiments: dict[str, Found]) -> str:
    """README.md with its part about the experiments written anew: three lines, and one picture."""
    cpu = {name: found for name, found in experiments.items() if not name.endswith("_gpu")}
    finished = {name: found for name, found in cpu.items() if found["verdict"] is not None}
    open_ones = [found["title"].split(":")[0] for name, found in cpu.items() if name not in finished]
    lines = [f"- {found['title']}. {found['sentence']}" for found in finished.values()]
    if open_ones:
        runs = [sum(found["runs"][key] for found in cpu.values()) for key in ("finished", "declared")]
        lines.append(
            f"- Declared and not finished, so without a verdict: experiments {', '.join(open_ones)} ({runs[0]} of "
            f"{runs[1]} runs of all are there)."
        )
    lines.append("- [The map](experiments/README.md) has the questions, intervals, tests, and what was not tried.")
    pictured = next((name for name in [*finished, *cpu] if (RESULTS / f"{name}.png").is_file()), None)
    if pictured is not None:
        lines += ["", f"![{cpu[pictured]['title']}](experiments/results/{pictured}.png)"]
    start, end = _MARKS
    body = "\n".join([start, *lines, end])
    return re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: body, readme, count=1, flags=re.DOTALL)


def _result(name: str, found: Found) -> str:
    if name.endswith("_gpu") and not found["runs"]["finished"]:
        return "Not measured."
    return found["sentence"]


def _markdown(table: list[tuple[str, ...]]) -> list[str]:
    head, *rows = table
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]

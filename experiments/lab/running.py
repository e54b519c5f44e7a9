"""The runs of an experiment: trained, exported and measured stage by stage; what is done is not done again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from meap.errors import MeapError
from meap.evals.runner import read_results
from meap.places.whole import write_whole
from meap.run_files import EVAL_DIR, EXPORT_DIR, METRICS_NAME, RESULTS_NAME

from .declaration import ExperimentConfig, MeasureConfig
from .launching import run_command_line, stop_commands
from .material import SHARDS_DIR, folder_of

__all__ = [
    "Unit",
    "choose_settings",
    "finished",
    "keep_finished",
    "read_records",
    "reported_units",
    "run_shared_stages",
    "run_units",
]

RECORD_NAME = "record.json"


@dataclass(frozen=True)
class Unit:
    """One arm with one seed: all its stages."""

    arm: str
    seed: int
    dir: Path
    stages: tuple[str, ...]
    """Those that are its own."""
    settings: tuple[str, ...]
    measures: tuple[str, ...]

    @property
    def record(self) -> Path:
        """What was measured; there when the unit is finished."""
        return self.dir / RECORD_NAME


def reported_units(cfg: ExperimentConfig, out_dir: Path, choices: dict[str, str]) -> list[Unit]:
    """Seed by seed over all arms, so that arms are level whenever it is stopped."""
    return [
        Unit(
            arm,
            seed,
            out_dir / "runs" / f"{arm}-{seed}",
            _own_stages(cfg),
            (*cfg.arms[arm].settings, *((f"{cfg.tuning.key}={choices[arm]}",) if arm in choices else ())),
            tuple(cfg.measures),
        )
        for seed in cfg.seeds
        for arm in cfg.arms
        if seed in cfg.seeds_of(arm)
    ]


def _tuning_units(cfg: ExperimentConfig, out_dir: Path) -> dict[tuple[str, str], list[Unit]]:
    """Those of every arm and value, where there is a choice."""
    tuning = cfg.tuning
    return {
        (arm, value): [
            Unit(
                arm,
                seed,
                out_dir / "tuning" / f"{arm}-{value}-{seed}",
                tuning.stages or _own_stages(cfg),
                (*cfg.arms[arm].settings, *tuning.settings, f"{tuning.key}={value}"),
                (tuning.measure,),
            )
            for seed in tuning.seeds
        ]
        for value in tuning.values
        for arm in cfg.arms
        if len(tuning.values) > 1
    }


def choose_settings(cfg: ExperimentConfig, out_dir: Path, *, start: bool = True) -> dict[str, str]:
    """The value of the tuned key for every arm, by runs that are not reported; without `start`, where they are done."""
    tuning = cfg.tuning
    units = _tuning_units(cfg, out_dir)
    if not units:
        return dict.fromkeys(cfg.arms, tuning.values[0]) if tuning.values else {}
    if start:
        run_units(cfg, out_dir, [unit for each in units.values() for unit in each], title="tuning")
    sign = -1 if tuning.higher_is_better else 1
    choices: dict[str, str] = {}
    for arm in cfg.arms:
        scores = {
            value: sum(
                sign * json.loads(unit.record.read_text())["measures"][tuning.measure] for unit in units[arm, value]
            )
            for value in tuning.values
            if all(unit.record.is_file() for unit in units[arm, value])
        }
        if len(scores) == len(tuning.values):
            choices[arm] = min(scores, key=scores.__getitem__)
    return choices


def run_shared_stages(cfg: ExperimentConfig, out_dir: Path) -> None:
    """Train what arms continue from, for all seeds first, so that no arm waits for the base of another."""
    tuning = [unit for each in _tuning_units(cfg, out_dir).values() for unit in each]
    left = [unit for unit in [*tuning, *reported_units(cfg, out_dir, {})] if not unit.record.is_file()]
    seeds = dict.fromkeys(unit.seed for unit in left)
    if any(stage.shared for stage in cfg.stages.values()):
        jobs = [partial(_run_shared, cfg, out_dir, seed) for seed in seeds]
        _run_together(cfg, jobs, len(jobs), title="shared stages")


def run_units(cfg: ExperimentConfig, out_dir: Path, units: Sequence[Unit], *, title: str) -> None:
    """Run what is not finished."""
    jobs = [partial(_run, cfg, out_dir, unit) for unit in units if not unit.record.is_file()]
    _run_together(cfg, jobs, len(units), title=title)


def _run_together(cfg: ExperimentConfig, jobs: Sequence[Callable[[], object]], total: int, *, title: str) -> None:
    """Run them in their order, `parallel` at a time; those of `total` that are missing are done."""
    from meap.show.progress import counting

    with ThreadPoolExecutor(cfg.parallel) as pool, counting(title, unit="runs", interval=0) as progress:
        pending = [pool.submit(job) for job in jobs]
        try:
            for done, each in enumerate(as_completed(pending), start=total - len(jobs) + 1):
                each.result()
                progress(done, total)
        except BaseException:  # a run has failed, or a signal came
            pool.shutdown(wait=False, cancel_futures=True)
            stop_commands()
            raise


def read_records(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Those of the finished ones."""
    return [
        {"arm": unit.arm, "seed": unit.seed, **json.loads(unit.record.read_text(encoding="utf-8"))}
        for unit in units
        if unit.record.is_file()
    ]


def finished(out_dir: Path) -> dict[str, Any]:
    """Records of all finished runs, of tuning as well, by the names of their folders."""
    found = sorted(out_dir.glob(f"*/*/{RECORD_NAME}"))
    return {str(path.parent.relative_to(out_dir)): json.loads(path.read_text(encoding="utf-8")) for path in found}


def keep_finished(records: dict[str, Any], out_dir: Path) -> None:
    """Put records of `finished` where their runs would; what was run here stays."""
    for name, record in records.items():
        if re.fullmatch(r"(runs|tuning)/[\w.-]+", name) and not (path := out_dir / name / RECORD_NAME).is_file():
            write_whole(path, json.dumps(record, indent=1) + "\n")


def _own_stages(cfg: ExperimentConfig) -> tuple[str, ...]:
    return tuple(name for name, stage in cfg.stages.items() if not stage.shared)


def _given(cfg: ExperimentConfig, out_dir: Path, seed: int) -> dict[str, Path]:
    """Folders of the data, and of the stages that all arms of a seed share."""
    shared = {name: out_dir / "runs" / f"shared-{seed}" / name for name, stage in cfg.stages.items() if stage.shared}
    return {name: folder_of(out_dir, name) for name in cfg.data} | shared


def _run_shared(cfg: ExperimentConfig, out_dir: Path, seed: int) -> None:
    evaluated = {measure.stage for measure in cfg.measures.values() if not _is_of_training(measure)}
    for name, stage in cfg.stages.items():
        if stage.shared:
            _run_stage(cfg, name, _given(cfg, out_dir, seed), (), seed, evaluates=name in evaluated)


def _run(cfg: ExperimentConfig, out_dir: Path, unit: Unit) -> None:
    folders = _given(cfg, out_dir, unit.seed) | {name: unit.dir / name for name in unit.stages}
    asked = {name: cfg.measures[name] for name in unit.measures}
    evaluated = {measure.stage for measure in asked.values() if not _is_of_training(measure)}
    for name in unit.stages:
        _run_stage(cfg, name, folders, unit.settings, unit.seed, evaluates=name in evaluated)
    drawn = {picture.curve for picture in cfg.pictures.values()}
    own = [folders[name] for name in unit.stages]
    record = {
        "measures": {name: _read(measure, folders[measure.stage]) for name, measure in asked.items()},
        "curves": {
            measure.metric: _curve(folders[measure.stage], measure.metric)
            for name, measure in asked.items()
            if name in drawn
        },
        "tokens": sum(int(tokens) for each in own for tokens in _curve(each, "time/token")[-1:]),
        "hours": sum(hours for each in own for hours in _curve(each, "time/total")[-1:]),
    }
    write_whole(unit.record, json.dumps(record, indent=1) + "\n")


def _run_stage(
    cfg: ExperimentConfig,
    name: str,
    folders: dict[str, Path],
    settings: Sequence[str],
    seed: int,
    *,
    evaluates: bool,
) -> None:
    """Train, and where asked export and evaluate, each as a user would."""
    stage, folder = cfg.stages[name], folders[name]

    def filled(values: Sequence[str]) -> list[str]:
        found = list(values)
        for known, path in folders.items():
            found = [value.replace(f"{{{known}}}", str(path)) for value in found]
        return found

    own = (
        stage.yaml,
        f"run.name={folder.parent.name}-{name}",
        f"run.dir={folder}",
        f"run.seed={seed}",
        f"data.remote={folders[stage.data] / SHARDS_DIR}",
        *filled([*stage.settings, *_meant_for(name, settings)]),
    )
    output, trained = folder.with_suffix(".txt"), folder.with_suffix(".trained")
    if not trained.is_file():
        run_command_line(output, f"recipes/{stage.recipe}.py", *own)
        trained.touch()
    if not evaluates or stage.evaluation is None or (folder / EVAL_DIR / RESULTS_NAME).is_file():
        return
    if not (folder / EXPORT_DIR).is_dir():
        run_command_line(output, "recipes/export_hf.py", *own)
    run_command_line(
        output,
        "recipes/evaluate.py",
        stage.evaluation,
        f"model={folder / EXPORT_DIR}",
        f"out_dir={folder / EVAL_DIR}",
        *filled(stage.evaluation_settings),
    )


def _meant_for(stage: str, settings: Sequence[str]) -> list[str]:
    """Those of all stages, and of this one: `stage:key=value`."""
    found = list[str]()
    for each in settings:
        key, equals, value = each.partition("=")
        only, _, key = key.rpartition(":")
        if only in {"", stage}:
            found.append(key + equals + value)
    return found


def _is_of_training(measure: MeasureConfig) -> bool:
    return "/" in measure.metric


def _read(measure: MeasureConfig, folder: Path) -> float:
    if _is_of_training(measure):
        values = _curve(folder, measure.metric)
        choose = {"last": lambda: values[-1], "best": lambda: min(values)}
        return choose.get(measure.at, lambda: values[int(measure.at) - 1])()
    name, _, rows = measure.metric.partition("[")
    task, _, metric = name.partition(".")
    results = read_results(folder / EVAL_DIR)
    if task not in results["tasks"]:
        why = results["skipped"].get(task, "it is not among evaluation_settings' tasks")
        raise MeapError(f"measure {measure.label!r} needs the task {task}, which {folder} was not evaluated on: {why}")
    found = results["tasks"][task]
    if not rows:
        return found["metrics"][metric]["value"]
    wanted = dict(each.split("=") for each in rows.removesuffix("]").split(","))
    values = [
        row["metrics"][metric]["value"]
        for row in found["rows"]
        if not row["control"] and all(fnmatchcase(str(row["by"][key]), each) for key, each in wanted.items())
    ]
    return sum(values) / len(values)


def _curve(folder: Path, metric: str) -> list[float]:
    """All values, ascending by step; a resumed run repeats steps, of which the last counts."""
    values: dict[int, float] = {}
    for line in (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines():
        if f'"{metric}"' not in line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a crash has cut it
        values[record["step"]] = record[metric]
    return [values[step] for step in sorted(values)]

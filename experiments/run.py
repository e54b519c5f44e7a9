"""Run an experiment as it was declared, and write what it shows.

    python experiments/run.py experiments/d_repetition.yaml                    # the same command continues
    python experiments/run.py experiments/d_repetition.yaml only_report=true   # what is finished so far
    python experiments/run.py experiments/d_repetition.yaml begin_with=experiments/results/d_repetition.json
                                                                               # elsewhere: only what is missing

The yaml was fixed before the first reported run: question, hypothesis, primary endpoint, arms, seeds, how learning
rates are chosen (on seeds that are not reported), secondaries, and what would refute it. Every run goes through the
product's own entry points. Writes <out_dir>: corpora, shards and runs, and results.json, table.txt and picture.png.
An experiment that was stopped or killed continues; finished runs are kept.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lab.declaration import ExperimentConfig

from meap.config import run_command
from meap.processes import leave

DECLARED_DIR = "declared"


def main(cfg: ExperimentConfig) -> None:
    """Corpora, tuning, runs, results."""
    from meap.extras import require_packages

    # Each of the commands says by itself what it misses, but the last of them begins an hour after the first.
    require_packages("experiments/run.py", "datatrove", extra="prep")
    require_packages("experiments/run.py", "composer", "torch", extra="train")
    require_packages("experiments/run.py", "scipy", "transformers", extra="eval")
    from lab.launching import share_the_machine
    from lab.material import prepare
    from lab.running import choose_settings, reported_units, run_shared_stages, run_units

    out_dir = Path(cfg.out_dir).absolute()
    _remember(cfg, out_dir)
    if cfg.begin_with is not None:
        _take_over(cfg, Path(cfg.begin_with), out_dir)
    if not cfg.only_report:
        share_the_machine()
        prepare(cfg.data, out_dir)
        run_shared_stages(cfg, out_dir)
        choices = choose_settings(cfg, out_dir)
        run_units(cfg, out_dir, reported_units(cfg, out_dir, choices), title=cfg.title)
    print(f"\n{_report(cfg, out_dir)}\n\nwritten     {cfg.out_dir}")


def _report(cfg: ExperimentConfig, out_dir: Path) -> str:
    """Write results.json, table.txt and picture.png from the finished runs; returns the text."""
    from lab.findings import find, text_of
    from lab.picture import draw
    from lab.running import choose_settings, finished, read_records, reported_units

    from meap.places.whole import write_whole

    choices = choose_settings(cfg, out_dir, start=False)
    found = find(cfg, read_records(reported_units(cfg, out_dir, choices)), choices)
    found |= {"declaration": _declaration(out_dir), "finished": finished(out_dir)}
    text = text_of(found)
    write_whole(out_dir / "results.json", json.dumps(found, indent=1) + "\n")
    write_whole(out_dir / "table.txt", text + "\n")
    if found["runs"]["finished"] and cfg.pictures:
        draw(cfg, found, out_dir / "picture.png")
    return text


def _remember(cfg: ExperimentConfig, out_dir: Path) -> None:
    """Keep the declaration in the folder; what was begun under another is not continued."""
    from meap.config import load_config, save_config
    from meap.config.loading import load_resolved
    from meap.errors import ConfigError

    folder = out_dir / DECLARED_DIR
    fixed = dataclasses.replace(cfg, parallel=1, only_report=False, out_dir="", begin_with=None)
    declared = {"experiment": fixed} | {Path(path).stem: load_config(kind, path) for path, kind in _yamls(cfg).items()}
    for name, config in declared.items():
        kept = folder / f"{name}.yaml"
        if not kept.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            save_config(config, kept)
        elif load_resolved(type(config), kept) != config:
            raise ConfigError(
                f"{cfg.out_dir} holds an experiment that was declared otherwise ({kept}): give another out_dir, or "
                "delete it"
            )


def _declaration(out_dir: Path) -> dict[str, str]:
    """All that was declared: the resolved yamls, by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((out_dir / DECLARED_DIR).glob("*.yaml"))}


def _take_over(cfg: ExperimentConfig, results: Path, out_dir: Path) -> None:
    """Keep the records of runs that were finished elsewhere, under the same declaration."""
    from lab.running import keep_finished

    from meap.errors import ConfigError, DataError

    try:
        found = json.loads(results.read_bytes())
        declaration, records = found["declaration"], found["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"begin_with={cfg.begin_with} holds no results ({error!r}): give a results.json of this experiment"
        ) from error
    if declaration != _declaration(out_dir):
        raise ConfigError(
            f"begin_with={cfg.begin_with} was declared otherwise: give results of this yaml as it is, or begin anew"
        )
    keep_finished(records, out_dir)


def check(cfg: ExperimentConfig) -> None:
    """What can be told from the declaration and the yamls that it names."""
    from meap.config import load_config

    for path, kind in _yamls(cfg).items():
        load_config(kind, path)


def _yamls(cfg: ExperimentConfig) -> dict[str, type[Any]]:
    """Path and kind of the yamls that the stages name."""
    from meap.config import EvaluationConfig, RecipeConfig

    evaluations = {stage.evaluation: EvaluationConfig for stage in cfg.stages.values() if stage.evaluation}
    return {stage.yaml: RecipeConfig for stage in cfg.stages.values()} | evaluations


if __name__ == "__main__":
    leave(run_command, ExperimentConfig, main, doc=__doc__, check=check, loads="datatrove, torch and transformers")

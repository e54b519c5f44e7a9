"""Runs benchmark tasks and writes their results."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from meap import __version__
from meap.config import EvaluationConfig
from meap.errors import ConfigError, DataError
from meap.evals.asking import ask_all, require_fit
from meap.evals.lm import LanguageModel
from meap.evals.pictures import panel
from meap.evals.ranks import Ranks
from meap.evals.responses import ResponseStore, hash_of, prompt_hashes
from meap.evals.summary import summarise
from meap.evals.task import Example, Judging, Response, TaskInputs
from meap.evals.tasks import TASKS
from meap.extras import is_installed, require_packages
from meap.json_text import RESTORE, TooLargeError, parse_json, read_small
from meap.places.locks import sole_writer
from meap.places.whole import write_whole
from meap.run_files import CONFIG_NAME, EVAL_DIR, RESULTS_NAME
from meap.show.figures import save_panels
from meap.show.progress import counting

__all__ = [
    "PICTURE_NAME",
    "choose_examples",
    "choose_tasks",
    "describe_replaced",
    "read_results",
    "reasons_to_skip",
    "require_packages_of",
    "results_dir",
    "run_tasks",
]

PICTURE_NAME = "summary.png"

_SUFFIXES = ("parquet", "png", "grid.csv", "chains.json")
"""Of all files of a task. The replies of judges are of no model: whoever evaluates it again does not pay again."""
_OTHERS = {
    "weights": "other weights",
    "dtype": "another precision",
    "tokenizer": "another tokenizer",
    "add_bos": "another add_bos",
}
"""What to call the parts of `identity` that differ."""
_VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "lm-eval", "rouge-score", "openai")


def choose_tasks(asked: str) -> list[str]:
    """Names of tasks from ``a,b`` or ``all``.

    Raises:
        ConfigError: A name is unknown.
    """
    names = list(TASKS) if asked == "all" else [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in TASKS:
            raise ConfigError(f"tasks={asked}: there is no {name!r}; choose from {', '.join(TASKS)}, or all")
    if not names:
        raise ConfigError(f"tasks={asked!r} names none; choose from {', '.join(TASKS)}, or all")
    return names


def require_packages_of(names: Sequence[str], config: EvaluationConfig) -> None:
    """Raise `MissingPackageError` unless the packages of the named tasks are installed."""
    for name in names:
        require_packages(f"tasks={name}", *TASKS[name].packages(config), extra="eval")


def reasons_to_skip(names: Sequence[str], inputs: TaskInputs) -> dict[str, str]:
    """Why tasks cannot run on these inputs, by name; those that can are not in it.

    Raises:
        DataError: None can.
    """
    reasons = {name: reason for name in names if (reason := TASKS[name].skip(inputs))}
    if names and len(reasons) == len(set(names)):
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise DataError(
            f"tasks={','.join(names)} would measure nothing ({why}): choose other tasks, or give what they need"
        )
    return reasons


def results_dir(model: str, *, is_export: bool) -> Path:
    """Folder for the results of a model: in its run's folder if it was exported there, else below runs/eval.

    Args:
        model: Folder or name.
        is_export: Whether `recipes/export_hf.py` wrote it.
    """
    if Path(model).name in {"", ".."}:  # this folder, or one above: it would hold the results, until it is replaced
        model = str(Path(model).resolve())
    run_dir = Path(model).parent
    if is_export and (run_dir / CONFIG_NAME).is_file():
        return run_dir / EVAL_DIR
    return Path("runs/eval", model.strip("./").replace("/", "-"))


def run_tasks(
    inputs: TaskInputs,
    model: LanguageModel,
    names: Sequence[str],
    out_dir: Path,
    *,
    ranks: Ranks | None = None,
    facts: Mapping[str, Any] | None = None,
    write_page: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Run the named tasks, alone in `out_dir`; rank 0 writes results.json, and responses, picture and files of each.

    Results of other tasks in `out_dir` are kept if they are of the same model, and otherwise replaced, which is said
    before the first task starts.

    Args:
        inputs: Configuration, tokenizer and data.
        model: The model.
        names: Keys of `TASKS`.
        out_dir: Folder to write, created if needed.
        ranks: Processes that share the work; None: this one alone.
        facts: Further entries for results.json.
        write_page: Shows what is in `out_dir`, before another evaluation may write there.

    Returns:
        Content of results.json; empty on other ranks.

    Raises:
        MeapError: A task cannot run, or every one would be skipped; raised before the first one starts.
    """
    require_packages_of(names, inputs.config)
    ranks = ranks or Ranks()
    skipped = reasons_to_skip(names, inputs)
    asked = {
        name: choose_examples(name, inputs, max_positions=model.max_positions) for name in names if name not in skipped
    }
    with sole_writer(out_dir) if ranks.is_first else nullcontext():
        ranks.wait()  # none writes beside another evaluation
        # On one rank only: the others would ask the same again.
        asks_judge = {name: TASKS[name].judging for name in asked if ranks.is_first}
        judges = {name: make(inputs.config, out_dir) for name, make in asks_judge.items() if make is not None}
        about = model.describe()
        identity = {
            "weights": about.get("weights", about["name"]),
            "dtype": about.get("dtype"),
            "tokenizer": inputs.tokenizer.fingerprint,
            "add_bos": inputs.config.add_bos,
        }
        key = hash_of(identity | {"meap": __version__})
        if ranks.is_first and (warning := describe_replaced(out_dir, str(about["name"]), identity)):
            print(warning, file=sys.stderr, flush=True)
        found: dict[str, dict[str, Any]] = {}
        for name, (examples, partial) in asked.items():
            started = time.perf_counter()
            hashes = prompt_hashes(examples, inputs.tokenizer)
            store = ResponseStore(out_dir, name, key)
            responses = _ask(name, examples, hashes, model, inputs, store, ranks, judges.get(name))
            if ranks.is_first:
                facts_of_run = {
                    "prompts_sha256": hash_of(hashes),
                    "partial": partial,
                    "seconds": round(time.perf_counter() - started, 3),
                }
                found[name] = summarise(TASKS[name], responses, inputs.config) | facts_of_run
                save_panels([panel(TASKS[name].draw, found[name])], out_dir / f"{name}.png", title=str(about["name"]))
                for suffix, text in TASKS[name].files(found[name], responses).items():
                    assert suffix in _SUFFIXES, f"{name}: nobody would remove its {suffix}"
                    write_whole(out_dir / f"{name}.{suffix}", text)
        if not ranks.is_first:
            return {}
        former = _former_results(out_dir).get("tasks", {})
        results = _write_results(out_dir, found, skipped, inputs, about, identity, facts or {})
        for name in TASKS:
            # Those of this model may be finished before the evaluation that they belong to.
            if name in former and name not in results["tasks"] and not ResponseStore(out_dir, name, key).is_finished():
                for suffix in _SUFFIXES:
                    (out_dir / f"{name}.{suffix}").unlink(missing_ok=True)
        if write_page is not None:
            write_page(out_dir)
        return results


def describe_replaced(out_dir: Path, name: str, identity: Mapping[str, Any]) -> str:
    """A warning where an evaluation would replace the results of another model in `out_dir`; empty where it would not.

    Args:
        out_dir: Folder of the evaluation.
        name: Name of its model.
        identity: What is known of ``identity`` in results.json; without weights, models are told apart by their names.
    """
    former = _former_results(out_dir)
    owner, before = former.get("model", {}).get("name"), former.get("identity", {})
    other = [what for part, what in _OTHERS.items() if part in identity and before.get(part) != identity[part]]
    if not former.get("tasks") or not (other or ("weights" not in identity and owner != name)):
        return ""
    described = owner if owner != name else f"{owner} with {' and '.join(other)}"
    return (
        f"warning: {out_dir} holds results of {described} (tasks {', '.join(former['tasks'])}), which will be "
        "replaced; to keep them choose another out_dir"
    )


def _former_results(out_dir: Path) -> dict[str, Any]:
    """What results.json holds before an evaluation; nothing where it is damaged, as evaluating again is the remedy.

    Nor where it is something else of that name.
    """
    with suppress(DataError):
        found = read_results(out_dir)
        if isinstance(found, dict) and all(
            isinstance(found.get(part), dict) for part in ("model", "identity", "tasks")
        ):
            return found
    return {}


def _ask(
    name: str,
    examples: Sequence[Example],
    hashes: Sequence[str],
    model: LanguageModel,
    inputs: TaskInputs,
    store: ResponseStore,
    ranks: Ranks,
    judge: Judging | None,
) -> list[Response]:
    """The responses to all examples of a task, in order; each rank asks for its share and stores it."""
    with counting(name) if ranks.is_first else nullcontext(lambda done, total: None) as progress:
        ask_all(
            examples,
            hashes,
            TASKS[name].score,
            model,
            inputs,
            store,
            rank=ranks.rank,
            num_ranks=ranks.num_ranks,
            progress=progress,
        )
    ranks.wait()
    done = store.done({example.id: each for example, each in zip(examples, hashes, strict=True)})
    responses = [done[example.id] for example in examples]
    ranks.wait()  # lines are deleted only when no rank reads or writes them
    if judge is not None:
        responses = [response | more for response, more in zip(responses, judge(responses), strict=True)]
    if ranks.is_first:
        store.finish(responses)
    ranks.wait()
    return responses


def read_results(folder: Path) -> dict[str, Any]:
    """Content of results.json in `folder`.

    Raises:
        DataError: It is missing or damaged.
    """
    path = folder / RESULTS_NAME
    try:
        return parse_json(read_small(path).decode())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a folder that an evaluation wrote") from error
    except TooLargeError as error:
        raise DataError(f"{path} is refused, since {error}: evaluate again, or {RESTORE}") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): evaluate again") from error


def choose_examples(name: str, inputs: TaskInputs, *, max_positions: int) -> tuple[list[Example], bool]:
    """Examples of the task `name`, and whether `limit` has left some out.

    Args:
        name: A key of `TASKS`.
        inputs: What the examples are made from.
        max_positions: Tokens of the model's context.

    Raises:
        ConfigError: An example exceeds the context, and does not count as wrong.
        MeapError: The task has no examples, or cannot make them.
    """
    task = TASKS[name]
    examples = task.examples(inputs)
    assert max(Counter(example.id for example in examples).values(), default=1) == 1, f"{name}: an id occurs twice"
    if not examples:
        raise DataError(f"{name} has no examples: change section {name} of the configuration")
    limit = inputs.config.limit
    partial = 0 < limit < len(examples)
    if partial:
        examples = [examples[index] for index in np.linspace(0, len(examples) - 1, limit).round().astype(int)]
    # A loss has no worst value to give to examples that are too long.
    if inputs.config.too_long == "refuse" or not all(metric.higher_is_better for metric in task.metrics):
        require_fit(name, examples, max_positions=max_positions)
    return examples, partial


def _write_results(
    out_dir: Path,
    found: Mapping[str, dict[str, Any]],
    skipped: Mapping[str, str],
    inputs: TaskInputs,
    about: Mapping[str, Any],
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    before = _former_results(out_dir)
    kept = before.get("tasks", {}) if before.get("identity") == identity else {}
    merged: dict[str, dict[str, Any]] = {**kept, **found}
    tasks = {name: merged[name] for name in TASKS if name in merged}
    results = {
        "model": dict(about),
        "identity": dict(identity),
        "tokenizer": {"name": inputs.tokenizer.name, "fingerprint": inputs.tokenizer.fingerprint},
        "add_bos": inputs.config.add_bos,
        "seed": inputs.config.seed,
        "partial": any(numbers["partial"] for numbers in tasks.values()),
        "tasks": tasks,
        "skipped": dict(skipped),
        "config": dataclasses.asdict(inputs.config),
        **facts,
        "versions": {"meap": __version__, "python": platform.python_version()}
        | {package: version(package) for package in _VERSIONED if is_installed(package.replace("-", "_"))},
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    write_whole(out_dir / RESULTS_NAME, json.dumps(results, indent=2) + "\n")
    if tasks:
        draws = [panel(TASKS[name].draw, numbers) for name, numbers in tasks.items()]
        save_panels(draws, out_dir / PICTURE_NAME, title=str(about["name"]))
    return results

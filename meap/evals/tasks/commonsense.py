"""Zero-shot multiple choice by lm-evaluation-harness: paper (arXiv 2502.07490) Tables 1, 5, 6, 13 and 14.

Data, prompts and scores are the harness's own (EleutherAI/lm-evaluation-harness, ``lm_eval.tasks``); only the asking is
ours, as for every other task: in batches, by all ranks, with a stored response per question. What was matched: no
examples in the prompt; the scored splits (test of ARC and OpenBookQA, validation of BoolQ, PIQA, HellaSwag and
WinoGrande); ``acc``, the most likely choice, and ``acc_norm``, the same normalised by length in characters; the average
is the plain mean over tasks.

The paper does not say which of the two it prints: Table 1 looks like ``acc``, Table 6 like ``acc_norm``; both are
reported, and never averaged with each other. BoolQ and WinoGrande have no ``acc_norm``: its mean is over the others.
Whether prompts begin with BOS changes the scores, and the harness's default changed between its versions: here it is
`add_bos`.

With `commonsense.data_dir` the official prompts are put to local rows, and nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from meap.config import CommonsenseConfig
from meap.errors import ConfigError, DataError
from meap.evals.pictures import draw_rows
from meap.evals.task import Candidate, Example, Metric, Output, Scores, Task, TaskInputs
from meap.extras import require_packages
from meap.places.whole import temporary_folder

__all__ = ["TASK", "examples", "score"]

_METRICS = ("acc", "acc_norm")
_SPLITS = ("train", "validation", "test")
_NEVER = -1e9


@dataclass(frozen=True, eq=False)
class _Question(Example):
    judge: Callable[[Sequence[tuple[float, bool]]], Scores] = lambda results: {}
    """The harness's scores, from the log-likelihood of each choice."""


def examples(inputs: TaskInputs) -> list[Example]:
    """Every question of every task, in the harness's order."""
    asked: list[Example] = []
    for name in inputs.config.commonsense.tasks:
        task = _load(name, inputs.config.commonsense)
        questions: dict[int, list[Any]] = {}
        for instance in task.instances:
            questions.setdefault(instance.doc_id, []).append(instance)
        candidates = _encode([each.args[:2] for some in questions.values() for each in some], inputs)
        for index, some in questions.items():
            choices = tuple(next(candidates) for _ in some)
            judge = partial(_judge, task, some[0].doc)
            facts = {"task": name, "question": some[0].args[0], "choices": [each.args[1] for each in some]}
            right = _right(judge, len(choices))
            asked.append(_Question(id=f"{name}-{index}", candidates=choices, right=right, facts=facts, judge=judge))
    return asked


def score(example: Example, output: Output) -> Scores:
    """The harness's own scores."""
    assert isinstance(example, _Question)
    # No metric that is kept needs to know whether greedy decoding gives a choice.
    return example.judge([(each, False) for each in output.sums])


def _judge(task: Any, doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> Scores:
    found = task.process_results(doc, results)
    return {name: float(found[name]) for name in _METRICS if name in found}


def _right(judge: Callable[[Sequence[tuple[float, bool]]], Scores], num_choices: int) -> int | None:
    for place in range(num_choices):
        if judge([(0.0 if each == place else _NEVER, False) for each in range(num_choices)])["acc"] == 1:
            return place
    return None


def _encode(pairs: Sequence[tuple[str, str]], inputs: TaskInputs) -> Iterator[Candidate]:
    """Rows of context and choice; spaces at the end of a context belong to the choice, as in the harness."""
    contexts = [context.rstrip() for context, _ in pairs]
    rows = inputs.encode([context + choice for context, choice in pairs])
    for row, before in zip(rows, inputs.encode(contexts), strict=True):
        yield Candidate(row, max(1, len(row) - max(1, len(before))))


def _load(name: str, config: CommonsenseConfig) -> Any:
    with _quiet(), temporary_folder("meap-eval-") as folder:
        manager = _manager()
        if name not in manager.all_subtasks:
            raise ConfigError(
                f"commonsense.tasks has {name!r}, which is not a task of lm-evaluation-harness: "
                "`lm_eval ls tasks` lists its tasks"
            )
        spec = name
        if config.data_dir is not None:
            path = folder / "local.yaml"
            path.write_text(json.dumps(_over_local_rows(name, config.data_dir, manager.task_index[name].yaml_path)))
            spec = str(path)
        try:
            task = manager.load([spec])["tasks"][name]
            task.set_config("num_fewshot", 0)
            task.build_all_requests()
        except Exception as error:
            raise DataError(
                f"commonsense: the rows of {name} cannot be loaded ({type(error).__name__}: {str(error)[:200]}): "
                "connect to the Hugging Face hub, or give commonsense.data_dir=<folder with a .jsonl for each task>"
            ) from error
    if task.OUTPUT_TYPE != "multiple_choice":
        raise ConfigError(
            f"commonsense.tasks has {name}, which is {task.OUTPUT_TYPE}: only multiple choice is supported"
        )
    return task


def _over_local_rows(name: str, folder: str, official: Path) -> dict[str, Any]:
    """The official task on local rows; as a yaml, so that the harness finds the task's functions."""
    path = Path(folder).absolute() / f"{name}.jsonl"
    if not path.is_file():
        raise DataError(f"commonsense.data_dir={folder} has no {path.name}: put the rows of its data set there")
    # The task decides which split is scored: every split has these rows.
    files = dict.fromkeys(_SPLITS, str(path))
    local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    return {"include": str(official), "task": name} | local


@cache
def _manager() -> Any:
    """The harness's index of its tasks, which takes seconds to make."""
    require_packages("tasks=commonsense", "lm_eval", extra="eval")
    from lm_eval.tasks import TaskManager

    return TaskManager()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence logs, warnings and progress bars of the harness and of datasets."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


TASK = Task(
    title="Commonsense (lm-evaluation-harness)",
    examples=examples,
    score=score,
    metrics=(Metric("acc", "acc"), Metric("acc_norm", "acc_norm")),
    by=("task",),
    packages=lambda config: ("lm_eval", "datasets"),
    draw=partial(draw_rows, metrics=_METRICS),
)

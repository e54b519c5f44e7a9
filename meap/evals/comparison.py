"""Two evaluations side by side: the paper's tables with differences and their significance.

Results whose prompts differ are refused. Both models' values, their difference and its test are of the same examples,
paired by question (`meap.evals.scoring`). Many rows mean many tests: of twenty on equal models one has p below 0.05 by
chance. Beside p is what Holm's correction for the tests of a table makes of it, and the star goes by that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meap.errors import ConfigError, DataError, MismatchError
from meap.evals.pictures import draw_comparison, panel
from meap.evals.responses import read_responses
from meap.evals.runner import read_results
from meap.evals.scoring import Group, estimate, holm, paired_difference
from meap.evals.summary import group_responses, select
from meap.evals.tables import metric_of, notes_of, row_label, shown, shown_interval
from meap.evals.task import Response
from meap.evals.tasks import TASKS
from meap.places.whole import write_whole
from meap.show.figures import save_panels
from meap.show.tables import align

__all__ = [
    "SIGNIFICANCE",
    "compare",
    "comparison_lines",
    "contrast_tables",
    "folders_to_compare",
    "picture_of",
    "print_comparison",
    "short_names",
]

SIGNIFICANCE = (
    "Both values, and their difference, are those of the examples that both models have. p is that of an exact "
    "sign-flip test by question (McNemar's, if answers are right or wrong), or of a paired t-test by question if there "
    "are too many different differences. Each line is a test: of twenty tests of equal models one has p < 0.05 by "
    "chance. p (Holm) is p after Holm's correction for the tests of its table, and * marks those below 0.05. Nothing "
    "corrects for several tables."
)
"""Meaning of p and of the star in a table."""

_LONGEST_NAME = 28


def folders_to_compare(asked: str) -> list[Path]:
    """The two folders of ``a,b``.

    Raises:
        ConfigError: The number of folders is not two.
    """
    folders = [Path(folder.strip()) for folder in asked.split(",") if folder.strip()]
    if len(folders) != 2:
        raise ConfigError(
            f"compare={asked} names {len(folders)} folders: give two, such as compare=runs/a/eval,runs/b/eval"
        )
    return folders


def compare(asked: str, out_dir: Path) -> dict[str, Any]:
    """Compare two folders of results; writes compare.json and compare.png.

    Args:
        asked: Two folders, separated by a comma; the second is compared with the first.
        out_dir: Folder to write, created if needed.

    Raises:
        ConfigError: The number of folders is not two.
        DataError: A folder holds no results, or they have no task in common.
        MismatchError: The prompts or the judges of a task differ.
    """
    folders = folders_to_compare(asked)
    first, second = map(read_results, folders)
    names = [name for name in first["tasks"] if name in second["tasks"]]
    if not names:
        raise DataError(f"{folders[0]} and {folders[1]} have no task in common: evaluate both with the same yaml")
    if first["add_bos"] != second["add_bos"]:
        raise MismatchError(
            f"{folders[0]} and {folders[1]} were not asked the same prompts: add_bos differs; give both the same"
        )
    differing = [name for name in names if _prompts(first, name) != _prompts(second, name)]
    if differing:
        raise MismatchError(
            f"{folders[0]} and {folders[1]} were not asked the same prompts: those of {', '.join(differing)} differ; "
            "evaluate both with the same yaml, seed and limit"
        )
    judges = {name: [_judges(results, name) for results in (first, second)] for name in names}
    for name, (one, other) in judges.items():
        if one and other and one != other:
            raise MismatchError(
                f"{folders[0]} and {folders[1]} have different judges: {name} by {', '.join(one)} and by "
                f"{', '.join(other)}; judge both with the same judge.model"
            )
    models = [str(results["model"]["name"]) for results in (first, second)]
    found = {
        "models": models,
        "folders": [str(folder) for folder in folders],
        "partial": first["partial"] or second["partial"],
        "tasks": {
            name: _compare_task(
                name, first["tasks"][name], second["tasks"][name], *(read_responses(folder, name) for folder in folders)
            )
            | {"notes": _notes(first["tasks"][name], second["tasks"][name], short_names(models))}
            for name in names
        },
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    write_whole(out_dir / "compare.json", json.dumps(found, indent=2) + "\n")
    draws = [picture_of(found, name) for name in found["tasks"]]
    save_panels(draws, out_dir / "compare.png", title=" and ".join(found["models"]))
    return found


def picture_of(found: Mapping[str, Any], name: str) -> Callable[[Any], None]:
    """A function that draws the comparison of the task `name` on matplotlib axes."""
    contrast = TASKS[name].contrast
    draw = contrast.draw if contrast else draw_comparison
    return panel(draw, found["tasks"][name] | {"models": short_names(found["models"])})


def print_comparison(found: Mapping[str, Any]) -> None:
    """Print a table per task: both models, the difference with its interval, relative to the first, and p."""
    names = short_names(found["models"])
    for name, numbers in found["tasks"].items():
        print(f"\n{numbers['title']} ({name}): {metric_of(numbers)}")
        print("\n".join(align(comparison_lines(numbers, names))))
        for further in contrast_tables(name, numbers, names):
            print("\n" + "\n".join(align(further)))
        for note in numbers["notes"]:
            print(f"note: {note}")
    print(f"\n{SIGNIFICANCE}")
    if found["partial"]:
        print("partial: not all examples were asked (limit)")


def contrast_tables(name: str, numbers: Mapping[str, Any], names: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """Tables, each with a header, that the comparison of a task adds to its own.

    Args:
        name: Name of the task.
        numbers: Numbers of the task, from `compare`.
        names: Names of the models.
    """
    contrast = TASKS[name].contrast
    return contrast.tables({**numbers, "models": names}) if contrast else []


def comparison_lines(numbers: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """A task's table: its header, the headline metric by row, and the mean of every metric.

    Args:
        numbers: Numbers of the task, from `compare`.
        names: Names of the models.
    """
    chosen = numbers["headline"]
    lines: list[tuple[str, ...]] = [
        ("", *names, "difference", "95 % interval", "relative", "p", "p (Holm)", "n", "questions")
    ]
    if len(numbers["rows"]) > 1:
        lines += [
            _line(row_label(row), numbers["metrics"][chosen], row["metrics"][chosen])
            for row in numbers["rows"]
            if chosen in row["metrics"]
        ]
    return lines + [_line(f"mean, {each['label']}", each, each) for each in numbers["metrics"].values()]


def short_names(models: Sequence[str]) -> list[str]:
    """What tells two paths apart: the last part that differs, without its middle if it is long."""
    parts = [model.rstrip("/").split("/") for model in models]
    common = 0
    while common < min(map(len, parts)) - 1 and parts[0][-1 - common] == parts[1][-1 - common]:
        common += 1
    names = [each[len(each) - 1 - common] for each in parts]
    if names[0] == names[1]:  # one path ends in the other
        names = ["/".join(each[-common - 2 :]) for each in parts]
    half = _LONGEST_NAME // 2
    names = [name if len(name) <= 2 * half else f"{name[: half - 1]}\u2026{name[-half:]}" for name in names]
    return names if names[0] != names[1] else ["A", "B"]


def _prompts(results: Mapping[str, Any], name: str) -> str:
    return results["tasks"][name]["prompts_sha256"]


def _judges(results: Mapping[str, Any], name: str) -> list[str]:
    return (results["tasks"][name].get("judge") or {}).get("models", [])


def _notes(first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Remarks on both results, those on one with its name."""
    of_first, of_second = notes_of(first), notes_of(second)
    return [
        *(note for note in of_first if note in of_second),
        *(f"{names[0]}: {note}" for note in of_first if note not in of_second),
        *(f"{names[1]}: {note}" for note in of_second if note not in of_first),
    ]


def _compare_task(
    task: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    of_first: Sequence[Response],
    of_second: Sequence[Response],
) -> dict[str, Any]:
    rows_by_model = [group_responses(responses, first["by"]) for responses in (of_first, of_second)]
    metrics: dict[str, dict[str, Any]] = {}
    shared = [name for name in first["metrics"] if name in second["metrics"]]
    for name in shared:
        metric = first["metrics"][name]
        pairs = [
            pair
            for (_, control, of_one), (_, _, of_other) in zip(*rows_by_model, strict=True)
            if not control and (pair := _pair(of_one, of_other, name, metric["weight"])) is not None
        ]
        if not pairs:
            continue
        groups = [[pair[place] for pair in pairs] for place in (0, 1)]
        about = {key: metric[key] for key in ("label", "higher_is_better", "chance")}
        metrics[name] = about | _compare_groups(*groups, bounded=metric["bounded"])
    rows: list[dict[str, Any]] = []
    for place, (by, control, _) in enumerate(rows_by_model[0]):
        row: dict[str, Any] = {"by": by, "control": control, "metrics": {}}
        for name in metrics:
            metric = first["metrics"][name]
            of_one, of_other = (model_rows[place][2] for model_rows in rows_by_model)
            if (pair := _pair(of_one, of_other, name, metric["weight"])) is not None:
                row["metrics"][name] = _compare_groups([pair[0]], [pair[1]], bounded=metric["bounded"])
        rows.append(row)
    _correct([*(row["metrics"].get(next(iter(metrics))) for row in rows if len(rows) > 1), *metrics.values()])
    contrast = TASKS[task].contrast
    return {
        "title": first["title"],
        "headline": next(iter(metrics)),
        "by": first["by"],
        "metrics": metrics,
        "rows": rows,
        **(contrast.find(of_first, of_second) if contrast else {}),
    }


def _pair(
    first: Sequence[Response], second: Sequence[Response], metric: str, weight: str | None
) -> tuple[Group, Group] | None:
    """One metric of the examples for which both models have it: a score of one model only cannot be compared."""
    both = [
        pair
        for pair in zip(first, second, strict=True)
        if all(response.get(metric) is not None or response["too_long"] for response in pair)
    ]
    if not both:
        return None
    one, other = (select([pair[place] for pair in both], metric, weight) for place in (0, 1))
    return None if one is None or other is None else (one, other)


def _compare_groups(first: Sequence[Group], second: Sequence[Group], *, bounded: bool) -> dict[str, Any]:
    found = paired_difference(first, second, bounded=bounded)
    before, after = (estimate(groups, bounded=bounded) for groups in (first, second))
    return {
        "first": asdict(before),
        "second": asdict(after),
        "difference": asdict(found),
        "relative": found.value / before.value if before.value else None,
    }


def _correct(tests: Sequence[dict[str, Any] | None]) -> None:
    """Add Holm's correction for the tests of a table to each of them."""
    differences = [each["difference"] for each in tests if each is not None]
    for difference, p in zip(differences, holm([each["p"] for each in differences]), strict=True):
        difference["p_holm"] = p


def _line(label: str, metric: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    difference = found["difference"]
    relative = "" if found["relative"] is None else f"{100 * found['relative']:+.1f} %"
    return (
        label,
        shown(metric, found["first"]["value"]),
        shown(metric, found["second"]["value"]),
        shown(metric, difference["value"], sign=True),
        shown_interval(metric, difference, sign=True),
        relative,
        *(_tests_of(difference) if found["first"]["clusters"] > 1 else ("-", "-")),
        f"{found['first']['n']:,}",
        f"{found['first']['clusters']:,}",
    )


def _tests_of(difference: Mapping[str, Any]) -> tuple[str, str]:
    star = "*" if difference["p_holm"] < 0.05 else " "
    return f"{difference['p']:.3g}", f"{difference['p_holm']:.3g}{star}"

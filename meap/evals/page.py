"""Results as one page of HTML that needs nothing else: tables, pictures, what could not be measured, and on what."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from meap.evals.comparison import SIGNIFICANCE, comparison_lines, contrast_lines, short_names
from meap.evals.runner import read_results
from meap.evals.tables import headline_of, notes_of, shown, task_lines
from meap.places.whole import write_whole
from meap.report.style import STYLE

__all__ = ["PAGE_NAME", "render_comparison", "render_results", "write_comparison_page", "write_results_page"]

PAGE_NAME = "report.html"

_STYLE = STYLE + "img { max-width: 100%; height: auto; background: #fff; border-radius: 8px; margin: .8rem 0; }"
_PARTIAL = "partial: not all examples were asked (limit)"


def write_results_page(folder: Path) -> None:
    """Write the page of the results in `folder` beside them."""
    write_whole(folder / PAGE_NAME, render_results(read_results(folder), folder), several_writers=True)


def write_comparison_page(found: Mapping[str, Any], folder: Path) -> None:
    """Write the page of what `compare` found, and wrote to `folder`, beside it."""
    results = [read_results(Path(each)) for each in found["folders"]]
    write_whole(folder / PAGE_NAME, render_comparison(found, results, folder), several_writers=True)


def render_results(results: Mapping[str, Any], folder: Path) -> str:
    """The page of an evaluation as text.

    Args:
        results: What results.json holds.
        folder: Where the pictures are.
    """
    remarks = [_PARTIAL] if results["partial"] else []
    remarks += [f"skipped {name}: {reason}" for name, reason in results["skipped"].items()]
    sections = [_remarks(remarks), _table(_overview(results))]
    for name, numbers in results["tasks"].items():
        sections += [
            f"<h2>{escape(numbers['title'])}</h2>",
            _note(f"{name}: {headline_of(numbers)}"),
            _table(task_lines(numbers)),
            *map(_note, notes_of(numbers)),
            _picture(folder / f"{name}.png", numbers["title"]),
        ]
    return _page(str(results["model"]["name"]), [*sections, *_origin([results], ["value"])])


def render_comparison(found: Mapping[str, Any], results: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """The page of a comparison as text.

    Args:
        found: What compare.json holds.
        results: What the two results.json hold.
        folder: Where the picture is.
    """
    names = short_names(found["models"])
    remarks = [_PARTIAL] if found["partial"] else []
    for name, each in zip(names, results, strict=True):
        remarks += [f"{name}: skipped {task}: {reason}" for task, reason in each["skipped"].items()]
        remarks += [f"{name}: {task} was not compared" for task in each["tasks"] if task not in found["tasks"]]
    sections = [_remarks(remarks), _picture(folder / "compare.png", "comparison")]
    for task, numbers in found["tasks"].items():
        sections += [
            f"<h2>{escape(numbers['title'])}</h2>",
            _note(f"{task}: {numbers['metrics'][numbers['headline']]['label']}"),
            _table(comparison_lines(numbers, names)),
            *(_table(lines) for lines in [contrast_lines(task, numbers, names)] if lines),
            *(
                _note(f"{name}: {note}")
                for name, each in zip(names, results, strict=True)
                for note in notes_of(each["tasks"][task])
            ),
        ]
    return _page(" and ".join(found["models"]), [*sections, _note(SIGNIFICANCE), *_origin(results, names)])


def _overview(results: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "", "value", "95 % interval", "n", "chance"
    for numbers in results["tasks"].values():
        metric = numbers["metrics"][numbers["headline"]]
        interval = f"[{shown(metric, metric['low'])}, {shown(metric, metric['high'])}]"
        chance = "" if metric["chance"] is None else shown(metric, metric["chance"])
        label = f"{numbers['title']}: {metric['label']}"
        yield label, shown(metric, metric["value"]), interval, f"{metric['n']:,}", chance


def _origin(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[str]:
    """What was measured, by which software, with which settings."""
    yield "<h2>Model and settings</h2>"
    facts = [
        each["model"]
        | {"tokenizer": each["tokenizer"]["name"], "tokenizer fingerprint": each["tokenizer"]["fingerprint"]}
        | {key: each.get(key) for key in ("seed", "add_bos", "partial", "data")}
        for each in results
    ]
    yield _table(_side_by_side(facts, names))
    for title, key in (("software", "versions"), ("all settings", "config")):
        values = [_flat(each[key]) for each in results]
        yield f"<details><summary>{title}</summary>{_table(_side_by_side(values, names))}</details>"


def _side_by_side(columns: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield "", *names
    for key in dict.fromkeys(key for each in columns for key in each):
        yield key, *(_told(each.get(key)) for each in columns)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _told(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _page(title: str, sections: Sequence[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def _remarks(remarks: Sequence[str]) -> str:
    return f'<ul class="remarks">{"".join(f"<li>{escape(remark)}</li>" for remark in remarks)}</ul>'


def _table(lines: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    """The first line is the header, the first column what the others are about."""
    header, *rows = [[escape(cell) for cell in line] for line in lines]
    head = "".join(f'<th class="number">{cell}</th>' for cell in header[1:])
    body = "".join(
        f"<tr><th>{first}</th>{''.join(f'<td class=number>{cell}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    table = f"<table><thead><tr><th>{header[0]}</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _picture(path: Path, title: str) -> str:
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{content}">'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'

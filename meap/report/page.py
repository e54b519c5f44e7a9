"""A comparison as one page of HTML that needs nothing else: no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from meap.report.charts import Chart, Interval, draw_intervals, draw_lines
from meap.report.comparison import Comparison, Figure, Result, Setting
from meap.report.curves import SMOOTHED, axes_of, draw_curves, draw_evaluations
from meap.report.runs import Run
from meap.report.style import STYLE, style_of_axes, style_of_runs
from meap.report.tables import UNKNOWN, describe_change, describe_setting, describe_value

__all__ = ["render_page"]

_WEIGHTS = {
    "result": "decide what is trained",
    "speed": "should change speed only",
    "name": "go with the name of the run",
}


def render_page(comparison: Comparison) -> str:
    """The page as text."""
    runs = comparison.runs
    title = escape(" · ".join(run.name for run in runs))
    axes = axes_of(runs)
    sections = [
        f"<h1>{title}</h1>",
        _remarks(comparison.remarks),
        "<h2>Figures</h2>",
        _figures(comparison),
        *_section("Curves", _curves(runs, axes)),
        *_section("Evaluation", _evaluation(comparison)),
        *_section("Settings", _settings(comparison)),
        *_section("Software and starts", _software(comparison)),
    ]
    style = STYLE + style_of_runs(len(runs)) + style_of_axes(axes)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{_switches(runs, axes)}\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, parts: Iterable[str]) -> list[str]:
    shown = list(parts)
    return [f"<h2>{title}</h2>", *shown] if shown else []


def _switches(runs: Sequence[Run], axes: Sequence[str]) -> str:
    """Which runs are shown, by what, and whether unsmoothed: form fields that the style sheet reads."""
    fields = [f'<input type="checkbox" id="run{number}" checked>' for number in range(len(runs))]
    fields += [
        f'<input type="radio" name="axis" id="by-{axis}"{" checked" if axis == axes[0] else ""}>' for axis in axes
    ]
    fields.append('<input type="checkbox" id="unsmoothed" checked>')
    labels = [
        f'<label for="run{number}"><svg viewBox="0 0 24 8"><path class="main s{number}" d="M0,4H24"/></svg>'
        f"{escape(run.name)}</label>"
        for number, run in enumerate(runs)
    ]
    ways = [f'<label class="way" for="by-{axis}">by {axis}</label>' for axis in axes]
    ways.append('<label class="way" for="unsmoothed">single steps</label>')
    return f"{''.join(fields)}<nav><span>{''.join(labels)}</span><span>{''.join(ways)}</span></nav>"


def _remarks(remarks: Sequence[str]) -> str:
    return f'<ul class="remarks">{"".join(f"<li>{escape(remark)}</li>" for remark in remarks)}</ul>'


def _figures(comparison: Comparison) -> str:
    rows = [
        (escape(figure.label), *(_figure_cell(figure, number) for number in range(len(figure.values))))
        for figure in comparison.figures
    ]
    note = "Changes are to the first run." if len(comparison.runs) > 1 else ""
    return _table(comparison, rows) + _note(note)


def _figure_cell(figure: Figure, number: int) -> str:
    value, first = figure.values[number], figure.values[0]
    change = describe_change(value, first, figure.kind) if number else ""
    return f"{describe_value(value, figure.kind)}{_change(change, value, first, figure.better)}"


def _change(text: str, value: float | None, first: float | None, better: str) -> str:
    kind = ""
    if better and value is not None and first is not None and value != first:
        kind = " good" if (value < first) == (better == "lower") else " bad"
    return f'<small class="change{kind}">{escape(text)}</small>' if text else ""


def _curves(runs: Sequence[Run], axes: Sequence[str]) -> Iterator[str]:
    for axis in axes:
        yield f'<div class="charts by-{axis}">{_drawn(draw_curves(runs, axis))}</div>'
    yield _note(
        f"Strong lines of noisy metrics are running means over {SMOOTHED:.0%} of the longest run; the faint ones "
        "behind them are the steps, of which the lowest and highest of each column are drawn. Of losses the highest "
        "tenth of each run, such as its first steps, may lie beyond the picture. Dotted verticals are later starts."
    )


def _drawn(charts: Iterable[Chart]) -> str:
    return "".join(
        f"<figure><figcaption>{escape(chart.title)}</figcaption>{draw_lines(chart)}</figure>" for chart in charts
    )


def _evaluation(comparison: Comparison) -> Iterator[str]:
    if not comparison.results:
        return
    rows = [
        (
            f"{escape(result.name)}{_intervals(result)}",
            *(_result_cell(result, number) for number in range(len(result.estimates))),
        )
        for result in comparison.results
    ]
    yield _table(comparison, rows)
    yield _note("With 95 % intervals over examples; the number of examples follows.")
    yield f'<div class="charts">{_drawn(draw_evaluations(comparison.runs))}</div>'


def _result_cell(result: Result, number: int) -> str:
    estimate, first = result.estimates[number], result.estimates[0]
    if estimate is None:
        return UNKNOWN
    value = estimate["value"]
    text = f"{value:,.4f}"
    if number and first is not None:
        text += _change(describe_change(value, first["value"], "loss"), value, first["value"], "")
    if "low" in estimate and "high" in estimate:
        text += f"<small>{estimate['low']:,.4f} to {estimate['high']:,.4f}"
        text += f", {estimate['n']:,}</small>" if "n" in estimate else "</small>"
    return text


def _intervals(result: Result) -> str:
    known = [
        Interval(number, estimate["value"], estimate["low"], estimate["high"])
        for number, estimate in enumerate(result.estimates)
        if estimate is not None and "low" in estimate and "high" in estimate
    ]
    return draw_intervals(known) if known else ""


def _settings(comparison: Comparison) -> Iterator[str]:
    if not comparison.differing and not comparison.same:
        return
    for weight, meaning in _WEIGHTS.items():
        settings = [setting for setting in comparison.differing if setting.weight == weight]
        if settings:
            table = _table(comparison, [_setting_row(setting) for setting in settings])
            is_open = " open" if weight != "name" else ""
            yield f"<details{is_open}><summary>{len(settings)} that differ and {meaning}</summary>{table}</details>"
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(describe_setting(value))}</td></tr>"
        for key, value in comparison.same.items()
    )
    shared = "that all runs share" if len(comparison.runs) > 1 else "of the run"
    yield f"<details><summary>{len(comparison.same)} {shared}</summary><table><tbody>{rows}</tbody></table></details>"


def _setting_row(setting: Setting) -> tuple[str, ...]:
    return escape(setting.key), *(escape(describe_setting(value)) for value in setting.values)


def _software(comparison: Comparison) -> Iterator[str]:
    if comparison.versions:
        rows = [
            (escape(name), *(escape(describe_setting(each)) for each in values))
            for name, values in comparison.versions.items()
        ]
        yield f"<details><summary>software and machines, at first</summary>{_table(comparison, rows)}</details>"
    for number, run in enumerate(comparison.runs):
        if run.starts:
            yield f'<details class="r{number}"><summary>starts of {escape(run.name)}</summary>{_starts(run)}</details>'


def _starts(run: Run) -> str:
    # What no start changed is in the table of versions.
    facts = {key: [start.get(key, ...) for start in run.starts] for start in run.starts for key in start}
    keys = [key for key, values in facts.items() if {*map(str, values)} != {str(run.versions.get(key, ...))}]
    head = "".join(f"<th>{escape(key)}</th>" for key in keys)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(describe_setting(start.get(key, ...)))}</td>' for key in keys)}</tr>"
        for start in run.starts
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table(comparison: Comparison, rows: Iterable[Sequence[str]]) -> str:
    """A row per thing, a column per run; cells are HTML already."""

    def cells(values: Sequence[Any], tag: str) -> str:
        return "".join(f'<{tag} class="number r{number}">{value}</{tag}>' for number, value in enumerate(values))

    head = cells([escape(run.name) for run in comparison.runs], "th")
    body = "".join(f"<tr><th>{first}</th>{cells(values, 'td')}</tr>" for first, *values in rows)
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""

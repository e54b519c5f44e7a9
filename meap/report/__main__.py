"""Compare runs: ``python -m meap.report runs/a runs/b --out report.html``, see --help."""

from __future__ import annotations

from collections.abc import Sequence

from meap.config.command import report_errors
from meap.processes import leave
from meap.report.arguments import Request, parse_arguments

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `meap.config.run_command`."""
    return report_errors(lambda: _report(parse_arguments(argv)))


def _report(request: Request) -> None:
    from meap.places.whole import write_named
    from meap.report.comparison import compare
    from meap.report.curves import as_points
    from meap.report.page import render_page
    from meap.report.runs import read_runs
    from meap.report.tables import as_json, table_lines

    comparison = compare(read_runs(request.folders))
    if request.page is not None:
        write_named("--out", request.page, render_page(comparison))
    if request.json_file is not None:
        write_named("--json", request.json_file, as_json(comparison, as_points(comparison.runs)))
    print("\n".join(table_lines(comparison)))


if __name__ == "__main__":
    leave(main())

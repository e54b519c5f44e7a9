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
    from meap.places.whole import named_file
    from meap.report.comparison import compare
    from meap.report.curves import as_points
    from meap.report.page import render_page
    from meap.report.runs import read_runs
    from meap.report.tables import as_json, table_lines

    comparison = compare(read_runs(request.folders))
    if request.page is not None:
        with named_file("--out", request.page) as draft:
            draft.write_text(render_page(comparison), encoding="utf-8", errors="backslashreplace")
    if request.json_file is not None:
        with named_file("--json", request.json_file) as draft:
            text = as_json(comparison, as_points(comparison.runs))
            draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    print("\n".join(table_lines(comparison)))


if __name__ == "__main__":
    leave(main())

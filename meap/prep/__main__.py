"""Look after prepared shards: ``python -m meap.prep verify <shards>`` and ``stats <shards>``, see --help."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from meap.config.command import drop_lost_reader, report_errors
from meap.errors import DataError
from meap.prep.audit.arguments import Request, parse_arguments
from meap.processes import leave
from meap.show.numbers import size

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, see `meap.config.run_command`."""
    return report_errors(lambda: _run(parse_arguments(argv)))


def _run(request: Request) -> None:
    from meap.places.addresses import use_one_s3_endpoint

    use_one_s3_endpoint()
    {"verify": _verify, "stats": _stats}[request.command](request)


def _verify(request: Request) -> None:
    from meap.prep.audit.places import find_data_sets
    from meap.prep.audit.verify import verify

    verdict = verify(find_data_sets(request.shards), workers=request.workers)
    _print(map(str, verdict.findings))
    if verdict.findings:
        raise DataError(f"{request.shards} is not whole: {len(verdict.findings):,} findings, listed above")
    seen = f"{verdict.splits} splits, {verdict.shards:,} shards, {verdict.rows:,} rows, {size(verdict.bytes)}"
    speed = f"{size(verdict.bytes / (verdict.seconds or 1e-9))}/s"
    _print([f"whole: {seen} at {request.shards}; {verdict.seconds:,.1f} s, {speed}"])


def _stats(request: Request) -> None:
    from meap.prep.audit.picture import draw
    from meap.prep.audit.places import find_data_sets
    from meap.prep.audit.report import table_lines, write_json
    from meap.prep.audit.statistics import measure

    statistics = measure(
        find_data_sets(request.shards), workers=request.workers, ngrams=request.ngrams, top=request.top
    )
    _print(table_lines(statistics, top=request.top))
    if request.json_file is not None:
        write_json(statistics, request.json_file, top=request.top)
    if request.picture is not None:
        draw(statistics, request.picture)


def _print(lines: Iterable[str]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # tokens of any language, on whatever the terminal can show
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        if not drop_lost_reader():  # a verdict is worth its status all the same
            raise


if __name__ == "__main__":
    leave(main())

"""The command line of ``python -m meap.report``; light, so that --help and mistakes are answered at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meap.config.arguments import ArgumentParser, require_writable_file
from meap.errors import ConfigError
from meap.places.addresses import is_url, require_plain_url

__all__ = ["Request", "parse_arguments"]

_EXAMPLES = """examples:
  python -m meap.report runs/1b runs/1b_ntp                                # figures in the terminal
  python -m meap.report runs/1b runs/1b_ntp --out report.html              # and a page with the curves
  python -m meap.report runs/tiny --json tiny.json                         # the same numbers for a program"""


@dataclass(frozen=True)
class Request:
    """What is asked for, checked as far as it can be without the runs."""

    folders: tuple[Path, ...]
    page: Path | None
    json_file: Path | None


def parse_arguments(argv: Sequence[str] | None = None) -> Request:
    """Read the arguments of the process, or `argv`.

    Raises:
        ConfigError: They make no sense.
    """
    given = _build_parser().parse_args(argv)
    for folder in given.runs:
        require_plain_url("RUN", folder)
        if is_url(folder):
            raise ConfigError(
                f"{folder} is a URL: copy metrics.jsonl, config.yaml and eval/ of the run to a local folder"
            )
    require_writable_file("--out", given.out)
    require_writable_file("--json", given.json)
    if given.out is not None and given.out == given.json:
        raise ConfigError(f"--out and --json are both {given.out}: name two files")
    return Request(tuple(map(Path, given.runs)), given.out, given.json)


def _build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m meap.report",
        description="Compare runs: losses, throughput, masks, evaluation results, and the settings that differ.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run; others are compared with the first")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write a page of HTML that opens offline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers as JSON")
    return parser

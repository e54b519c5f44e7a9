"""The command line of ``python -m meap.prep``; light, so that --help and mistakes are answered at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meap.config.arguments import ArgumentParser, require_writable_file, whole_number
from meap.errors import ConfigError
from meap.places.addresses import require_plain_url

__all__ = ["Request", "parse_arguments"]

_EXAMPLES = """examples:
  python -m meap.prep verify data/c4/mds     # every hash, every row, every token; exit status 1 if not whole
  python -m meap.prep verify s3://bucket/c4 --workers 16
  python -m meap.prep stats data/c4/mds --json c4.json --picture c4.png"""

_VERIFY = """Check that prepared shards are whole: every file with its size and hashes, every row, every token id, the
counts of the manifests, and the tokenizer. Every problem is listed. Exit status 0: whole, 1: not, 2: usage."""

_STATS = """Count what is in prepared shards: documents and their lengths, tokens, sources, duplicates. Every shard is
read; memory stays within --workers shards and some 250 MB, however large the data set is: of more than a million rows,
documents or n-grams, duplicates are counted in a sample, chosen by hash, which holds all copies of an item or none.
Documents come from documents.json, which preparation writes beside each manifest."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    command: str
    """`verify` or `stats`."""
    shards: str
    workers: int
    json_file: Path | None = None
    picture: Path | None = None
    ngrams: bool = False
    top: int = 20
    """Tokens and sources to list."""


def parse_arguments(argv: Sequence[str] | None = None) -> Request:
    """Read the arguments of the process, or `argv`.

    Raises:
        ConfigError: They make no sense.
    """
    given = _build_parser().parse_args(argv)
    require_plain_url("<shards>", given.shards)
    workers = given.workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    shards = given.shards.rstrip("/") or "/"
    if given.command == "verify":
        return Request("verify", shards, workers or 1)
    require_writable_file("--json", given.json)
    require_writable_file("--picture", given.picture)
    if given.picture is not None and given.picture.suffix != ".png":
        raise ConfigError(f"--picture {given.picture}: pictures are PNG; name a file that ends in .png")
    return Request("stats", shards, workers or 1, given.json, given.picture, given.ngrams, given.top)


def _build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m meap.prep",
        description="Verify and measure what data preparation has written.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="verify|stats")
    for name, description, summary in (
        ("verify", _VERIFY, "check that shards are whole"),
        ("stats", _STATS, "count what is in them"),
    ):
        command = commands.add_parser(name, help=summary, description=description)
        command.add_argument(
            "shards", help="what preparation wrote: folder or URL (s3://...) of a data set, of one split, or of several"
        )
        command.add_argument(
            "--workers", type=whole_number, default=0, metavar="N", help="shards at the same time; default: the cores"
        )
        if name == "stats":
            command.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers as JSON")
            command.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw them")
            command.add_argument("--ngrams", action="store_true", help="also the share of 13-grams that are repeated")
            command.add_argument(
                "--top",
                type=whole_number,
                default=20,
                metavar="N",
                help="tokens, sources to list; default: %(default)s",
            )
    return parser

"""The command line of ``python -m meap.inspect``; light, so that --help and mistakes are answered at once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meap.config import MaskingConfig, SftConfig, TrainingConfig, load_config
from meap.config.arguments import ArgumentParser, require_writable_file, whole_number
from meap.errors import ConfigError
from meap.places.addresses import require_plain_url
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT

__all__ = ["Request", "parse_arguments"]

_EXAMPLES = """examples:
  python -m meap.inspect data/sample/mds                                   # the first rows, masked as in epoch 0
  python -m meap.inspect s3://bucket/c4 --sample 70000 --epoch 1 --config yamls/1b.yaml
  python -m meap.inspect data/sample_sft/mds --layout separate --html sft.html
  python -m meap.inspect data/sample/mds --count 20 --color always | less -R"""

_OVERRIDES = {
    "ratio": "masking.ratio",
    "strategy": "masking.strategy",
    "span_length": "masking.span_length",
    "seed": "run.seed",
    "layout": "sft.layout",
    "loss": "sft.loss",
}


@dataclass(frozen=True)
class Request:
    """What is asked for, checked as far as it can be without the data."""

    shards: str
    split: str
    epoch: int
    samples: tuple[int, ...]
    """Numbers of the rows to show; none: the first `count`."""
    count: int
    masking: MaskingConfig
    sft: SftConfig
    sft_options: tuple[str, ...]
    """Options given that mean something to fine-tuning shards only."""
    seed: int
    html: Path | None
    stats_shards: int
    """Shards to read for statistics beside those of the samples shown."""
    cache_dir: str | None
    color: str


def parse_arguments(argv: Sequence[str] | None = None) -> Request:
    """Read the arguments of the process, or `argv`.

    Raises:
        ConfigError: They make no sense.
    """
    given = _build_parser().parse_args(argv)
    if given.span_length is not None and given.strategy is None:
        given.strategy = "span"
    asked = {key: vars(given)[name] for name, key in _OVERRIDES.items() if vars(given)[name] is not None}
    config = load_config(TrainingConfig, given.config, [f"{key}={value}" for key, value in asked.items()])
    masking = config.masking
    if masking.preset is not None:
        raise ConfigError(
            f"masking.preset={masking.preset} masks by training step, so no sample has masks of its own: "
            "leave out --config, or set the preset to null in it"
        )
    if given.split != TRAIN_SPLIT and given.ratio is None:
        masking = dataclasses.replace(masking, ratio=0.0)  # held-out rows are never masked in a run
    require_plain_url("<shards>", given.shards)
    require_writable_file("--html", given.html, example="samples.html")
    return Request(
        shards=given.shards.rstrip("/") or "/",
        split=given.split,
        epoch=given.epoch,
        samples=tuple(given.sample),
        count=given.count,
        masking=masking,
        sft=config.sft,
        sft_options=tuple(f"--{name}" for name in ("layout", "loss") if vars(given)[name] is not None),
        seed=config.run.seed,
        html=given.html,
        stats_shards=given.stats_shards,
        cache_dir=given.cache_dir,
        color=given.color,
    )


def _build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m meap.inspect",
        description="Show samples of prepared shards exactly as training sees them, and what the data set is made of.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shards", help="folder or URL (s3://...) that data preparation wrote")
    which = parser.add_argument_group("which samples")
    which.add_argument(
        "--split", choices=(TRAIN_SPLIT, VALIDATION_SPLIT), default=TRAIN_SPLIT, help="default: %(default)s"
    )
    which.add_argument("--epoch", type=whole_number, default=0, metavar="E", help="whose masks; default: %(default)s")
    which.add_argument(
        "--sample", type=whole_number, action="append", default=[], metavar="I", help="number of a row; may be repeated"
    )
    which.add_argument(
        "--count",
        type=whole_number,
        default=3,
        metavar="N",
        help="rows, without --sample; default: %(default)s",
    )
    how = parser.add_argument_group("how they are masked (default: as --config says, or as the project's defaults do)")
    how.add_argument("--config", metavar="YAML", help="a training yaml, whose masking, sft and run.seed hold")
    how.add_argument("--ratio", type=float, metavar="R", help="share of tokens masked; validation is not unless given")
    how.add_argument("--seed", type=int, metavar="S")
    how.add_argument("--strategy", choices=("random", "span"))
    how.add_argument("--span-length", type=int, metavar="L", help="tokens per span; implies --strategy span")
    how.add_argument("--layout", choices=("concat", "separate"), help="fine-tuning shards only")
    how.add_argument("--loss", choices=("answer+masked", "masked"), help="fine-tuning shards only")
    where = parser.add_argument_group("where to")
    where.add_argument("--html", type=Path, metavar="FILE", help="also write a page with these samples and statistics")
    where.add_argument(
        "--stats-shards",
        type=whole_number,
        default=0,
        metavar="N",
        help="read N more shards for the page's statistics, beside those of the samples; default: %(default)s",
    )
    where.add_argument("--cache-dir", metavar="DIR", help="keep fetched shards here; default: a temporary folder")
    where.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="auto: on a terminal, unless NO_COLOR"
    )
    return parser

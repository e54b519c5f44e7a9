"""Look at data, runs and models: what the installed package does by itself.

meap inspect remote=data/sample/mds html=samples.html
meap report runs=runs/1b,runs/1b_ntp html=report.html
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from meap.config.command import VERSION, drop_lost_reader, report_errors, run_command
from meap.config.commands import EnvConfig, GenerateConfig, InspectConfig, ReportConfig, StatsConfig, VerifyConfig
from meap.errors import ConfigError, DataError
from meap.extras import require_packages
from meap.processes import leave

__all__ = ["COMMANDS", "Command", "env", "generate", "inspect", "main", "report", "start", "stats", "verify"]

_DEPENDENCIES = ("fsspec", "huggingface_hub", "numpy", "tenacity", "tokenizers", "yaml")
"""Modules of the packages that every installation has."""
_SCRIPTS = {
    "prepare": "python dataprep/c4_to_mds.py, for fine-tuning dataprep/sft_to_mds.py",
    "train": "composer recipes/meap_1b.py, for fine-tuning recipes/meap_sft.py",
    "export": "python recipes/export_hf.py",
    "evaluate": "python recipes/evaluate.py",
}
"""What may be taken for a command, and is a script of the project."""


def inspect(cfg: InspectConfig) -> None:
    """Show samples of prepared data exactly as training sees them, and what the data set is made of.

        meap inspect remote=data/sample/mds html=samples.html              # the first rows, masked as in epoch 0
        meap inspect training=yamls/1b.yaml samples=[70000] epoch=1        # the data and the masks of a training
        meap inspect remote=data/sample_sft/mds layout=separate
        meap inspect remote=data/sample/mds count=20 color=always | less -R

    Fetches the shards of the samples it shows, and no others.
    """
    from meap.inspect.page import write_page
    from meap.inspect.samples import open_data
    from meap.inspect.statistics import measure
    from meap.inspect.terminal import print_samples
    from meap.places.addresses import use_one_s3_endpoint
    from meap.places.whole import temporary_folder

    use_one_s3_endpoint()
    with nullcontext(cfg.cache_dir) if cfg.cache_dir else temporary_folder("meap-inspect-") as cache_dir:
        data = open_data(cfg, str(cache_dir))
        samples = [data.sample(number) for number in data.choose_samples(cfg)]
        if cfg.html is not None:
            write_page(Path(cfg.html), data, samples, measure(data, samples, extra_shards=cfg.stats_shards))
    print_samples(data, samples, color=cfg.color)


def verify(cfg: VerifyConfig) -> None:
    """Check that prepared data is whole: sizes and hashes of files, rows, token ids, counts, tokenizer.

        meap verify remote=data/c4/mds
        meap verify remote=s3://bucket/c4 workers=16

    Lists all that is wrong. Exit status 0: whole, 1: not whole, 2: wrong usage.
    """
    from meap.places.addresses import use_one_s3_endpoint
    from meap.prep.audit.places import find_data_sets
    from meap.prep.audit.verify import verify as find_faults
    from meap.show.numbers import size

    use_one_s3_endpoint()
    remote = cfg.require_remote()
    verdict = find_faults(find_data_sets(remote), workers=cfg.num_workers)
    _print(map(str, verdict.findings))
    if verdict.findings:
        found = f"{len(verdict.findings):,} {'finding' if len(verdict.findings) == 1 else 'findings'}"
        raise DataError(f"{remote} is not whole: {found}, listed above: do what they say, then run this again")
    seen = f"{verdict.splits} splits, {verdict.shards:,} shards, {verdict.rows:,} rows, {size(verdict.bytes)}"
    speed = f"{size(verdict.bytes / (verdict.seconds or 1e-9))}/s"
    _print([f"whole: {seen} at {remote}; {verdict.seconds:,.1f} s, {speed}"])


def stats(cfg: StatsConfig) -> None:
    """Count what prepared data holds: documents and their lengths, tokens, sources, duplicates.

        meap stats remote=data/c4/mds
        meap stats remote=data/c4/mds json=c4.json picture=c4.png

    Every shard is read. Memory stays within `workers` shards and some 250 MB, however large the data set is: of more
    than a million rows, documents or n-grams, duplicates are counted in a sample, chosen by hash, which holds all
    copies of an item or none. Documents come from documents.json, which preparation writes beside each manifest.
    """
    from meap.places.addresses import use_one_s3_endpoint
    from meap.prep.audit.picture import draw
    from meap.prep.audit.places import find_data_sets
    from meap.prep.audit.report import table_lines, write_json
    from meap.prep.audit.statistics import measure

    use_one_s3_endpoint()
    data_sets = find_data_sets(cfg.require_remote())
    statistics = measure(data_sets, workers=cfg.num_workers, ngrams=cfg.ngrams, top=cfg.top)
    if cfg.json is not None:
        write_json(statistics, Path(cfg.json), top=cfg.top)
    if cfg.picture is not None:
        draw(statistics, Path(cfg.picture))
    _print(table_lines(statistics, top=cfg.top))


def report(cfg: ReportConfig) -> None:
    """Compare runs: losses, throughput, masks, evaluation results, and the settings that differ.

        meap report runs=runs/1b,runs/1b_ntp                       # figures in the terminal
        meap report runs=runs/1b,runs/1b_ntp html=report.html      # and a page with the curves
        meap report runs=runs/tiny json=tiny.json                  # the same numbers for a program

    Reads what training and evaluation wrote into the folders of the runs; only metrics.jsonl must be there.
    """
    from meap.places.whole import write_named
    from meap.report.comparison import compare
    from meap.report.curves import as_points
    from meap.report.page import render_page
    from meap.report.runs import read_runs
    from meap.report.tables import as_json, table_lines

    comparison = compare(read_runs([Path(folder) for folder in cfg.folders]))
    if cfg.html is not None:
        write_named("html", Path(cfg.html), render_page(comparison))
    if cfg.json is not None:
        write_named("json", Path(cfg.json), as_json(comparison, as_points(comparison.runs)))
    _print(table_lines(comparison))


def generate(cfg: GenerateConfig) -> None:
    """Continue a prompt with a model, by its chat template where it has one.

        meap generate model=runs/tiny prompt="The harbour lay quiet"
        meap generate model=meta-llama/Llama-3.2-1B-Instruct prompt="Name a river." temperature=0.8 seed=1

    Prints text as it is generated, and ends at the model's end-of-text or end-of-turn token. Takes the most likely
    tokens, or samples where temperature is set. Runs on a GPU in bf16 where there is one.
    """
    from meap.generation import continue_prompt

    continue_prompt(cfg)


def env(_: EnvConfig) -> None:
    """Print what a bug report needs: versions, devices, attention, cores, memory, extras.

        meap env

    Prints no paths, no variables of the environment, and no secrets.
    """
    from meap.environment import describe_environment

    _print(describe_environment())


@dataclass(frozen=True)
class Command:
    """A command and what stands before it."""

    config: type[Any]
    run: Callable[[Any], None]
    loads: str | None = None
    """Libraries that take seconds to import."""
    subjects: Sequence[str] = ()
    """Keys to suggest when a user types a value without `key=`."""


COMMANDS = {
    "inspect": Command(InspectConfig, inspect, "torch and streaming", ["remote"]),
    "verify": Command(VerifyConfig, verify, None, ["remote"]),
    "stats": Command(StatsConfig, stats, None, ["remote"]),
    "report": Command(ReportConfig, report, None, ["runs"]),
    "generate": Command(GenerateConfig, generate, "torch and transformers", ["model", "prompt"]),
    "env": Command(EnvConfig, env, "torch and transformers"),
}


def start() -> NoReturn:
    """Run the command of this process, and end it."""
    leave(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status, see `meap.config.run_command`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(_help(), file=sys.stderr)
        return 2
    name, *rest = arguments
    if name in {"-h", "--help", "--version"}:
        return report_errors(lambda: print(VERSION if name == "--version" else _help()))
    if name not in COMMANDS:
        return report_errors(lambda: _refuse(name))
    command = COMMANDS[name]
    if not {"-h", "--help", "--version"} & set(rest):
        status = report_errors(lambda: require_packages("meap", *_DEPENDENCIES, extra=""))
        if status:
            return status
    return run_command(
        command.config,
        command.run,
        doc=command.run.__doc__,
        check=getattr(command.config, "check", None),
        loads=command.loads,
        starts_bare=name == "env",
        command=f"meap {name}",
        subjects=command.subjects,
        argv=rest,
    )


def _help() -> str:
    summaries = [f"  {name:<10}{(each.run.__doc__ or '').splitlines()[0]}" for name, each in COMMANDS.items()]
    scripts = [f"  {name:<10}{script}" for name, script in _SCRIPTS.items()]
    return "\n".join(
        [
            "meap COMMAND [yaml] [key=value ...]\n",
            *summaries,
            "\n`meap COMMAND --help` lists the keys of a command; `meap --version` prints the version.",
            "These steps are scripts, which you may edit:\n",
            *scripts,
        ]
    )


def _refuse(name: str) -> NoReturn:
    remedy = "`meap --help` lists the commands"
    if name in _SCRIPTS:
        remedy = f"it is a script of the project: {_SCRIPTS[name]}"
    elif close := difflib.get_close_matches(name.lower().lstrip("-"), COMMANDS, n=1):
        remedy = f"did you mean `meap {close[0]}`?"
    elif "=" in name or name.endswith((".yaml", ".yml")):
        remedy = "name the command first: `meap COMMAND [yaml] [key=value ...]`"
    raise ConfigError(f"{name!r} is no command of meap: {remedy}")


def _print(lines: Iterable[str]) -> None:
    """Print lines; a reader who has seen enough, as in `| head`, changes nothing about the exit status."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        if not drop_lost_reader():
            raise

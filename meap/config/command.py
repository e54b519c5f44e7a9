"""The command line shared by every entry point: ``script [yaml] [section.key=value ...]``."""

from __future__ import annotations

import ast
import dataclasses
import gc
import inspect
import os
import select
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from meap.config.arguments import VERSION
from meap.config.conversion import as_typed
from meap.config.keys import ANY_NAME, entry_class, fields_of
from meap.config.loading import load_config
from meap.config.mistakes import argument_error, require_own_yaml
from meap.errors import ConfigError, MeapError, StoppedError
from meap.noise import silence_libraries
from meap.processes import end_with_parent, stopping_by_signals

__all__ = ["announce", "describe_keys", "drop_lost_reader", "report_errors", "run_command"]

ConfigT = TypeVar("ConfigT")

_USAGE_ERROR = 2
_STOPPED = os.EX_TEMPFAIL  # "temporary failure; the user is invited to retry"
_NO_READER = 128 + signal.SIGPIPE  # as a shell shows a command whose reader has gone
_DRY_RUN = "--dry-run"
_HOW_VALUES_ARE_READ = """\
values: what is typed is the value, as its key's type reads it: run.name=001 is the text 001. Lists are [a,b]; quotes
around all of a value are removed. null, ~ or nothing after the = unsets a key that may be unset. ${section.key} stands
for the value of another key."""


def run_command(
    config_class: type[ConfigT],
    run: Callable[[ConfigT], None],
    *,
    doc: str | None,
    dry_run: Callable[[ConfigT], None] | None = None,
    check: Callable[[ConfigT], None] | None = None,
    loads: str | Callable[[ConfigT], str] | None = None,
    starts_bare: bool = False,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run, and turn errors meant for users into one line each.

    Args:
        config_class: Dataclass of the configuration.
        run: The entry point's steps; heavy libraries are imported inside it, so that ``--help`` is quick.
        doc: The entry point's docstring, printed by ``--help``.
        dry_run: What ``--dry-run`` does instead, where the entry point has it.
        check: What the configuration alone can contradict, beside its own bounds; light, since it comes before imports.
        loads: The libraries that take seconds to import, named in a line before `run`; may depend on the configuration.
        starts_bare: Whether it may start without any argument; without, that prints how it is used.
        argv: Arguments; those of the process where unset.

    Returns:
        Exit status: 0 done, 2 bad configuration, 1 any other `MeapError`, 130 interrupted, 141 nobody reads what is
        printed, 75 stopped by SIGTERM or SIGUSR1 with everything saved.
    """
    if "LOCAL_RANK" in os.environ:
        # A rank outlives composer's launcher where that is killed, and would train on for ever; now, since imports
        # take seconds.
        end_with_parent(signal.SIGTERM)
    # Threads that wait for each other would else spin, on cores that loader workers and neighbours need. OpenMP reads
    # this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = _name_of(run)
    options = ["--help", "--version", *([_DRY_RUN] if dry_run is not None else [])]
    if {"-h", "--help"} & set(arguments):
        return report_errors(lambda: print(_help(config_class, doc, has_dry_run=dry_run is not None)))
    if "--version" in arguments:
        return report_errors(lambda: print(VERSION))
    if not starts_bare and set(arguments) <= {_DRY_RUN} & set(options):
        print(_usage(command, doc), file=sys.stderr, flush=True)
        return _USAGE_ERROR
    chosen = run
    if dry_run is not None and _DRY_RUN in arguments:
        chosen, arguments = dry_run, [each for each in arguments if each != _DRY_RUN]

    def start() -> None:
        config = _parse(config_class, arguments, command=command, options=options)
        if check is not None:
            check(config)
        if loads is not None:
            section = getattr(config, "run", None)
            libraries = loads if isinstance(loads, str) else loads(config)
            announce(f"{command}  run {section.name}" if section is not None else command, libraries)
        chosen(config)

    return report_errors(start)


def report_errors(run: Callable[[], object]) -> int:
    """Run, and turn errors meant for users into one line each; returns the exit status that `run_command` lists."""
    # Imports make objects by the million that stay: collecting after every 700 of them only costs start-up time.
    gc.set_threshold(50_000, 20, 50)
    silence_libraries()
    status = 0
    try:
        status = _status_of(run)
        sys.stdout.flush()
    except BrokenPipeError:
        if not drop_lost_reader():
            raise
        return status or _NO_READER
    return status


def drop_lost_reader() -> bool:
    """Whether whoever read stdout has gone, as in `| head`; what is printed from now on is then written to nowhere."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except OSError:  # it is no file
        return False
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    # Or Python would complain once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def announce(what: str, loads: str) -> None:
    """Say, before imports that take seconds, what has started; once per run."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(f"{what}: loading {loads} ...", file=sys.stderr, flush=True)


def _status_of(run: Callable[[], object]) -> int:
    try:
        with stopping_by_signals():
            run()
    except StoppedError as stopped:
        if str(stopped):  # one rank speaks for all
            print(stopped, file=sys.stderr, flush=True)
        return _STOPPED
    except MeapError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return _USAGE_ERROR if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt as interrupt:
        remedy = str(interrupt) or "run the same command again to continue"
        print(f"interrupted: {remedy}", file=sys.stderr, flush=True)
        return 130
    except SystemExit as end:  # argparse has printed help or version
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _name_of(run: Callable[..., None]) -> str:
    """The name of the entry point that a function is in, also where something else has started it."""
    code = getattr(run, "__code__", None)
    return Path(code.co_filename if code is not None else sys.argv[0]).stem


def _help(config_class: type[Any], doc: str | None, *, has_dry_run: bool) -> str:
    parts = [inspect.cleandoc(doc or "")]
    if has_dry_run:
        parts.append(f"{_DRY_RUN} checks everything, says what a run takes, and stops.")
    if keys := list(describe_keys(config_class)):
        parts += [_HOW_VALUES_ARE_READ, "keys, with their defaults:\n", "\n".join(keys)]
    return "\n\n".join(parts).replace("defaults:\n\n\n", "defaults:\n\n")


def _usage(command: str, doc: str | None) -> str:
    examples = [line.strip() for line in (doc or "").splitlines() if line.startswith("    ")][:2]
    takes = f"{command} takes [yaml] [section.key=value ...], and --help lists the keys"
    return "\n".join([takes, *(f"  {example}" for example in examples)])


def describe_keys(config_class: type[Any], prefix: str = "") -> Iterator[str]:
    """One paragraph per key: dotted name, default, and what stands under the field in the source."""
    items = {item.name: item for item in dataclasses.fields(config_class)}
    hints = fields_of(config_class)
    for name, text in _field_docs(config_class).items():
        item, key, section = items[name], f"{prefix}{name}", hints[name]
        if entry := entry_class(section):
            yield f"{key}:"
            yield from _paragraph(text)
            key, section = f"{key}.{ANY_NAME}", entry
        if dataclasses.is_dataclass(section):
            summary = (inspect.getdoc(section) or "").splitlines()[0]
            yield f"{key}: {summary}"
            yield from (f"  {line}" for line in describe_keys(cast("type[Any]", section), f"{key}."))
            continue
        default = "" if item.default is dataclasses.MISSING else as_typed(item.default)
        yield f"{key}={default}"
        yield from _paragraph(text)


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width=110, initial_indent="    ", subsequent_indent="    ")


def _parse(config_class: type[ConfigT], arguments: Sequence[str], *, command: str, options: Sequence[str]) -> ConfigT:
    files, overrides = list[str](), list[str]()
    for number, argument in enumerate(arguments):
        if argument.endswith((".yaml", ".yml")) and ("=" not in argument or Path(argument).is_file()):
            files.append(argument)
        elif "=" in argument.lstrip("=") and not argument.startswith("-"):
            overrides.append(argument)
        else:
            raise argument_error(arguments, number, config_class, command=command, options=options)
    if len(files) > 1:
        raise ConfigError(f"one yaml at a time, not {' and '.join(files)}: let one inherit from the other with `base:`")
    if files:
        require_own_yaml(Path(files[0]), config_class, command=command)
    return load_config(config_class, files[0] if files else None, overrides)


def _field_docs(config_class: type[Any]) -> dict[str, str]:
    """The string literals under the fields of a dataclass, which Python itself does not keep; its own fields first."""
    documented: dict[str, str] = {}
    for each in config_class.__mro__:
        if not dataclasses.is_dataclass(each):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(cast("type[Any]", each))))
        body = cast("ast.ClassDef", tree.body[0]).body
        for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                has_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                text = str(cast("Any", following).value.value) if has_text else ""
                documented.setdefault(statement.target.id, text)
    return documented

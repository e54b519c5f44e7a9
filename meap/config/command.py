"""The command line shared by every entry point: ``script [yaml] [section.key=value ...]``."""

from __future__ import annotations

import ast
import dataclasses
import gc
import inspect
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast, get_type_hints

from meap.config.loading import ANY_NAME, entry_class, load_config
from meap.errors import ConfigError, MeapError, StoppedError
from meap.noise import silence_libraries
from meap.processes import end_with_parent

__all__ = ["describe_keys", "report_errors", "run_command"]

ConfigT = TypeVar("ConfigT")

_USAGE_ERROR = 2
_STOPPED = os.EX_TEMPFAIL  # "temporary failure; the user is invited to retry"
_DRY_RUN = "--dry-run"


def run_command(
    config_class: type[ConfigT],
    run: Callable[[ConfigT], None],
    *,
    doc: str | None,
    dry_run: Callable[[ConfigT], None] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run, and turn errors meant for users into one line each.

    Args:
        config_class: Dataclass of the configuration.
        run: The entry point's steps; heavy libraries are imported inside it, so that ``--help`` is quick.
        doc: The entry point's docstring, printed by ``--help``.
        dry_run: What ``--dry-run`` does instead, where the entry point has it.
        argv: Arguments; those of the process where unset.

    Returns:
        Exit status: 0 done, 2 bad configuration, 1 any other `MeapError`, 130 interrupted, 75 stopped by SIGTERM or
        SIGUSR1 with everything saved.
    """
    if "LOCAL_RANK" in os.environ:
        # A rank outlives composer's launcher where that is killed, and would train on for ever; now, since imports
        # take seconds.
        end_with_parent(signal.SIGTERM)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        if dry_run is not None:
            doc = f"{inspect.cleandoc(doc or '')}\n\n{_DRY_RUN} checks everything, says what a run takes, and stops."
        print(f"{inspect.cleandoc(doc or '')}\n\nkeys, with their defaults:\n")
        print("\n".join(describe_keys(config_class)))
        return 0
    if dry_run is not None and _DRY_RUN in arguments:
        run, arguments = dry_run, [each for each in arguments if each != _DRY_RUN]
    return report_errors(lambda: run(_parse(config_class, arguments)))


def report_errors(run: Callable[[], None]) -> int:
    """Run, and turn errors meant for users into one line each; returns the exit status that `run_command` lists."""
    # Imports make objects by the million that stay: collecting after every 700 of them only costs start-up time.
    gc.set_threshold(50_000, 20, 50)
    silence_libraries()
    try:
        run()
    except StoppedError as stopped:
        if str(stopped):  # one rank speaks for all
            print(stopped, file=sys.stderr, flush=True)
        return _STOPPED
    except MeapError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return _USAGE_ERROR if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr, flush=True)
        return 130
    return 0


def describe_keys(config_class: type[Any], prefix: str = "") -> Iterator[str]:
    """One paragraph per key: dotted name, default, and what stands under the field in the source."""
    documented = _field_docs(config_class)
    hints = get_type_hints(config_class)
    for item in dataclasses.fields(config_class):
        key = f"{prefix}{item.name}"
        section = hints[item.name]
        if entry := entry_class(section):
            yield f"{key}:"
            yield from _paragraph(documented[item.name])
            key, section = f"{key}.{ANY_NAME}", entry
        if dataclasses.is_dataclass(section):
            summary = (inspect.getdoc(section) or "").splitlines()[0]
            yield f"{key}: {summary}"
            yield from (f"  {line}" for line in describe_keys(cast("type[Any]", section), f"{key}."))
            continue
        default = "" if item.default in {None, dataclasses.MISSING} else item.default
        yield f"{key}={default}"
        yield from _paragraph(documented.get(item.name, ""))


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width=110, initial_indent="    ", subsequent_indent="    ")


def _parse(config_class: type[ConfigT], arguments: Sequence[str]) -> ConfigT:
    files = [argument for argument in arguments if argument.endswith((".yaml", ".yml")) and "=" not in argument]
    unknown = [argument for argument in arguments if argument not in files and "=" not in argument]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is neither a .yaml file nor section.key=value; see --help")
    if len(files) > 1:
        raise ConfigError(f"one yaml at a time, not {' and '.join(files)}: let one inherit from the other with `base:`")
    return load_config(config_class, files[0] if files else None, [each for each in arguments if each not in files])


def _field_docs(config_class: type[Any]) -> dict[str, str]:
    """The string literals under the fields of a dataclass, which Python itself does not keep."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(config_class)))
    body = cast("ast.ClassDef", tree.body[0]).body
    documented: dict[str, str] = {}
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            documented[statement.target.id] = str(following.value.value)
    return documented

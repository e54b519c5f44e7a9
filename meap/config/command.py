"""The command line of every entry point: ``command [yaml] [section.key=value ...]``."""

from __future__ import annotations

import ast
import dataclasses
import errno
import gc
import inspect
import os
import resource
import select
import signal
import sys
import textwrap
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from meap import __version__
from meap.config.conversion import as_typed
from meap.config.keys import ANY_NAME, entry_class, fields_of
from meap.config.loading import load_config, to_yaml
from meap.config.mistakes import argument_error, grammar_of, require_own_yaml
from meap.errors import ConfigError, MeapError, StoppedError, first_line
from meap.noise import silence_libraries
from meap.processes import end_with_parent, is_of_connection, open_standard_streams, stopping_by_signals

__all__ = ["VERSION", "announce", "describe_keys", "drop_lost_reader", "report_errors", "run_command"]

ConfigT = TypeVar("ConfigT")

VERSION = f"meap {__version__}"

_USAGE_ERROR = 2
_STOPPED = os.EX_TEMPFAIL  # "temporary failure; the user is invited to retry"
_NO_READER = 128 + signal.SIGPIPE  # as a shell shows a command whose reader has gone
_ENVIRONMENT = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG),
    errno.EBUSY,  # where a disk is mounted
}
"""Errors of the machine, not of the program, wherever they come from."""
_DRY_RUN, _PRINT_CONFIG, _VERSION = "--dry-run", "--print-config", "--version"
_HOW_VALUES_ARE_READ = """\
values: the type of a key decides how its value is read: a name of 001 is the text 001. A list is [a,b]; quotes around
a whole value are removed. null, ~ or nothing after the = unsets a key that may be unset. ${section.key} stands for the
value of another key."""


def run_command(
    config_class: type[ConfigT],
    run: Callable[[ConfigT], None],
    *,
    doc: str | None,
    dry_run: Callable[[ConfigT], None] | None = None,
    check: Callable[[ConfigT], None] | None = None,
    loads: str | Callable[[ConfigT], str] | None = None,
    subject: Callable[[ConfigT], str] | None = None,
    starts_bare: bool = False,
    outlives_reader: bool = False,
    command: str | None = None,
    subjects: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line, run, and turn errors meant for users into one line each.

    Args:
        config_class: Dataclass of the configuration.
        run: The entry point's steps; heavy libraries are imported inside it, so that ``--help`` is quick.
        doc: The entry point's docstring, which ``--help`` prints.
        dry_run: Runs instead with ``--dry-run``; None if the entry point has no such option.
        check: Raises for errors in the configuration alone; light, since it runs before heavy imports.
        loads: The libraries that take seconds to import, named in a line before `run`; may depend on the configuration.
        subject: What it works on, for that line; unset: the run by `run.name`, where the configuration has one.
        starts_bare: Whether it may start without arguments; otherwise that prints its usage.
        outlives_reader: Whether it goes on where nobody reads its output any longer: what it writes are files.
        command: Its name in messages; unset: the name of the script that defines `run`.
        subjects: Keys that values without a key may be meant for, in order.
        argv: Arguments; unset: those of the process.

    Returns:
        Exit status: 0 done, 2 bad configuration, 1 any other `MeapError`, 130 interrupted, 141 the reader of its output
        has gone, 75 stopped by SIGTERM, SIGUSR1 or SIGHUP with everything
        saved.
    """
    open_standard_streams()
    _prepare_process()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = command or _name_of(run)
    doc = inspect.cleandoc(doc or "")
    options = ["--help", _VERSION, _PRINT_CONFIG, *([_DRY_RUN] if dry_run is not None else [])]
    if {"-h", "--help"} & set(arguments):
        return report_errors(lambda: print(_help(config_class, doc, has_dry_run=dry_run is not None)))
    if _VERSION in arguments:
        return report_errors(lambda: print(VERSION))
    if not starts_bare and set(arguments) <= {_DRY_RUN} & set(options):
        print(_usage(config_class, command, doc), file=sys.stderr, flush=True)
        return _USAGE_ERROR
    chosen = run
    if dry_run is not None and _DRY_RUN in arguments:
        chosen, arguments = dry_run, [each for each in arguments if each != _DRY_RUN]

    def start() -> None:
        given = [each for each in arguments if each != _PRINT_CONFIG]
        config = _parse(config_class, given, command=command, options=options, subjects=subjects)
        if len(given) < len(arguments):
            print(to_yaml(config), end="")
            return
        if check is not None:
            check(config)
        if loads is not None:
            section = getattr(config, "run", None)
            told = subject(config) if subject is not None else f"run {section.name}" if section is not None else None
            what = command if told is None else f"{command}  {told}"
            announce(what, loads if isinstance(loads, str) else loads(config))
        chosen(config)

    with _dropping_what_nobody_reads() if outlives_reader else nullcontext():
        return report_errors(start)


def _prepare_process() -> None:
    """Set what must be set before the slow imports."""
    if "LOCAL_RANK" in os.environ:
        # If composer's launcher is killed, its ranks outlive it and would train for ever.
        end_with_parent(signal.SIGTERM)
    # Waiting threads would spin otherwise, on cores that loader workers and other processes need. OpenMP reads this
    # when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imports create millions of objects that stay: frequent garbage collection only slows the start.
    gc.set_threshold(50_000, 20, 50)


def report_errors(run: Callable[[], object]) -> int:
    """Run, and turn errors meant for users into one line each; returns the exit status that `run_command` lists."""
    open_standard_streams()
    silence_libraries()
    stdout: Any = sys.stdout
    if hasattr(stdout, "reconfigure"):
        stdout.reconfigure(errors="backslashreplace")  # text of any language, on whatever the terminal can show
    status = 0
    try:
        status = _status_of(run)
        sys.stdout.flush()
    except BrokenPipeError:
        if not drop_lost_reader():
            raise
        return status or _NO_READER
    except OSError:
        if not status:
            raise
    return status


class _Outlasting:
    """A stream that drops what it is given once its reader has gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._outlast(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._outlast(self._stream.flush)

    def _outlast(self, use: Callable[[], object]) -> None:
        try:
            use()
        except BrokenPipeError:
            if not drop_lost_reader(self._stream):
                raise


@contextmanager
def _dropping_what_nobody_reads() -> Generator[None]:
    """Within, a reader of stdout or stderr may go, as in `2>&1 | head`, and nothing fails for that."""
    outlasting: Any = _Outlasting(sys.stdout), _Outlasting(sys.stderr)
    with redirect_stdout(outlasting[0]), redirect_stderr(outlasting[1]):
        yield


def drop_lost_reader(stream: TextIO | None = None) -> bool:
    """Whether the reader of a stream, stdout where unset, has gone, as in `| head`; further output is discarded."""
    handle = cast("TextIO", stream or sys.stdout)
    poll = select.poll()
    try:
        poll.register(handle.fileno(), 0)
    except OSError:  # not a file
        return False
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        return False
    # Otherwise Python reports the broken pipe again when it flushes at exit.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, handle.fileno())
    os.close(nowhere)
    return True


def announce(what: str, loads: str) -> None:
    """Print what has started, before imports that take seconds; rank 0 only."""
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        print(f"{what}: loading {loads} ...", file=sys.stderr, flush=True)


def _status_of(run: Callable[[], object]) -> int:
    try:
        with stopping_by_signals():
            run()
            sys.stdout.flush()  # what was printed is part of it: its disk may be full
    except StoppedError as stopped:
        if str(stopped):  # one rank prints for all
            _tell(str(stopped))
        return _STOPPED
    except MeapError as error:
        _tell(f"error: {error}")
        return _USAGE_ERROR if isinstance(error, ConfigError) else 1
    except Exception as error:
        if (told := _told_of_machine(error)) is None:
            raise
        _tell(f"error: {told}")
        return 1
    except KeyboardInterrupt as interrupt:
        remedy = str(interrupt) or "run the same command again to continue"
        _tell(f"interrupted: {remedy}")
        return 130
    return 0


def _tell(text: str) -> None:
    with suppress(OSError):  # the same disk may be full, or the reader gone: the status says it
        print(text, file=sys.stderr, flush=True)


def _told_of_machine(error: Exception) -> str | None:
    """What the machine refuses, with the remedy; None where the program is to blame."""
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT and error.filename is not None:
        return f"{error.filename}: {error.strerror}; free it, or choose another path"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return (
            f"{error.strerror}: free space on the disks of {Path.cwd()} and of TMPDIR, or wherever else this command "
            "writes, and run it again"
        )
    if told := _told_of_ranks(error):
        return told
    text = os.strerror(errno.EMFILE)  # libraries, and torch's of other processes, pass it on as text
    chain: list[BaseException | None] = [error, error.__cause__, error.__context__]
    if any(text in str(each) or getattr(each, "errno", None) == errno.EMFILE for each in chain if each is not None):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"too many open files: this process may open {limit:,}; raise that with `ulimit -n 4096`, and run the same "
            "command again"
        )
    return _told_of_worker(error)


def _told_of_worker(error: Exception) -> str | None:
    """What a loader worker could not do, as torch passes it on: as text."""
    what = next(reversed(str(error).rstrip().splitlines()), "")
    if "unable to allocate shared memory" in what:
        return (
            f"a loader worker cannot hand over a batch ({what}): end what fills /dev/shm, or make it larger (docker "
            "run --shm-size=16g; mount -o remount,size=16g /dev/shm), or set data.num_workers=0, and run the same "
            "command again"
        )
    if isinstance(error, OSError) and str(error).startswith("Caught "):
        return (
            f"a loader worker cannot go on ({what}): see to that, or raise the number of open files with `ulimit -n "
            "4096`, and run the same command again"
        )
    return None


def _told_of_ranks(error: Exception) -> str | None:
    rank, text = os.environ.get("RANK"), str(error)
    if rank is None or not isinstance(error, RuntimeError):
        return None
    if "to a (local) address" in text:  # as torch says where it may open no socket, too
        return (
            f"rank {rank} cannot open a connection to the others ({first_line(error)}): raise the number of open files "
            "with `ulimit -n 4096`, or name the network's interface in GLOO_SOCKET_IFNAME"
        )
    if is_of_connection(error):
        return (
            f"rank {rank} lost another rank outside of training ({first_line(error)}): look for the reason among the "
            "messages of that rank"
        )
    return None


def _name_of(run: Callable[..., None]) -> str:
    """The name of the script that defines a function, whichever script was started."""
    code = getattr(run, "__code__", None)
    return Path(code.co_filename if code is not None else sys.argv[0]).stem


def _help(config_class: type[Any], doc: str, *, has_dry_run: bool) -> str:
    options = f"{_PRINT_CONFIG} prints what the configuration resolves to, as yaml; {_VERSION} prints the version."
    if has_dry_run:
        options = f"{_DRY_RUN} checks everything, says what a run takes, and stops.\n{options}"
    parts = [doc, options]
    if keys := list(describe_keys(config_class)):
        parts += [_HOW_VALUES_ARE_READ, "keys, with their defaults:\n", "\n".join(keys)]
    return "\n\n".join(parts).replace("defaults:\n\n\n", "defaults:\n\n")


def _usage(config_class: type[Any], command: str, doc: str) -> str:
    examples = [line.strip() for line in doc.splitlines() if line.startswith("    ")][:2]
    takes = f"{command} takes [yaml] [{grammar_of(config_class)} ...], and --help lists the keys"
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


def _parse(
    config_class: type[ConfigT],
    arguments: Sequence[str],
    *,
    command: str,
    options: Sequence[str],
    subjects: Sequence[str],
) -> ConfigT:
    files, overrides = list[str](), list[str]()
    for number, argument in enumerate(arguments):
        if argument.endswith((".yaml", ".yml")) and ("=" not in argument or Path(argument).is_file()):
            files.append(argument)
        elif "=" in argument.lstrip("=") and not argument.startswith("-"):
            overrides.append(argument)
        else:
            raise argument_error(arguments, number, config_class, command=command, options=options, subjects=subjects)
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

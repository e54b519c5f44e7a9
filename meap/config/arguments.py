"""Command lines of commands that take options instead of a configuration: ``python -m meap.<command>``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from meap import __version__
from meap.errors import ConfigError

__all__ = ["VERSION", "ArgumentParser", "require_writable_file", "whole_number"]

VERSION = f"meap {__version__}"


class ArgumentParser(argparse.ArgumentParser):
    """Of commands with options instead of a configuration: has --version, and mistakes are errors as everywhere."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.add_argument("--version", action="version", version=VERSION, help="print the version")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{message}; see {self.prog} --help")


def whole_number(text: str) -> int:
    """The type of an option: a whole number of at least 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return value


def require_writable_file(option: str, path: Path | None, *, example: str = "") -> None:
    """Refuse a file to write that is a folder, or whose folder is not there.

    Args:
        option: The option that named the file, such as ``--json``.
        path: The file; None where the option was not given.
        example: A name for a file in that folder, to be shown.

    Raises:
        ConfigError: No file can be written there.
    """
    if path is None:
        return
    if path.is_dir():
        such_as = f", such as {path / example}" if example else ""
        raise ConfigError(f"{option} {path} is a folder: name a file in it{such_as}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}; create it first")

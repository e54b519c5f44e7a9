"""Checks shared by the sections: each raises a `ConfigError` with the value, what is allowed, and the remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from meap.errors import ConfigError

__all__ = [
    "require_at_least",
    "require_duration",
    "require_folder_name",
    "require_interval",
    "require_one_of",
    "require_plain_address",
    "require_ratio",
    "require_share_or_duration",
    "require_writable_file",
    "require_writable_folder",
]

_LONGEST_NAME = 200
"""Bytes; file systems take 255, of which suffixes need some."""
_MOST_SHOWN = 60
_DURATION = re.compile(r"[1-9]\d*(ba|tok|ep|sp)")
_NUMBER = re.compile(r"[1-9]\d*")
_SHARE = re.compile(r"(1(\.0*)?|0?\.\d*[1-9]\d*)dur")


def require_at_least(key: str, value: float, bound: float) -> None:
    """Raise unless `value` >= `bound`."""
    if not value >= bound:
        raise ConfigError(f"{key}={value} is too small: it must be at least {bound}")


def require_ratio(key: str, value: float, *, remedy: str) -> None:
    """Raise unless 0 <= `value` < 1."""
    if not 0.0 <= value < 1.0:
        percent = f" Write {value / 100:g} for {value:g} %." if 1.0 < value < 100.0 else ""
        raise ConfigError(f"{key}={value} is out of range: it must be in [0, 1). {remedy}{percent}")


def require_one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Raise unless `value` is among `allowed`."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not known: choose one of {', '.join(sorted(allowed))}")


def require_plain_address(key: str, value: str) -> None:
    """Raise if `value` is a URL with a user or password, since configurations are stored; it is not repeated."""
    if "@" in urlsplit(value).netloc:
        raise ConfigError(
            f"{key} is a URL with a user or password in it, which would be stored with the run: remove "
            "the part before the @ and set credentials in the environment"
        )


def require_writable_file(key: str, value: str | None, *, example: str) -> None:
    """Raise if the file to write is a URL, a folder or a device, would replace another kind, or cannot be written.

    Args:
        key: The key that names the file.
        value: The file; None for none.
        example: A file name to propose.
    """
    if value is None:
        return
    if "://" in value:
        raise ConfigError(f"{key}={value} is a URL: name a local file, such as {example}")
    path = Path(value)
    if _existing(f"{key}={value}", path.absolute()) == path.absolute():
        if path.is_dir():
            raise ConfigError(f"{key}={value} is a folder: name a file in it, such as {path / example}")
        if not path.is_file():  # it would be replaced, as /dev/null by who may do that
            raise ConfigError(f"{key}={value} is a device or a pipe: name a file, such as {example}")
        if path.suffix != Path(example).suffix:
            raise ConfigError(f"{key}={value} would replace a file of another kind: choose another, such as {example}")
    _require_writable(f"{key}={value}", path.absolute().parent)


def require_writable_folder(key: str, value: str) -> None:
    """Raise if a local folder to write into cannot be made or written; stores are tried when they are opened."""
    if "://" not in value:
        _require_writable(f"{key}={value}", Path(value).absolute())


def _require_writable(given: str, folder: Path) -> None:
    existing = _existing(given, folder)
    if not existing.is_dir():
        raise ConfigError(f"{given}: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{given} cannot be written: you have no permission for {existing}; choose another folder, or change "
            "its permissions"
        )


def _existing(given: str, path: Path) -> Path:
    """The path, or the nearest of those above it that exists."""
    for each in (path, *path.parents):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # a name that is too long, say
            raise ConfigError(f"{given} cannot be written ({error.strerror}): choose another path") from error
        if not each.exists():
            raise ConfigError(
                f"{given}: {each} is a link to {each.readlink()}, which does not exist; create that, or choose another "
                "path"
            )
        return each
    raise AssertionError("the root exists")


def require_folder_name(key: str, value: str) -> None:
    """Raise unless `value` is a valid name of a folder on any common file system."""
    wrong, size = None, len(value.encode(errors="replace"))
    if value in {".", ".."} or "/" in value or "\\" in value:
        wrong = "leads to another folder"
    elif not value.isprintable():
        wrong = "has characters that cannot be printed"
    elif not value.strip():
        wrong = "is empty"
    elif size > _LONGEST_NAME:
        wrong = f"has {size} bytes"
    if wrong is not None:
        shown = value if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]}..."
        raise ConfigError(
            f"{key}={shown!r} {wrong}: it names a folder or file; use letters, digits, - and _, without / or \\, and "
            f"at most {_LONGEST_NAME} bytes"
        )


def require_duration(key: str, value: str) -> None:
    """Raise unless `value` is a Composer duration in batches, tokens, samples or epochs."""
    if _NUMBER.fullmatch(value):
        raise ConfigError(
            f"{key}={value} has no unit: write {value}ba (batches), {value}tok (tokens), {value}sp (samples) or "
            f"{value}ep (epochs)"
        )
    if not _DURATION.fullmatch(value):
        raise ConfigError(f"{key}={value!r} is not a duration: write for example 1000ba (batches), 200000tok or 1ep")


def require_share_or_duration(key: str, value: str) -> None:
    """Raise unless `value` is a Composer duration, or a share of the whole training in (0, 1]."""
    if not _SHARE.fullmatch(value) and not _DURATION.fullmatch(value):
        raise ConfigError(
            f"{key}={value!r} is not a duration: write for example 1000ba (batches), 200000tok or 1ep, "
            "or a share of the training in (0, 1], such as 0.5dur"
        )


def require_interval(key: str, value: str) -> None:
    """Raise unless `value` is a Composer duration, or a share of the whole training in (0, 1]."""
    if not _SHARE.fullmatch(value) and not _DURATION.fullmatch(value):
        raise ConfigError(
            f"{key}={value!r} is not an interval: write for example 100ba (batches), 1ep, 200000tok, 5000sp, "
            "or a share of the training in (0, 1], such as 0.1dur"
        )

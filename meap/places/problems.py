"""Errors of places, for users: the address, the failure, the remedy."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

from meap.back_off import GaveUpError
from meap.errors import ConfigError, DataError, MeapError
from meap.places.redaction import describe_error

__all__ = [
    "GIVE_CREDENTIALS",
    "MORE_FILES",
    "clock_skew",
    "code_of",
    "describe_full_disk",
    "full_disk_errors",
    "is_full_disk",
    "is_permanent",
    "is_refused",
    "is_stale",
    "lacks_credentials",
    "place_errors",
    "require_room_for_sockets",
    "response_of",
]

GIVE_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role"
MORE_FILES = "raise the number of open files with `ulimit -n 4096`, then run the same command again"
_LONGEST_TEMPORARY = 107 - len("/pymp-12345678/listener-12345678")
"""Bytes of the longest socket path on Linux, minus what multiprocessing appends."""
_FREE_SPACE = "free space and run the same command again"
_CHECK = "check the address, the permissions or credentials, and the network or disk, then run the same command again"
_REMEDIES = {
    errno.EROFS: "choose a folder that can be written, or mount its disk for writing",
    errno.ENAMETOOLONG: "choose a shorter one; a name takes 255 bytes at most",
    errno.EMFILE: MORE_FILES,
}
"""Of errors that neither permissions nor another attempt would change."""
_SKEW_CODES = {"RequestTimeTooSkewed", "RequestExpired", "SignatureNotYetCurrent"}
_MOST_SKEW_SECONDS = 300.0
"""Below the quarter of an hour that AWS accepts; some stores accept less."""
_BUGS = (AssertionError, AttributeError, LookupError, NameError, TypeError)
"""Bugs of the program: no file system raises these otherwise. They keep their traceback."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)


@contextmanager
def place_errors(
    location: str, *, cannot_be: str = "used", kind: type[MeapError] = DataError, num_bytes: int | None = None
) -> Iterator[None]:
    """Turn any error of a file system into one that names `location` and the remedy, without secrets.

    Args:
        location: Path or URL, with or without its key.
        cannot_be: The operation that fails, such as `read` or `written`.
        kind: The class of the error.
        num_bytes: Bytes to write, for the message about a full disk.
    """
    try:
        yield
    except (MeapError, *_BUGS):
        raise
    except GaveUpError as error:
        if isinstance(error.error, (MeapError, *_BUGS)):
            raise error.error from None
        raise kind(_explain(location, error.error, cannot_be, num_bytes, error.attempts)) from error.error
    except Exception as error:
        raise kind(_explain(location, error, cannot_be, num_bytes)) from error


def _explain(location: str, error: Exception, cannot_be: str, num_bytes: int | None, attempts: int = 1) -> str:  # noqa: PLR0911
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    described = describe_error(error)
    if isinstance(error, FileNotFoundError):
        return f"{location} does not exist, or its bucket does not: check the spelling or create it"
    if (skew := clock_skew(error)) is not None:
        return f"{location}: access denied, since {skew}"
    if isinstance(error, PermissionError):
        return f"{location}: access denied ({described}): check the permissions, or the credentials in the environment"
    if is_full_disk(error):
        path = cast("str | None", getattr(error, "filename", None)) or location
        return f"{describe_full_disk(path, num_bytes=num_bytes)}: {_FREE_SPACE}"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return f"{location} cannot be {cannot_be} ({os.strerror(error.errno)}): {_REMEDIES[error.errno]}"
    if lacks_credentials(error):
        return f"{location}: no credentials found ({described}): {GIVE_CREDENTIALS}"
    if isinstance(error, ImportError):
        return f"{location}: a package for this kind of URL is missing ({described}): install it, where this runs"
    return f"{location} cannot be {cannot_be}{tried} ({described}): {_CHECK}"


def response_of(error: BaseException | None) -> dict[str, Any]:
    """A store's answer in an error of botocore, or in what an error was raised from; empty if there is none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return cast("dict[str, Any]", response)
        error = error.__cause__
    return {}


def code_of(error: BaseException) -> str:
    """The code in a store's answer, such as NoSuchKey."""
    return str(response_of(error).get("Error", {}).get("Code", ""))


def clock_skew(error: BaseException) -> str | None:
    """That a store refuses signatures since this machine's clock is wrong, and the remedy; None if it is not that.

    An answer without a body says 403 alone, but tells the store's time.
    """
    response = response_of(error)
    metadata = response.get("ResponseMetadata", {})
    is_said = code_of(error) in _SKEW_CODES
    if not is_said and metadata.get("HTTPStatusCode") not in {400, 403}:
        return None
    skew: float | None = None
    with suppress(ValueError, TypeError):
        date = parsedate_to_datetime(str(metadata.get("HTTPHeaders", {}).get("date")))
        skew = time.time() - date.timestamp()
    if not is_said and (skew is None or abs(skew) < _MOST_SKEW_SECONDS):
        return None
    by = ""
    if skew is not None and abs(skew) >= 1:
        by = f" by {timedelta(seconds=round(abs(skew)))} ({'ahead' if skew > 0 else 'behind'})"
    return f"this machine's clock differs from the store's{by}: set the clock (NTP); the credentials may be right"


def is_permanent(error: Exception) -> bool:
    """Whether another attempt at the same place would fail in the same way."""
    known = (MeapError, *_BUGS, *_FINAL)
    return isinstance(error, known) or code_of(error) in _SKEW_CODES or lacks_credentials(error) or is_full_disk(error)


def lacks_credentials(error: BaseException) -> bool:
    """Whether a store's library found no credentials; each library has its own error class."""
    return "Credentials" in type(error).__name__


def is_refused(error: BaseException) -> bool:
    """Whether a store does not accept the credentials, or its library found none; its answer to HEAD may be 400."""
    status = response_of(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return isinstance(error, PermissionError) or lacks_credentials(error) or status in {400, 401, 403}


def is_stale(error: BaseException) -> bool:
    """Whether a file was replaced on another machine while it was opened here; opened again, it is the new one."""
    return isinstance(error, OSError) and error.errno == errno.ESTALE


_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: BaseException) -> bool:
    """Whether `error` says that a disk, or a user's quota, is full; libraries in Rust say so in words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in _FULL)


def describe_full_disk(location: str | Path, *, num_bytes: int | None = None, free: int | None = None) -> str:
    """The path, the bytes needed where they are known, and the bytes free on its disk."""
    needed = "" if num_bytes is None else f"{num_bytes:,} bytes needed, "
    free = _free_bytes(location) if free is None else free
    return f"no space left for {location} ({needed}{free:,} bytes free on its disk)"


@contextmanager
def full_disk_errors(
    location: str | Path, *, num_bytes: int | None, kind: type[MeapError], remedy: str = _FREE_SPACE
) -> Iterator[None]:
    """Turn a full disk, or a limit on the size of files, into one error that names the place; others pass.

    Args:
        location: File or folder; it need not exist yet.
        num_bytes: Bytes to write.
        kind: The class of the error.
        remedy: What to do.
    """
    free = _free_bytes(location)
    try:
        yield
    except Exception as error:
        # torch raises an error of its own after a failed write.
        for each in (error, error.__cause__, error.__context__):
            if each is not None and is_full_disk(each):
                raise kind(f"{describe_full_disk(location, num_bytes=num_bytes, free=free)}: {remedy}") from error
            if isinstance(each, OSError) and each.errno == errno.EFBIG:
                raise kind(
                    f"{location} cannot be written ({os.strerror(errno.EFBIG)}, {num_bytes or 0:,} bytes): raise the "
                    "limit on the size of files (ulimit -f), or choose another file system"
                ) from error
        raise


def _free_bytes(location: str | Path) -> int:
    path = Path(location).absolute()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def require_room_for_sockets(otherwise: str) -> None:
    """Raise `ConfigError` where the folder for temporary files is too long a path for sockets of worker processes.

    Args:
        otherwise: The setting that needs none.
    """
    length = len(os.fsencode(folder := tempfile.gettempdir()))
    if length > _LONGEST_TEMPORARY:
        raise ConfigError(
            f"the folder for temporary files, {folder}, has a path of {length} bytes, and the sockets that worker "
            f"processes make there leave it {_LONGEST_TEMPORARY}: set TMPDIR to a shorter one, such as /tmp, or "
            f"{otherwise}"
        )

"""Why a file of a data set cannot be used, in users' words, and whether to retry."""

from __future__ import annotations

import errno
import re

from meap.errors import DataError
from meap.mds.findings import FETCH_AGAIN
from meap.places.problems import GIVE_CREDENTIALS, MORE_FILES, clock_skew, lacks_credentials
from meap.places.redaction import describe_error

__all__ = ["DamagedError", "RefusedError", "UnusableFileError", "explain", "is_final", "is_outage", "is_refusal"]

_TRY_AGAIN = "check the storage, then run the same command again"
_MISSING, _PASSING, _REFUSING = (404, 410), (408, 429), (400, 401, 403)
_CONNECTION = re.compile("Connect|Timeout|RetriesExceeded")
"""In the names of errors of botocore, s3transfer, requests and urllib3."""


class UnusableFileError(DataError):
    """A file of a data set is missing, damaged or unreachable."""

    def __init__(self, file: str, what: str, remedy: str) -> None:
        super().__init__(f"{file} {what}: {remedy}")
        self.file, self.what, self.remedy = file, what, remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Pickled, as between processes, an error would be made of its message alone."""
        return UnusableFileError, (self.file, self.what, self.remedy)


class DamagedError(Exception):
    """A file's content is not what the index or the manifest describes."""


class RefusedError(Exception):
    """The store rejects the request (HTTP 400)."""


def explain(error: Exception, attempts: int) -> tuple[str, str]:  # noqa: PLR0911  one for each reason
    """Describe why a file is unusable, and the remedy."""
    status = _http_status(error)
    if isinstance(error, DamagedError):
        return f"cannot be used after {attempts} attempt{'s' * (attempts > 1)}: {error}", FETCH_AGAIN
    if isinstance(error, FileNotFoundError) or status in _MISSING:
        return "is missing", FETCH_AGAIN
    if lacks_credentials(error):
        return f"could not be read: no credentials found ({describe_error(error)})", GIVE_CREDENTIALS
    if isinstance(error, RefusedError):
        remedy = "check S3_ENDPOINT_URL (http or https, the port), the region and the keys in the environment"
        return f"could not be read: the store refuses the request ({error})", remedy
    if (skew := clock_skew(error)) is not None:
        why, _, remedy = skew.partition(": ")
        return f"could not be read: access denied, since {why}", remedy
    if isinstance(error, PermissionError) or (status and is_final(error)):
        remedy = "check the credentials in the environment, and what they may read"
        return f"could not be read: access denied ({_refusal(error)})", remedy
    remedy = MORE_FILES if getattr(error, "errno", None) == errno.EMFILE else _TRY_AGAIN
    return f"could not be read in {attempts} attempt{'s' * (attempts > 1)} ({describe_error(error)})", remedy


def is_final(error: Exception) -> bool:
    """Whether a retry would fail in the same way."""
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING
    return isinstance(error, (DataError, FileNotFoundError, PermissionError, RefusedError)) or lacks_credentials(error)


def is_refusal(error: Exception) -> bool:
    """Whether the store does not accept the credentials; others may be there by now, where they hold for an hour."""
    is_refused = isinstance(error, (PermissionError, RefusedError)) or _http_status(error) in _REFUSING
    return (is_refused or lacks_credentials(error)) and clock_skew(error) is None


def is_outage(error: Exception) -> bool:
    """Whether the store could not be reached, or says that it cannot serve now: as when it is started anew."""
    status = _http_status(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(_CONNECTION.search(type(error).__name__))


def _http_status(error: Exception) -> int | None:
    """Status of the S3 response in an error of botocore."""
    response = getattr(error, "response", None)
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None


def _refusal(error: Exception) -> str:
    # streaming says "not found" for whatever was refused; the response itself says more.
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return describe_error(error)
    status, code = str(_http_status(error)), response.get("Error", {}).get("Code", "")
    return status if code in {"", status} else f"{status} {code}"

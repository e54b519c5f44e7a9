"""Optional packages: where one is missing, or of another version, one error says what wants it and how to install it.

Nothing is imported here. An import of a package that an extra of pyproject.toml brings stands behind
`require_packages`: in the `__init__` of its part of the library where every use of the part needs it, else before the
import itself. A test walks all imports.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NoReturn
from urllib.parse import urlsplit

from meap.errors import MissingPackageError

__all__ = ["how_to_install", "is_installed", "require_filesystem", "require_packages", "require_version"]

_FILE_SYSTEMS = {"s3": ("s3fs", "train"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
"""Scheme of a URL: what fsspec imports for it, and the extra that brings it."""


def require_packages(wish: str, *modules: str, extra: str) -> None:
    """Raise `MissingPackageError` unless every module can be found.

    Args:
        wish: What needs them, as users know it: a key with its value, or a part of the library.
        modules: Names as in an import statement, without dots.
        extra: The extra of pyproject.toml that brings them; empty for what every installation has.
    """
    missing = [module for module in modules if not is_installed(module)]
    if not missing:
        return
    names = " and ".join(module.replace("_", "-") for module in missing)
    verb = "is" if len(missing) == 1 else "are"
    _report(f"{wish} needs {names}, which {verb} not installed: {how_to_install(extra)}")


def require_version(wish: str, distribution: str, wanted: str) -> None:
    """Raise `MissingPackageError` unless exactly this version is installed.

    Args:
        wish: What leans on its internals.
        distribution: Name of the package, as pip knows it.
        wanted: The version whose internals those are.
    """
    try:
        found = version(distribution)
    except PackageNotFoundError:
        found = "of no known version"
    if found != wanted:
        _report(
            f"{distribution} {found} is installed, but {wish} works with the internals of {wanted} alone: "
            f"pip install {distribution}=={wanted}"
        )


def _report(message: str) -> NoReturn:
    error = MissingPackageError(message)
    if sys.argv[:1] == ["-m"]:
        # `python -m meap.prep.executors.slurm_task` imports the package before anything there could report errors.
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    raise error


def require_filesystem(location: str, *, key: str = "") -> None:
    """Raise `MissingPackageError` unless there is what reads and writes `location`, a path or a URL, given as `key`."""
    module, extra = _FILE_SYSTEMS.get(urlsplit(location).scheme, ("", ""))
    if module:
        require_packages(f"{key}={location}" if key else location, module, extra=extra)


def is_installed(module: str) -> bool:
    """Whether an import of `module`, a name without dots, would find it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # imported already, in a way that left no trace of where from
        return True


def how_to_install(extra: str) -> str:
    """What to do for the packages of an extra; without a name, for those that every installation has."""
    if not extra:
        return "make install (or pip install meap without --no-deps where meap is installed from a wheel)"
    return f"make install EXTRAS={extra} (or pip install 'meap[{extra}]' where meap is installed from a wheel)"

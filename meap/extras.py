"""Optional packages: if one is missing or of another version, an error says what needs it and how to install it.

Nothing is imported here. A package of an extra of pyproject.toml is imported after `require_packages`: in the
`__init__` of a subpackage if all of it needs the package, otherwise right before the import. A test walks all imports.
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
"""URL scheme -> the module that fsspec imports for it, and the extra that contains it."""


def require_packages(feature: str, *modules: str, extra: str) -> None:
    """Raise `MissingPackageError` unless every module can be found.

    Args:
        feature: What needs them, as users know it: a key with its value, or a part of the library.
        modules: Names as in an import statement, without dots.
        extra: The extra of pyproject.toml that contains them; empty for packages of every installation.
    """
    missing = [module for module in modules if not is_installed(module)]
    if not missing:
        return
    names = " and ".join(module.replace("_", "-") for module in missing)
    verb = "is" if len(missing) == 1 else "are"
    _report(f"{feature} needs {names}, which {verb} not installed: {how_to_install(extra)}")


def require_version(feature: str, distribution: str, expected: str) -> None:
    """Raise `MissingPackageError` unless exactly this version is installed.

    Args:
        feature: What uses its internals.
        distribution: Name of the package, as pip knows it.
        expected: The version that has these internals.
    """
    try:
        found = version(distribution)
    except PackageNotFoundError:
        found = "(unknown version)"
    if found != expected:
        _report(
            f"{distribution} {found} is installed, but {feature} works with the internals of {expected} alone: "
            f"pip install {distribution}=={expected}"
        )


def _report(message: str) -> NoReturn:
    error = MissingPackageError(message)
    if sys.argv[:1] == ["-m"]:
        # `python -m meap.prep.executors.slurm_task` imports the package before anything there could report errors.
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    raise error


def require_filesystem(location: str, *, key: str = "") -> None:
    """Raise `MissingPackageError` unless the package that reads and writes `location`, a path or URL, is installed."""
    module, extra = _FILE_SYSTEMS.get(urlsplit(location).scheme, ("", ""))
    if module:
        require_packages(f"{key}={location}" if key else location, module, extra=extra)


def is_installed(module: str) -> bool:
    """Whether an import of `module`, a name without dots, would find it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # already imported, without a spec
        return True


def how_to_install(extra: str) -> str:
    """The command that installs an extra; without a name, the packages of every installation."""
    if not extra:
        return "make install (or pip install meap without --no-deps where meap is installed from a wheel)"
    return f"make install EXTRAS={extra} (or pip install 'meap[{extra}]' where meap is installed from a wheel)"

"""Renders a template as one HTML file that opens offline, and writes it whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap.errors import DataError
from meap.extras import require_packages

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["STYLE_FILE", "render", "write_whole"]

_FOLDER = Path(__file__).resolve().parent
STYLE_FILE = _FOLDER / "style.css"


def render(template: str, **values: Any) -> str:
    """The text that a template of `templates/` gives; every value in it is escaped.

    Args:
        template: Its file name.
        values: What it names; a name without a value is an error.
    """
    return _environment().get_template(template).render(values)


def write_whole(option: str, path: Path, text: str) -> None:
    """Write a file completely or not at all.

    Args:
        option: The option or key that named the file.
        path: The file.
        text: Its content; what UTF-8 cannot hold is escaped.

    Raises:
        DataError: It cannot be written.
    """
    content = text.encode(errors="backslashreplace")
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(partial).chmod(0o644)
            Path(partial).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(partial).unlink()
            raise
    except OSError as error:
        raise DataError(f"{option} {path} could not be written ({error}): choose another place") from error


@cache
def _environment() -> Environment:
    require_packages("a page", "jinja2", extra="train")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([_FOLDER / "templates", STYLE_FILE.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

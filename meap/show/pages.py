"""Renders a template as one HTML file that opens offline, and writes it whole."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap.extras import require_packages

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["STYLE_FILE", "render"]

_FOLDER = Path(__file__).resolve().parent
STYLE_FILE = _FOLDER / "style.css"


def render(template: str, **values: Any) -> str:
    """The text that a template of `templates/` gives; every value in it is escaped.

    Args:
        template: Its file name.
        values: What it names; a name without a value is an error.
    """
    return _environment().get_template(template).render(values)


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

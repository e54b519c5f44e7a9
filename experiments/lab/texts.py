"""What the corpora of the experiments say, and the prompts that ask about them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap.errors import ConfigError
from meap.synthetic import generate_record

__all__ = ["TEXTS", "TextKind"]

Prompt = dict[str, Any]

_SHORTEST_DOCSTRING = 500


@dataclass(frozen=True)
class TextKind:
    """One kind of corpus."""

    text_of: Callable[[int, int], str] | None = None
    """Text number `index` of the corpus `seed`, where texts are made."""
    reads: Callable[[Sequence[str]], list[str]] | None = None
    """All texts of the sources, where they are read."""
    prompts: Callable[[int], Iterator[Prompt]] | None = None
    """Prompts of the evaluation `ranked`."""
    preparation: str = "c4_to_mds"


def documentation(packages: Sequence[str]) -> list[str]:
    """Docstrings of installed packages, each once, in an order of their own that is always the same.

    Real prose that every installation of this project has: requirements.lock pins the packages. Tests and docstrings
    of less than 500 characters are left out.

    Raises:
        ConfigError: A package is not installed.
    """
    found: dict[str, None] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"{package!r} is not an installed package: name others whose documentation to read")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*.py")):
            if "tests" not in path.relative_to(root).parts:
                found |= dict.fromkeys(_docstrings(path.read_text(encoding="utf-8")))
    texts = list(found)
    random.Random("documentation").shuffle(texts)  # noqa: S311
    return texts


def _docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = inspect.cleandoc(ast.get_docstring(node) or "")
            if len(text) >= _SHORTEST_DOCSTRING:
                yield text


TEXTS = {
    "records": TextKind(text_of=generate_record),
    "documentation": TextKind(reads=documentation),
}
"""Kinds of corpora by name."""

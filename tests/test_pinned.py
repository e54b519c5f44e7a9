"""Private names of streaming, Composer and datatrove are used in `pinned/` alone, where their versions are fixed.

What can be seen in the syntax counts: imports of private names, access to private attributes, private methods of a
library's class that a subclass uses or overrides, and what is assigned to a library's modules and classes.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from meap import extras
from meap.errors import MissingPackageError

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for part in ("meap", "recipes", "experiments", "dataprep") for path in (ROOT / part).rglob("*.py")
)
LIBRARIES = {"streaming", "composer", "datatrove"}
PACKAGES = {"meap.data.pinned": "mosaicml-streaming", "meap.prep.pinned": "datatrove", "meap.train.pinned": "mosaicml"}
OF_OTHER_LIBRARIES = {
    "_attn_implementation": "transformers",
    "_dynamo": "torch",
    "_exit": "os",
    "_get_default_store": "torch",
    "_index_queues": "torch",
    "_is_in_bad_fork": "torch",
    "_on_queue_feeder_error": "multiprocessing",
    "_reconstruct": "numpy",
    "_shutdown": "torch",
    "_shutdown_workers": "torch",
    "_strip_protocol": "fsspec",
    "_worker_pids_set": "torch",
    "_workers": "torch",
}
"""Private attributes that are none of these three libraries'."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


# --- what classes are made of ---


class ClassSource:
    """A class, or all classes of one name: the names of its bases, and the private names that it has of itself."""

    def __init__(self) -> None:
        self.bases: set[str] = set()
        self.private: set[str] = set()

    def add(self, node: ast.ClassDef, bases: set[str]) -> None:
        self.bases |= bases
        for each in ast.walk(node):
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                name = each.name
            elif isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store) and is_self(each.value):
                name = each.attr
            elif isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                name = each.id
            else:
                continue
            if is_private(name):
                self.private.add(name)


def is_self(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def imported(tree: ast.AST) -> dict[str, str]:
    """Local names of what a file imports, and the full ones."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name.split(".")[0]: each.name if each.asname else each.name.split(".")[0]
                      for each in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of an expression such as `Trainer` or `composer.Trainer`; empty where it is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{owner}.{node.attr}" if (owner := dotted(node.value, names)) else ""
    return dotted(node.value, names) if isinstance(node, ast.Subscript) else ""


@cache
def library_classes(library: str) -> dict[str, ClassSource]:
    classes: dict[str, ClassSource] = {}
    spec = find_spec(library)
    assert spec is not None
    assert spec.origin is not None
    for path in Path(spec.origin).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {dotted(base, {}).rpartition(".")[2] for base in node.bases} - {""}
                classes.setdefault(node.name, ClassSource()).add(node, bases)
    return classes


def private_names_of(library: str, name: str) -> set[str]:
    """Private names of a library's class, with those of its bases."""
    classes, found, waiting, seen = library_classes(library), set[str](), [name], set[str]()
    while waiting:
        each = waiting.pop()
        if each in classes and each not in seen:
            seen.add(each)
            found |= classes[each].private
            waiting += classes[each].bases
    return found


@cache
def own_classes() -> dict[str, set[str]]:
    """Full names of the bases of this project's classes, by the class's short name."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imported(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(dotted(base, names) for base in node.bases)
    return found


def inherited(bases: set[str]) -> set[str]:
    """Private names that a class has from libraries, be it through classes of this project."""
    found, waiting, seen = set[str](), list(bases), set[str]()
    while waiting:
        base = waiting.pop()
        top, name = base.partition(".")[0], base.rpartition(".")[2]
        if base in seen:
            continue
        seen.add(base)
        if top in LIBRARIES:
            found |= private_names_of(top, name)
        elif top in {"meap", name}:
            waiting += own_classes().get(name, set())
    return found


# --- what a file must not do ---


def mocks(source: str) -> list[str]:
    names = imported(ast.parse(source)).values()
    return [f"imports {name}" for name in names if re.match(r"(unittest\.mock|mock)\b", name)]


def uses_of_internals(source: str) -> list[str]:
    tree = ast.parse(source)
    names = imported(tree)
    return [
        *(f"imports {name}" for name in names.values() if in_library(name) and any(map(is_private, name.split(".")))),
        *(f"imports {name}" for name in modules(tree) if in_library(name) and any(map(is_private, name.split(".")))),
        *private_attributes(tree),
        *assignments(tree, names),
        *overrides(tree, names),
    ]


def in_library(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] in LIBRARIES


def modules(tree: ast.AST) -> list[str]:
    return [each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names]


def named_attributes(tree: ast.AST) -> Iterator[tuple[ast.expr, str, bool]]:
    """Owner, name and whether it is assigned: of `a.b`, and of `getattr(a, "b")` and its kin."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.value, node.attr, not isinstance(node.ctx, ast.Load)
        elif isinstance(node, ast.Call) and len(node.args) >= 2 and isinstance(node.args[1], ast.Constant):
            function = node.func.id if isinstance(node.func, ast.Name) else ""
            if function in {"getattr", "hasattr", "setattr", "delattr"}:
                yield node.args[0], str(node.args[1].value), function in {"setattr", "delattr"}


def private_attributes(tree: ast.AST) -> Iterator[str]:
    """Private attributes of anything but this file's own classes."""
    own = ClassSource()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            own.add(node, set())
    for owner, name, _ in named_attributes(tree):
        if is_private(name) and not is_self(owner) and name not in own.private and name not in OF_OTHER_LIBRARIES:
            yield f"uses {ast.unparse(owner)}.{name}"


def assignments(tree: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """Assignments to what is imported from a library: `module.name = ours`."""
    for owner, name, is_assigned in named_attributes(tree):
        if is_assigned and in_library(full := dotted(owner, names)):
            yield f"assigns {full}.{name}"


def overrides(tree: ast.AST, names: dict[str, str]) -> Iterator[str]:
    """Private names that a class has from a library, and that its subclass here defines or uses."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        theirs = inherited({dotted(base, names) for base in node.bases})
        own = ClassSource()
        own.add(node, set())
        used = {name for owner, name, _ in named_attributes(node) if is_self(owner)}
        yield from (f"{node.name} uses {name}" for name in sorted((own.private | used) & theirs))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_internals_of_libraries_are_used_in_pinned_alone(path: Path):
    source = path.read_text(encoding="utf-8")
    assert not mocks(source)
    if "pinned" not in path.relative_to(ROOT).parent.parts:
        assert not uses_of_internals(source), "prefer a public way, or put it into pinned/"


def test_pinned_is_where_they_are_used():
    for package in PACKAGES:
        files = (ROOT / package.replace(".", "/")).glob("*.py")
        assert any(uses_of_internals(path.read_text(encoding="utf-8")) for path in files), f"{package} is not needed"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from streaming.base.dataset import _Iterator", "imports streaming.base.dataset._Iterator"),
        ("import composer._version", "imports composer._version"),
        ("def late():\n    from datatrove._private import step", "imports datatrove._private.step"),
        ("def clean(stream):\n    stream._downloader.clean_up()", "uses stream._downloader"),
        ("lock = getattr(iterator, '_lock')", "uses iterator._lock"),
        ("import streaming.base.dataset as theirs\ntheirs.get_shm_prefix = None", "assigns streaming.base."),
        ("import composer\nsetattr(composer, 'Trainer', None)", "assigns composer.Trainer"),
        ("from composer import Trainer\nTrainer.fit = None", "assigns composer.Trainer.fit"),
        ("from composer import Trainer\ndel Trainer.fit", "assigns composer.Trainer.fit"),
        ("import composer\nclass T(composer.Trainer):\n    def _train_batch(self): ...", "T uses _train_batch"),
        ("from composer import Trainer as Q\nclass T(Q):\n    x = self._original_model", "T uses _original_model"),
        ("from datatrove.executor import RayPipelineExecutor as R\nclass E(R):\n    x = super()._run_for_rank",
         "E uses _run_for_rank"),
        ("from meap.train.pinned.step import LeanTrainer\nclass T(LeanTrainer):\n    x = self._train_data_spec",
         "T uses _train_data_spec"),
        ("from meap.data import StreamingMaskedDataset\nclass D(StreamingMaskedDataset):\n    def _get_work(self): ...",
         "D uses _get_work"),
    ],
)  # fmt: skip
def test_each_way_to_use_internals_is_seen(source, found):
    assert any(each.startswith(found) for each in uses_of_internals(source)), uses_of_internals(source)


@pytest.mark.parametrize(
    "source",
    ["import unittest.mock as m", "from unittest import mock", "from unittest.mock import patch", "import mock"],
)
def test_each_way_to_import_mock_is_seen(source):
    assert mocks(source)


@pytest.mark.parametrize(
    "source",
    [
        "from composer.core import Callback\nclass C(Callback):\n    def f(self): self._mine = self._other",
        "class A:\n    def __init__(self): self._owner = 1\ndef f(a: A): return a._owner",
        "import composer\nmine = composer.Trainer\nclass B:\n    _x = 1\n    def f(self, module): module.x = self._x",
    ],
)
def test_what_is_public_or_our_own_is_allowed(source):
    assert not uses_of_internals(source)


@pytest.mark.parametrize("package", PACKAGES)
def test_another_version_is_refused_with_the_one_to_install(package, monkeypatch):
    module = importlib.import_module(package)
    pins = dict(re.findall(r'"([\w-]+)(?:\[[\w,]+\])?==([\w.]+)"', (ROOT / "pyproject.toml").read_text()))
    distribution = PACKAGES[package]
    monkeypatch.setattr(extras, "version", lambda name: {distribution: "9.9"}[name])
    remedy = rf"^{distribution} 9\.9 is installed, but .* pip install {distribution}=={re.escape(pins[distribution])}$"
    with pytest.raises(MissingPackageError, match=remedy):
        importlib.reload(module)

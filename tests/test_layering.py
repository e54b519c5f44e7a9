"""Who may import whom: data flows one way, and so do imports. Also: importing the library has no side effects."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted((ROOT / "meap").rglob("*.py"))

CORE = {
    "answers",
    "errors",
    "extras",
    "noise",
    "schema",
    "arrays",
    "masking",
    "philox",
    "positions",
    "packing",
    "json_text",
    "manifest",
    "synthetic",
    "processes",
    "rope",
    "run_files",
    "usage",
}
CONFIGURED_CORE = CORE | {"back_off", "config", "mds", "model_sizes", "places", "tokenizer"}
ALLOWED = {
    **dict.fromkeys(CORE, CORE),
    "back_off": {"processes"},
    "model_sizes": {"errors", "json_text"},
    "places": {"back_off", "errors", "extras", "json_text", "places", "processes"},
    "mds": {"errors", "extras", "json_text", "mds"},
    "config": {"config", "errors", "extras", "json_text", "noise", "places", "processes"},
    "tokenizer": {"config", "errors", "json_text", "manifest", "places"},
    "checkpoints": CONFIGURED_CORE | {"checkpoints"},
    "show": CORE | {"places", "show"},
    "prep": CONFIGURED_CORE | {"prep", "show"},
    "data": CONFIGURED_CORE | {"data"},
    "train": CONFIGURED_CORE | {"checkpoints", "data", "show", "train"},
    "export": CONFIGURED_CORE | {"checkpoints", "export"},
    "evals": CONFIGURED_CORE | {"evals", "show"},
    "inspect": CONFIGURED_CORE | {"data", "inspect", "show"},
    "report": CONFIGURED_CORE | {"report", "show"},
    "generation": CONFIGURED_CORE | {"evals"},
    "environment": CONFIGURED_CORE | {"show", "train"},
    "cli": CONFIGURED_CORE | {"environment", "generation", "inspect", "prep", "report", "show"},
    "__main__": {"cli"},
    "__init__": set(),
}

THIRD_PARTY_HOMES = {
    "datatrove": {"prep"},
    "fsspec": {"places", "prep"},
    "tenacity": {"back_off"},
    "zstandard": {"mds", "prep"},
    "composer": {"train"},
    "streaming": {"data"},
    "fastokens": {"prep"},
    "fasttext": {"prep"},
    "numba": {"prep"},
    "spacy": {"prep"},
    "torch": {"checkpoints", "data", "train", "export", "evals", "inspect", "generation", "environment"},
    "transformers": {"prep", "train", "export", "evals", "generation"},
    "peft": {"train", "export"},
    "yaml": {"config"},
    "tokenizers": {"tokenizer", "prep"},
    "matplotlib": {"show"},
    "jinja2": {"prep", "show"},
    "rich": {"show"},
    "lm_eval": {"evals"},
    "rouge_score": {"evals"},
    "datasets": {"evals"},
    "openai": {"evals"},
    "scipy": {"evals"},
}
CORE_LIBRARIES = {"numpy"}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "meap").parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


ENTRY_POINTS = {"dataprep", "recipes", "experiments", "benchmarks", "tests"}


def test_every_part_has_a_rule():
    assert {part_of(path) for path in LIBRARY} <= set(ALLOWED)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path: Path):
    part = part_of(path)
    for module in imported_modules(path):
        top, *below = module.split(".")
        assert top not in ENTRY_POINTS, f"{path} imports an entry point: {module}"
        if top == "meap" and below and below[0] != "__version__":
            assert below[0] in ALLOWED[part], f"{path} ({part}) may not import meap.{below[0]}"
        if top in THIRD_PARTY_HOMES:
            assert part in THIRD_PARTY_HOMES[top], f"{path} ({part}) may not import {top}"
        if part in CORE and top not in sys.stdlib_module_names | CORE_LIBRARIES | {"meap"}:
            raise AssertionError(f"{path} is core and may not import {top}")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_between(sources: dict[str, Path]) -> dict[str, set[str]]:
    """The files that each file imports, wherever in it: at its head, in a function, or for type checking alone."""

    def file_of(name: str) -> str:
        return name if name in sources else name.rpartition(".")[0]

    found = {module: {file_of(name) for name in imported_modules(path)} for module, path in sources.items()}
    return {module: imported & sources.keys() for module, imported in found.items()}


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Files of which each imports the next, and the last the first; empty where there are none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_files_import_each_other_in_a_circle():
    assert not circle(imports_between({module_of(path): path for path in LIBRARY}))


@pytest.mark.parametrize(
    "third",
    [
        "import meap.a.x",
        "from meap.a import x",
        "from meap.a.x import name",
        "def late():\n    from meap.a import x",
        "if TYPE_CHECKING:\n    from meap.a.x import Name",
    ],
)
def test_a_circle_is_seen_wherever_its_imports_stand(tmp_path, third):
    contents = {"meap.a": "from meap.a.x import y", "meap.a.x": "from meap.b import name", "meap.b": "import meap.c"}
    sources = {name: tmp_path / name for name in [*contents, "meap.c"]}
    for name, path in sources.items():
        path.write_text(contents.get(name, ""))
    assert not circle(imports_between(sources))
    sources["meap.c"].write_text(third)
    assert set(circle(imports_between(sources))) == {"meap.a.x", "meap.b", "meap.c"}


@pytest.mark.parametrize("folder", ["dataprep", "recipes", "experiments"])
def test_nothing_imports_entry_points_and_they_import_heavy_libraries_late(folder: str):
    for path in (ROOT / folder).glob("*.py"):
        top_level = {
            name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        heavy = {name for name in top_level if name and name.split(".")[0] not in sys.stdlib_module_names}
        light = {"meap.config", "meap.processes", "lab.declaration"}
        assert heavy <= light, f"{path} imports {heavy} before it has read its arguments"


def test_importing_the_core_is_light_and_changes_nothing():
    probe = (
        "import os, sys, random\n"
        "before = dict(os.environ), random.getstate()\n"
        "import meap.masking, meap.packing, meap.schema, meap.manifest, meap.config, meap.tokenizer, meap.synthetic\n"
        "assert before == (dict(os.environ), random.getstate())\n"
        "heavy = {'torch', 'composer', 'streaming', 'datatrove', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=60)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_and_exports(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not tree.body:
        return
    assert ast.get_docstring(tree), f"{path} has no docstring"
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]
    ]
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    public = {name for name in defined if not name.startswith("_")}
    if public:
        assert exported, f"{path} defines {sorted(public)} but has no __all__"
        assert public <= set(exported[0]), f"{path} does not export {sorted(public - set(exported[0]))}"

"""README.md and docs/ tell the truth: their commands, files, keys, links and yamls exist."""

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
from lab.declaration import ExperimentConfig, MapConfig

from meap.cli import COMMANDS
from meap.config import (
    EvaluationConfig,
    LitpkdsPrepConfig,
    PrepConfig,
    RecipeConfig,
    SftPrepConfig,
    load_config,
)
from meap.config.keys import config_keys, fields_of, hint_at, is_section

from .fault_table import FAULTS

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "yamls/README.md",
        ROOT / "experiments/README.md",
        ROOT / "meap/train/README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}
BLOCKS = {
    page: re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE) for page, text in PAGES.items()
}
PROSE = {page: re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE) for page, text in PAGES.items()}
CONFIGS = {
    "dataprep/c4_to_mds.py": PrepConfig,
    "dataprep/litpkds_to_mds.py": LitpkdsPrepConfig,
    "dataprep/sft_to_mds.py": SftPrepConfig,
    "recipes/evaluate.py": EvaluationConfig,
    "experiments/run.py": ExperimentConfig,
    "experiments/map.py": MapConfig,
}
"""What an entry point is configured by, where it is not a training."""


def commands() -> list[str]:
    blocks = "\n".join(content for blocks in BLOCKS.values() for _, content in blocks)
    lines = [line.split("  #")[0].strip() for line in blocks.replace("\\\n", " ").splitlines()]
    inline = [code.replace("\n", " ") for text in PROSE.values() for code in re.findall(r"`([^`]+)`", text)]
    started = re.compile(r"(MEAP_\w+=\d+ )?(make|meap|python|composer|torchrun|sbatch) \S")
    return sorted({command for command in lines + inline if started.match(command)})


def test_there_are_commands_to_check():
    assert len(commands()) >= 30


@pytest.mark.parametrize("command", commands())
def test_commands_name_real_files_targets_and_keys(command: str):
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    for each in [word for word in words if word in {"&&", ";", "#"}][:1]:
        words = words[: words.index(each)]
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in words[1:]), words
        return
    if words[0] == "meap":
        if not words[1].isupper() and not words[1].startswith("-"):
            load_config(COMMANDS[words[1]].config, None, [word for word in words[2:] if not word.startswith("-")])
        return
    assert words[1] != "-m", "the command is `meap`"
    scripts = [word for word in words if word.endswith((".py", ".sbatch"))]
    yamls = [word for word in words if word.endswith(".yaml") and "=" not in word]
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    for each in scripts + yamls:
        assert (ROOT / each).is_file(), each
    entry_point = scripts[-1]
    if not entry_point.startswith("benchmarks/") and "recipes/..." not in words:
        load_config(CONFIGS.get(entry_point, RecipeConfig), ROOT / yamls[0] if yamls else None, overrides)


def inline_keys() -> list[tuple[str, str]]:
    """Page and key of whatever prose names as `section.key`, with or without a value."""
    sections = {
        name for each in [RecipeConfig, *CONFIGS.values()] for name, hint in fields_of(each).items() if is_section(hint)
    }
    return [
        (page, code)
        for page, text in PROSE.items()
        for code in re.findall(r"`([a-z_]+\.[\w.<>]+)(?:[=:] ?[^`]*)?`", text)
        if code.split(".")[0] in sections and not code.endswith((".yaml", ".py", ".json"))
    ]


@pytest.mark.parametrize(("page", "key"), sorted(set(inline_keys())))
def test_keys_in_prose_exist(page: str, key: str):
    assert any(hint_at(each, key.split(".")) is not None for each in [RecipeConfig, *CONFIGS.values()]), page


def test_there_are_keys_to_check():
    assert len(inline_keys()) >= 40


@pytest.mark.parametrize("code", [code for blocks in BLOCKS.values() for kind, code in blocks if kind == "python"])
def test_python_calls_what_there_is(code: str):
    names = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("meap"):
            module = importlib.import_module(node.module)
            names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            arguments = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(names[node.func.id]).bind(*node.args, **arguments)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(page: str):
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", PROSE[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page}: {target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """What the headings of a page are linked by, on a forge and on the site."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower())) for title in titles}


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", PAGES["README.md"]))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == linked


def test_the_site_has_every_page():
    nav = (ROOT / "mkdocs.yml").read_text().split("nav:\n")[1]
    assert {page.removeprefix("docs/") for page in PAGES} - set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE)) == set()


def test_the_reference_names_modules():
    names = re.findall(r"^::: (\S+)$", "\n".join(PAGES.values()), flags=re.MULTILINE)
    assert len(names) >= 15
    for name in names:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


def test_the_reference_has_every_section():
    shown = re.findall(r"^::: (meap\.config\.\S+)$", PAGES["docs/reference/configuration.md"], flags=re.MULTILINE)
    classes = {
        value for name in shown for value in vars(importlib.import_module(name)).values() if inspect.isclass(value)
    }
    for config in [RecipeConfig, *(each for each in CONFIGS.values() if each.__module__.startswith("meap."))]:
        for key in config_keys(config):
            hint = hint_at(config, key.split("."))
            assert not inspect.isclass(hint) or not is_section(hint) or hint in classes, key


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_pages_have_no_path_of_a_machine():
    for page, text in PAGES.items():
        assert not re.search(r"(?<![\w.:])/(work|home|root|mnt)/", text), page


def test_the_picture_of_the_flow_is_what_its_script_draws(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("flow", ROOT / "docs/flow.py")
    flow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(flow)
    monkeypatch.setattr(flow, "__file__", str(tmp_path / "flow.py"))
    flow.main()
    assert (tmp_path / "flow.svg").read_text() == (ROOT / "docs/flow.svg").read_text(), "run python docs/flow.py"


def test_the_tree_is_the_tree():
    (tree,) = [block for _, block in BLOCKS["docs/architecture.md"] if block.startswith("README.md ")]
    top_level = {line.split()[0].rstrip("/") for line in tree.splitlines() if line and not line.startswith(" ")}
    for entry in top_level:
        assert (ROOT / entry).exists(), entry
    parents = [ROOT]
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path = parents[depth] / line.split()[0]
        assert path.exists(), path
        parents[depth + 1 :] = [path]
    parts = {path.name for path in (ROOT / "meap").iterdir() if not path.name.startswith("_")}
    shown = {
        line.split()[0].rstrip("/")
        for line in tree.split("meap/ ")[1].split("recipes/")[0].splitlines()[1:]
        if line and not line.startswith("    ")
    }
    assert parts == shown


@pytest.mark.parametrize("page", PAGES)
def test_files_in_prose_exist(page: str):
    for path in re.findall(
        r"`((?:meap|recipes|dataprep|yamls|tests|experiments|benchmarks|docs)/[\w/.-]*)`", PROSE[page]
    ):
        assert (ROOT / path).exists(), path


def test_the_yaml_table_lists_every_training_yaml_with_its_size():
    listed = set(re.findall(r"`([\w.]+\.yaml)`", PAGES["docs/train.md"]))
    assert {
        path.name for path in (ROOT / "yamls").glob("*.yaml") if not path.name.startswith(("prep_", "eval"))
    } <= listed


def test_every_fault_has_its_row():
    table = PAGES["docs/guarantees.md"].split("<!-- faults")[1].split("<!-- /faults -->")[0]
    rows = [row.split("|")[1:4] for row in table.splitlines() if row.startswith("| ")]
    shown = {fault.strip(): (outcome.strip(), by) for fault, outcome, by in rows if fault}
    for fault, outcome in FAULTS.values():
        assert shown[fault][0] == outcome
        assert re.match(r" [1-9]\d* tests?,? ", shown[fault][1]), "written by `make faults`"

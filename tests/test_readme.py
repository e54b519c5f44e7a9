"""The README tells the truth: its commands, files, keys and yamls exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from meap.config import (
    EvaluationConfig,
    LitpkdsPrepConfig,
    PrepConfig,
    ProofConfig,
    SftPrepConfig,
    TrainingConfig,
    load_config,
)

from .fault_table import FAULTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(BLOCKS).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if re.match(r"(make|python|composer) ", line.strip())]


def test_there_are_commands_to_check():
    assert len(commands()) >= 8


@pytest.mark.parametrize("command", commands())
def test_commands_name_real_files_targets_and_keys(command: str):
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        return
    if words[1] == "-m":
        assert importlib.util.find_spec(f"{words[2]}.__main__"), words[2]
        return
    scripts = [word for word in words if word.endswith(".py")]
    yamls = [word for word in words if word.endswith(".yaml") and "=" not in word]
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    for each in scripts + yamls:
        assert (ROOT / each).is_file(), each
    config_class = {
        "dataprep/c4_to_mds.py": PrepConfig,
        "dataprep/litpkds_to_mds.py": LitpkdsPrepConfig,
        "dataprep/sft_to_mds.py": SftPrepConfig,
        "recipes/evaluate.py": EvaluationConfig,
        "recipes/proof.py": ProofConfig,
    }.get(scripts[0], TrainingConfig)
    load_config(config_class, ROOT / yamls[0] if yamls else None, overrides)


def test_the_tree_is_the_tree():
    (tree,) = [block for block in BLOCKS if block.startswith("README.md ")]
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
    assert parts - {"synthetic_words.py"} == shown


def test_what_to_edit_exists():
    for path in re.findall(r"`((?:meap|recipes|dataprep|yamls|tests)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


def test_every_link_to_a_file_resolves():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_yaml_table_lists_every_training_yaml_with_its_size():
    listed = set(re.findall(r"`([\w.]+\.yaml)`", README))
    assert {
        path.name for path in (ROOT / "yamls").glob("*.yaml") if not path.name.startswith(("prep_", "eval", "proof_"))
    } <= listed


def test_every_fault_has_its_row():
    rows = [row.split("|")[1:4] for row in README.split("<!-- /faults -->")[0].splitlines() if row.startswith("| ")]
    shown = {fault.strip(): (outcome.strip(), by) for fault, outcome, by in rows if fault}
    for fault, outcome in FAULTS.values():
        assert shown[fault][0] == outcome
        assert re.match(r" [1-9]\d* tests?,? ", shown[fault][1]), "written by `make faults`"

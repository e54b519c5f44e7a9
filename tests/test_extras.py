"""A package that is missing: found before work starts, named with what wants it and the command that installs it."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from meap.cli import main
from meap.config import EvaluationConfig, LoggersConfig, load_config
from meap.errors import ConfigError, MissingPackageError
from meap.extras import require_filesystem, require_packages

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for part in ("meap", "recipes", "experiments", "dataprep") for path in (ROOT / part).rglob("*.py")
)
HOMES = {"fasttext": "fasttext-numpy2-wheel", "mlflow": "mlflow-skinny", "flash_attn": "flash-attn",
         "liger_kernel": "liger-kernel", "gcsfs": "gcsfs"}  # fmt: skip
"""Distributions of modules that may not be installed here, or that several have."""


def plain(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def declared() -> dict[str, set[str]]:
    """Distributions by extra, and those every installation has under an empty name; without what they need."""
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split("optional-dependencies]")[1].split("\n[tool")[0]
    extras = dict(re.findall(r"^(\w+) = \[(.*?)\]$", section, re.MULTILINE | re.DOTALL))
    extras[""] = re.search(r"^dependencies = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL).group(1)
    return {name: {plain(each) for each in re.findall(r'"([^"]+)"', listed)} for name, listed in extras.items()}


def with_their_needs(distributions: set[str]) -> set[str]:
    found, waiting = set(), list(distributions)
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            try:
                waiting += [plain(need) for need in requires(each) or [] if "extra ==" not in need]
            except PackageNotFoundError:  # for other machines, or not installed here
                continue
    return found


NEEDS = {extra: with_their_needs(distributions) for extra, distributions in declared().items()}
ALWAYS_THERE = NEEDS[""]
DISTRIBUTIONS = packages_distributions()


def homes(module: str) -> set[str]:
    return {HOMES[module]} if module in HOMES else {plain(each) for each in DISTRIBUTIONS.get(module, [module])}


@cache
def guards(path: Path) -> dict[str, str]:
    """Modules that a file requires, and the extra it names for each."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require_packages":
            extra = next((keyword.value for keyword in node.keywords if keyword.arg == "extra"), None)
            modules = [each.value for each in node.args[1:] if isinstance(each, ast.Constant)]
            found |= {module: extra.value for module in modules if isinstance(extra, ast.Constant)}
    return found


def optional_imports(path: Path) -> set[str]:
    """Modules of other projects that a file imports and that a bare installation lacks."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"import_module", "find_spec"}:
            names |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    is_script = ROOT / "meap" not in path.parents
    beside = {each.stem for each in path.parent.iterdir() if is_script}  # what it imports from its own folder
    tops = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"meap", "__future__"} - beside
    return {top for top in tops if not homes(top) & ALWAYS_THERE}


def guarded_by(path: Path) -> dict[str, str]:
    """By itself, or by what is always there before it."""
    first, second, *_ = path.relative_to(ROOT).parts
    part = ROOT / "experiments/run.py" if first == "experiments" else ROOT / "meap" / second / "__init__.py"
    return guards(path) | (guards(part) if part.is_file() else {})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_optional_import_is_guarded_and_its_extra_brings_it(path: Path):
    guarded = guarded_by(path)
    for module in optional_imports(path):
        assert module in guarded, f"{path} imports {module}: put it behind meap.extras.require_packages"
        extra = guarded[module]
        assert homes(module) & NEEDS[extra], f"{path}: extra {extra} does not bring {module}"


def test_there_are_optional_imports_to_guard():
    everything = set().union(*map(optional_imports, SOURCES))
    assert {"torch", "composer", "streaming", "datatrove", "flash_attn", "wandb", "mlflow", "ray", "lm_eval", "openai",
            "rouge_score", "datasets", "matplotlib", "scipy", "fasttext"} <= everything  # fmt: skip


@pytest.fixture
def hide(monkeypatch):
    def hide(*modules: str) -> None:
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)

    return hide


def remedy(extra: str) -> str:
    return rf"make install EXTRAS={extra} \(or pip install 'meap\[{extra}\]' where meap is installed from a wheel\)"


def test_what_is_missing_is_named_with_who_wants_it_and_the_remedy(hide):
    hide("wandb", "mlflow")
    require_packages("loggers.tensorboard=true", "tensorboard", extra="train")
    said = f"^loggers.wandb=true needs wandb, which is not installed: {remedy('wandb')}$"
    with pytest.raises(MissingPackageError, match=said):
        require_packages("loggers.wandb=true", "wandb", extra="wandb")
    with pytest.raises(MissingPackageError, match="^it needs wandb and mlflow, which are not installed: "):
        require_packages("it", "wandb", "json", "mlflow", extra="dev")
    assert issubclass(MissingPackageError, (ConfigError, ImportError))


def test_each_logger_says_what_it_misses(hide):
    for key, extra in (("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "train")):
        hide(key)
        with pytest.raises(MissingPackageError, match=rf"^loggers\.{key}=true needs {key}, .*{remedy(extra)}"):
            LoggersConfig(**{"tensorboard": False} | {key: True}).require_packages()


@pytest.mark.parametrize(
    ("task", "module", "overrides"),
    [
        ("commonsense", "lm_eval", []),
        ("commonsense", "datasets", []),
        ("needle_fu", "rouge_score", []),
        ("hallucination", "rouge_score", []),
        ("hallucination", "openai", ["judge.model=m", "judge.input_price=0", "judge.output_price=0"]),
        ("hallucination", "datasets", ["hallucination.xsum=owner/xsum"]),
        ("attention_decay", "scipy", []),
    ],
)
def test_an_evaluation_ends_before_its_first_task_and_others_run(hide, task, module, overrides):
    from meap.evals.runner import require_packages_of

    hide(module)
    config = load_config(EvaluationConfig, None, overrides)
    with pytest.raises(
        MissingPackageError, match=rf"^tasks={task} needs {module.replace('_', '-')}, .*{remedy('eval')}"
    ):
        require_packages_of(["perplexity", task], config)
    require_packages_of(["perplexity", "key_retrieval"], config)


def test_without_judge_and_hub_neither_of_their_packages_is_needed(hide):
    from meap.evals.runner import require_packages_of

    hide("openai", "datasets")
    require_packages_of(["hallucination"], load_config(EvaluationConfig, None, ["hallucination.xsum=own.jsonl"]))


def test_a_place_that_needs_a_package_names_the_key(hide):
    hide("gcsfs")
    with pytest.raises(MissingPackageError, match=rf"^data\.remote=gs://b/c4 needs gcsfs, .*{remedy('gcs')}"):
        require_filesystem("gs://b/c4", key="data.remote")
    require_filesystem("data/c4", key="data.remote")


def test_what_a_gpu_needs_names_its_extra(hide):
    from meap.train.attention import choose_attention
    from meap.train.speed import choose_kernels

    hide("flash_attn", "liger_kernel")
    with pytest.raises(
        ConfigError, match=rf"model\.attention=flash_attention_2 needs .*not installed: {remedy('gpu')}"
    ):
        choose_attention("flash_attention_2", on_gpu=True, bf16=True)
    with pytest.raises(ConfigError, match=rf"model\.kernels=liger needs .*not installed: {remedy('gpu')}"):
        choose_kernels("liger", on_gpu=True, compiled=False)


def test_filters_name_their_extra(hide, tmp_path):
    from meap.config.removal import FiltersConfig
    from meap.prep.removal.filters import require_word_splitter
    from meap.prep.removal.languages import require_model

    model = tmp_path / "lid.bin"
    model.write_bytes(b"")
    hide("fasttext")
    with pytest.raises(MissingPackageError, match=rf"^filters\.languages needs fasttext, .*{remedy('filters')}"):
        require_model(FiltersConfig(languages=("en",), language_model=str(model)))
    hide("spacy")
    with pytest.raises(MissingPackageError, match=rf"^filters\.words=deu needs more packages .*{remedy('filters')}"):
        require_word_splitter("filters.words", "deu")


PARTS = [path.parent.name for path in sorted((ROOT / "meap").glob("*/__init__.py")) if guards(path)]


def test_every_part_of_the_library_says_what_it_misses():
    """Each in a process of its own, forked before anything heavy is there."""
    probe = (
        "import os, sys\n"
        "import meap.errors\n"
        "for part, module in [line.split() for line in sys.stdin]:\n"
        "    if os.fork() == 0:\n"
        "        sys.modules[module] = None\n"
        "        try:\n"
        "            __import__(f'meap.{part}')\n"
        "            print(part, module, 'nothing', flush=True)\n"
        "        except meap.errors.MissingPackageError as error:\n"
        "            print(part, module, error, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    pairs = [(part, module) for part in PARTS for module in guards(ROOT / "meap" / part / "__init__.py")]
    asked = "".join(f"{part} {module}\n" for part, module in pairs)
    done = subprocess.run(
        [sys.executable, "-c", probe], input=asked, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(pairs) > 20
    for (part, module), line in zip(pairs, said, strict=True):
        # A part imports others, which may say it first.
        said = rf"^{part} {module} meap\.\w+ needs {module}, which is not installed: make install EXTRAS=\w+ "
        assert re.search(said, line)


@pytest.mark.parametrize("name", ["verify", "stats", "inspect", "generate"])
def test_a_command_says_it_in_one_line(name, hide, monkeypatch, capsys):
    hide("datatrove", "streaming", "torch")
    for module in [each for each in sys.modules if each.startswith(("meap.prep", "meap.inspect", "meap.evals"))]:
        monkeypatch.delitem(sys.modules, module)
    assert main([name, "remote=nowhere"] if name != "generate" else [name, "model=nowhere", "prompt=x"]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: meap[. ]\w+ needs \w+, which is not installed: make install EXTRAS=\w+ .*", error)


BACKEND = """
import zipfile
def write(folder, wheel, files):
    with zipfile.ZipFile(f"{folder}/{wheel}", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel
def metadata():
    return "Metadata-Version: 2.1\\nName: meap\\nVersion: 1\\nProvides-Extra: gpu\\nProvides-Extra: wandb\\n" \\
        "Requires-Dist: fast>=1; extra == 'gpu'\\nRequires-Dist: shown; extra == 'wandb'\\n"
def build_editable(folder, settings=None, metadata_directory=None):
    info = "meap-1.dist-info"
    return write(folder, "meap-1-py3-none-any.whl", {
        f"{info}/METADATA": metadata(), "meap.pth": "/nowhere",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n", f"{info}/RECORD": ""})
"""
"""A project of one line, so that the Makefile can be run for what it does with pip."""


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with this Makefile, a locked package of which a newer version exists, and two extras."""
    folder, wheels = tmp_path / "project", tmp_path / "wheels"
    folder.mkdir()
    wheels.mkdir()
    needs = {("locked", "1"): "", ("locked", "2"): "", ("fast", "1"): "locked", ("shown", "1"): "locked"}
    for wheel in ("ninja", "packaging", "psutil", "wheel"):
        needs[wheel, "1"] = ""
    for (name, version), need in needs.items():
        with zipfile.ZipFile(wheels / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            info = f"{name}-{version}.dist-info"
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            archive.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {need}\n" if need else ""))
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256((wheels / "locked-1-py3-none-any.whl").read_bytes()).hexdigest()
    (folder / "requirements-dev.lock").write_text("")
    (folder / "requirements.lock").write_text(f"locked==1 \\\n    --hash=sha256:{digest}\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "meap"\nversion = "1"\n[project.optional-dependencies]\n'
        'gpu = ["fast>=1"]\nwandb = ["shown"]\n[tool.any]\n'
    )
    (folder / "backend.py").write_text(BACKEND)
    shutil.copy(ROOT / "Makefile", folder)
    return folder


@pytest.mark.slow
def test_make_installs_extras_beside_what_is_locked(project):
    tools = project.parent / "tools"
    tools.mkdir()
    for name in ("sed", "sh", "touch", "make", "which", "uv"):
        (tools / name).symlink_to(shutil.which(name) or Path(sys.executable).with_name(name))
    settings = project.parent / "uv.toml"
    settings.write_text(f"no-index = true\nfind-links = ['{project.parent / 'wheels'}']\n")
    environment = {"PATH": str(tools), "UV_CONFIG_FILE": str(settings), "UV_CACHE_DIR": str(project.parent / "cache")}

    def make(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "install", f"PYTHON={sys.executable}", *arguments]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    def installed() -> dict[str, str]:
        found = [path.name.removesuffix(".dist-info") for path in project.glob(".venv/lib/*/site-packages/*.dist-info")]
        return {name: version for name, _, version in (each.rpartition("-") for each in found) if name in names}

    names = {"meap", "locked", "fast", "shown", "ninja"}
    refused = make("EXTRAS=gpu,gqu")
    assert (refused.returncode, installed()) == (2, {})
    assert "EXTRAS=gpu,gqu: choose from gpu wandb, separated by commas." in refused.stderr

    for arguments, expected in (
        ([], {"meap": "1", "locked": "1"}),
        (["EXTRAS=wandb"], {"meap": "1", "locked": "1", "shown": "1"}),
        (["EXTRAS=gpu"], {"meap": "1", "locked": "1", "shown": "1", "fast": "1", "ninja": "1"}),
        ([], {"meap": "1", "locked": "1", "shown": "1", "fast": "1", "ninja": "1"}),
    ):
        done = make(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert installed() == expected
        (origin,) = project.glob(".venv/lib/*/site-packages/meap-1.dist-info/direct_url.json")
        assert json.loads(origin.read_text())["dir_info"]["editable"]
    assert "pip" not in done.stdout  # nothing is installed again

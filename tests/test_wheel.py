"""The wheel in an empty environment, without a network and without its dependencies: what can run there runs."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import meap
from meap.cli import COMMANDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(project_root, tmp_path_factory) -> Path:
    """Built by the project's own backend from the files that git would give."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "meap"):
        (source / name).symlink_to(project_root / name)
    build = f"import setuptools.build_meta as backend; print(backend.build_wheel({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_it_has_everything_that_is_not_code(wheel, project_root):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = project_root / "meap"
    files = {f"meap/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name and not name.endswith(".md")}
    assert {"meap/py.typed", "meap/show/style.css", "meap/synthetic/words.json"} <= expected
    assert expected - names == set()
    assert {name.split("/")[0] for name in names} == {"meap", f"meap-{meap.__version__}.dist-info"}


def test_without_its_dependencies_it_explains_itself(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (entry,) = (site / f"meap-{meap.__version__}.dist-info/entry_points.txt").read_text().strip().splitlines()[1:]
    assert entry == "meap = meap.cli:start"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-c", "from meap.cli import start; start()", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert run("--version").stdout == f"meap {meap.__version__}\n"
    for arguments in ([], *([name] for name in COMMANDS)):
        done = run(*arguments, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
    for name in COMMANDS:
        done = run(name, "model=x")
        assert done.returncode == 2
        assert done.stderr.startswith("error: meap needs fsspec and huggingface-hub and numpy ")
        assert done.stderr.count("\n") == 1

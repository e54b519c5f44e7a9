"""The GPU check at the size of a CPU, with no packages but those of an image for GPUs and the wheels that it names."""

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .lengths import IS_THOROUGH

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Exactness of attention and masks has tests of its own, whatever the size of the environment.
CHECKS = ("step", "resume", "export", "packed", *(("attention", "masks", "kernels") if IS_THOROUGH else ()))
ROOT = Path(__file__).resolve().parent.parent
WHEELS = (ROOT / "benchmarks/gpu_wheels.txt").read_text()


def with_dependencies(names: Iterable[str]) -> set[str]:
    """Those of the names that are installed, and what they ask for."""
    found: set[str] = set()
    left = [*names]
    while left:
        name = canonicalize_name(left.pop())
        try:
            wishes = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            left += [wish.name for wish in wishes if wish.marker is None or wish.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """The Python of an environment that holds these packages and no others."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    in_image = re.search(r"In the image, with their dependencies: (.*?)\.\n", WHEELS.replace("\n# ", " "), re.DOTALL)
    assert in_image is not None
    wheels = dict(re.findall(r"^([a-z-]+)==(\S+)$", WHEELS, re.MULTILINE))
    assert {name: metadata.version(name) for name in wheels} == wheels
    for name in with_dependencies(in_image[1].split(", ")) | wheels.keys():
        installed = metadata.distribution(name)
        for top in {path.parts[0] for path in installed.files or [] if path.parts[0] not in {"..", "__pycache__"}}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(installed.locate_file(top))))
    return folder / "bin/python"


def test_it_runs_with_what_it_names(image, tmp_path):
    python = str(image)
    absent = subprocess.run([python, "-c", "import datatrove"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in absent.stderr
    results = tmp_path / "results.json"
    command = [python, str(ROOT / "benchmarks/gpu_check.py"), "--size", "small", "--results", str(results)]
    environment = {name: each for name, each in os.environ.items() if name != "PYTHONPATH"} | {"TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        [*command, "--minutes", "60", "--only", ",".join(CHECKS)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    checks = json.loads(results.read_text())["checks"]
    left_out = set() if has_gpu() else {"kernels"}
    assert {name: check["status"] for name, check in checks.items()} == {
        name: "left out" if name in left_out else "passed" for name in CHECKS
    }
    assert checks["resume"]["figures"]["losses that differ"] == 0
    assert checks["step"]["figures"]["tokens_per_second"] > 0
    assert not results.with_suffix(".runs").exists(), "what it trained is gone"


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def test_without_a_gpu_it_says_how_to_try_it(tmp_path):
    if has_gpu():
        pytest.skip("there is a GPU here")
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--results", str(tmp_path / "results.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "sees no CUDA device: use --size small" in ended.stderr
    assert not (tmp_path / "results.json").exists()

"""The sample job of recipes/train.sbatch on a real Slurm of two nodes, one task on each."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import losses

pytestmark = pytest.mark.slow

RESOURCES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=10")


@pytest.fixture
def submit(slurm, quiet_environment, project_root, tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """Submit the sample job for its recipe with a yaml; the command ends with the job."""
    if "SLURM_LOCAL_DISK" not in slurm:
        pytest.skip("NOT TESTED: no mount namespaces here, without which both nodes would share one /dev/shm")
    environment = (
        quiet_environment
        | slurm
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{slurm['PATH']}",
            "PYTHONPATH": str(project_root),
            "TMPDIR": slurm["SLURM_LOCAL_DISK"],
            "MASTER_ADDR": "127.0.0.1",  # the nodes of this cluster have no names of their own
        }
    )

    def run(yaml: Path) -> subprocess.Popen[str]:
        recipe = (str(project_root / "recipes/train.sbatch"), str(project_root / "recipes/meap_1b.py"))
        return subprocess.Popen(
            ["sbatch", "--wait", "--parsable", *RESOURCES, *recipe, str(yaml)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


def test_two_nodes_give_the_losses_of_one_process(train, config_file, submit, tmp_path, slurm):
    job = submit(
        config_file(tmp_path / "nodes", "train.max_duration=12ba", f"checkpoint.folder={slurm['SLURM_LOCAL_DISK']}/ck")
    )
    alone = train(tmp_path / "alone", "train.max_duration=12ba")
    told, _ = job.communicate(timeout=300)
    printed = (tmp_path / f"slurm-{told.strip()}.out").read_text()
    assert job.returncode == 0, printed
    assert "machine    2 x cpu" in printed
    assert losses(tmp_path / "nodes") == pytest.approx(alone, abs=1e-5)

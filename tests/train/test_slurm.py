"""The sample job of recipes/train.sbatch on a real Slurm of two nodes, one task on each."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import losses

pytestmark = pytest.mark.slow
# Composer's own search for checkpoints has one signal file for all nodes that share a folder.

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


@pytest.fixture
def ask_slurm(slurm) -> Callable[..., list[str]]:
    """Run one of Slurm's commands; the words of its answer."""

    def run(*command: str) -> list[str]:
        answer = subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, check=True)
        return answer.stdout.split()

    return run


def test_two_nodes_give_the_losses_of_one_process(train, config_file, submit, tmp_path):
    job = submit(config_file(tmp_path / "nodes", "train.max_duration=12ba"))
    alone = train(tmp_path / "alone", "train.max_duration=12ba")
    told, _ = job.communicate(timeout=300)
    printed = (tmp_path / f"slurm-{told.strip()}.out").read_text()
    assert job.returncode == 0, printed
    assert "machine    2 x cpu" in printed
    assert losses(tmp_path / "nodes") == pytest.approx(alone, abs=1e-5)


def test_a_job_asked_to_stop_saves_and_goes_back_to_the_queue(
    train, config_file, submit, ask_slurm, wait_until, tmp_path
):
    constant = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999", "checkpoint.interval=100000ba")
    job = submit(config_file(tmp_path / "run", *constant, "train.max_duration=100000ba"))
    assert job.stdout is not None
    job_id = job.stdout.readline().strip()
    log = tmp_path / f"slurm-{job_id}.out"
    wait_until(lambda: log.exists() and ("step      5/" in log.read_text() or job.poll()))
    ask_slurm("scancel", "--signal=TERM", job_id)
    wait_until(lambda: ask_slurm("squeue", "--noheader", "--format=%T", f"--jobs={job_id}") == ["PENDING"])
    stopped = re.search(r"stopped by SIGTERM at step (\d+)", log.read_text())
    assert stopped, log.read_text()
    ask_slurm("scancel", job_id)
    job.communicate(timeout=60)

    # One process elsewhere goes on where the two nodes stopped.
    further = f"train.max_duration={int(stopped[1]) + 3}ba"
    whole = train(tmp_path / "whole", *constant, further)
    assert train(tmp_path / "run", *constant, further) == pytest.approx(whole, abs=1e-5)

"""What starts the ranks: several hosts give the run of one process, and a rank that fails takes the others with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from meap.checkpoints import CheckpointStore

from . import two_hosts
from .conftest import losses

pytestmark = pytest.mark.slow

COMPOSER = str(Path(sys.executable).with_name("composer"))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
PORT = "29573"


@pytest.fixture
def start(quiet_environment, project_root, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in a session of its own, which is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=quiet_environment | {"PYTHONPATH": str(project_root)} | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for each in members(process.pid):
            each.kill()
        process.communicate()


def members(session: int) -> list[psutil.Process]:
    """The processes of a session that are at work."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


def nothing_lingers(launcher: subprocess.Popen[str]) -> bool:
    """Whether all that it started ends too; loader workers and trackers need a moment to see that they are alone."""
    _, alive = psutil.wait_procs(members(launcher.pid), timeout=30)
    return not alive


def test_two_hosts_give_the_losses_of_one_process(train, config_file, start, project_root, tmp_path):
    # Composer's own search for checkpoints has one signal file for all nodes that share a folder.
    if reason := two_hosts.missing():
        pytest.skip(reason)
    with two_hosts.two_hosts(tmp_path) as hosts:
        # As on a cluster: the run's folder is shared, the cache and temporary files are on each host's own disk.
        disk = hosts[0].local_disk
        config = config_file(tmp_path / "hosts", "train.max_duration=12ba", f"data.cache_dir={disk}")
        ranks = [
            start(
                *host.command(COMPOSER, "-n", "1", "--world_size", "2", "--node_rank", str(number)),
                *("--master_addr", hosts[0].address, "--master_port", PORT),
                *(str(project_root / "recipes/meap_1b.py"), str(config)),
                TMPDIR=str(disk),
                GLOO_SOCKET_IFNAME=two_hosts.INTERFACE,
            )
            for number, host in enumerate(hosts)
        ]
        alone = train(tmp_path / "alone", "train.max_duration=12ba")
        printed = [process.communicate(timeout=300)[0] for process in ranks]
        assert [process.returncode for process in ranks] == [0, 0], printed
        own_shards = [{path.name for path in (tmp_path / host.namespace).rglob("*.mds")} for host in hosts]
    assert losses(tmp_path / "hosts") == pytest.approx(alone, abs=1e-5)
    assert all(own_shards)


@pytest.mark.fault(5)
def test_a_rank_that_is_killed_ends_composers_launcher(config_file, start, project_root, tmp_path):
    config = config_file(tmp_path / "run", "train.max_duration=100000ba", "checkpoint.interval=100000ba")
    launcher = start(COMPOSER, "-n", "2", str(project_root / "recipes/meap_1b.py"), str(config))
    assert launcher.stdout is not None
    assert any(line.startswith("step ") for line in launcher.stdout)
    victim = next(each for each in members(launcher.pid) if each.environ().get("RANK") == "1")
    victim.send_signal(signal.SIGKILL)
    launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert nothing_lingers(launcher)


@pytest.mark.fault(5)
def test_torchrun_that_is_asked_to_stop_ends_with_all_saved(config_file, start, project_root, tmp_path):
    settings = ("train.max_duration=100000ba", "checkpoint.interval=100000ba", "data.num_workers=1")
    config = config_file(tmp_path / "run", *settings, "train.eval_batches=1", "train.eval_interval=2ba")
    recipe = str(project_root / "recipes/meap_1b.py")
    command = start(*TORCHRUN, "--standalone", "--nproc-per-node=2", recipe, str(config))
    assert command.stdout is not None
    assert any("heldout loss" in line for line in command.stdout)
    command.send_signal(signal.SIGTERM)
    printed, _ = command.communicate(timeout=60)
    assert "everything is saved; run the same command again to resume" in printed
    assert command.returncode != 0
    assert nothing_lingers(command)
    assert CheckpointStore(str(tmp_path / "run/checkpoints")).steps()


def test_a_rank_that_refuses_its_configuration_ends_torchruns_others(
    config_file, start, project_root, warm_python, tmp_path
):
    config = config_file(tmp_path / "run")
    recipe = f'exec "{sys.executable}" "{project_root}/recipes/meap_1b.py" "{config}" train.eval_batches=-$RANK'
    launcher = start(
        warm_python, *TORCHRUN[1:], "--standalone", "--nproc-per-node=2", "--no-python", "sh", "-c", recipe
    )
    printed, _ = launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert "error: train.eval_batches=-1" in printed
    assert nothing_lingers(launcher)


def test_a_rank_that_finds_no_other_says_where_it_looked(config_file, start, project_root, warm_python, tmp_path):
    config = config_file(tmp_path / "run", "train.dist_timeout=1")
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "1"}
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": PORT}
    alone = start(warm_python, str(project_root / "recipes/meap_1b.py"), str(config), **ranks, **master)
    printed, _ = alone.communicate(timeout=120)
    assert alone.returncode == 1, printed
    assert f"error: rank 1 of 2 does not find the others at 127.0.0.1:{PORT} (" in printed

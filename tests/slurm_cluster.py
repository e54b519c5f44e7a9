"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, all their files in one folder.

Where the kernel allows it, each node has a /dev/shm and a local disk of its own, as hosts do: a tmpfs in a mount
namespace of its slurmd.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
NODES = ("n1", "n2")


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    if os.geteuid() != 0:
        return "NOT TESTED: Slurm's daemons need root: run the tests as root, as .ci/run does in a container"
    if absent := [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]:
        return (
            f"NOT TESTED: {', '.join(absent)} not installed: "
            "apt-get install -y --no-install-recommends slurm-wlm munge (as .ci/run does)"
        )
    return ""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start it, and give the environment variables that lead to it.

    SLURM_LOCAL_DISK is a folder that is another one on each node; missing where the nodes cannot be told apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    conf = folder / "slurm.conf"
    conf.write_text(_configuration(folder))

    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": _PATH}
    local = folder / "local"
    local.mkdir()
    mounts = " && ".join(f"mount -t tmpfs tmpfs '{place}'" for place in ("/dev/shm", local))
    apart = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "node"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        apart = []
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    commands = [
        [
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"),
            *(f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"),
        ],
        ["slurmctld", "-D", "-f", str(conf)],
        *([*apart, "slurmd", "-D", "-f", str(conf), "-N", node] for node in NODES),
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    with (folder / "daemons.log").open("wb") as log:
        try:
            for command in commands:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
                if command[0] == "munged":
                    _wait((folder / "munge.socket").exists, folder)
            _wait(lambda: _idle_nodes(environment) == len(NODES), folder)
            yield {"SLURM_CONF": str(conf), "PATH": _PATH} | ({"SLURM_LOCAL_DISK": str(local)} if apart else {})
        finally:
            if len(daemons) == len(commands):
                _end_jobs(environment)
            for daemon in reversed(daemons):
                with suppress(ProcessLookupError):
                    os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()


def _end_jobs(environment: dict[str, str]) -> None:
    """Their processes outlive slurmd."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        subprocess.run(["scancel", "--user=root"], check=False, env=environment, capture_output=True)
        if not subprocess.run(["squeue", "--noheader"], check=True, env=environment, capture_output=True).stdout:
            return
        time.sleep(0.1)


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _configuration(folder: Path) -> str:
    host = socket.gethostname()
    controller_port, *node_ports = _free_ports(1 + len(NODES))
    for name in ("state", *NODES):
        (folder / name).mkdir(exist_ok=True)
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=8000 State=UNKNOWN"
        for node, port in zip(NODES, node_ports, strict=True)
    )
    return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
MinJobAge=60
MaxArraySize=2
KillWait=2
{nodes}
PartitionName=main Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _idle_nodes(environment: dict[str, str]) -> int:
    answer = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"], env=environment, capture_output=True, text=True, check=False
    )
    return answer.stdout.split().count("idle")


def _wait(condition, folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"the cluster does not start, see the logs in {folder}"
        time.sleep(0.05)

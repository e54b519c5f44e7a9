"""Ranks from environments that launchers and Slurm were seen to make."""

import os
import subprocess
import sys

import pytest

from meap.errors import ConfigError
from meap.train.ranks import rank_variables

ALLOCATION = {
    "SLURM_JOB_ID": "4",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "16",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_TASKS_PER_NODE": "8(x2)",
}
BATCH_SCRIPT = ALLOCATION | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
COMPOSER = {
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "NODE_RANK": "1",
    "MASTER_ADDR": "gpu01",
    "MASTER_PORT": "29500",
}
TORCHRUN = {key: value for key, value in COMPOSER.items() if key != "NODE_RANK"} | {
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_RANK": "9",
    "TORCHELASTIC_RUN_ID": "none",
}


def task(rank: int, *, nodes: int = 2, per_node: int = 8, nodelist: str = "n[1-2]") -> dict[str, str]:
    """The environment of one task of `srun --ntasks-per-node`, as Slurm 22.05 makes it."""
    return BATCH_SCRIPT | {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": nodelist,
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NUM_TASKS": str(nodes * per_node),
        "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{nodes})" if nodes > 1 else str(per_node),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % per_node),
        "SLURM_NODEID": str(rank // per_node),
    }


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 8), (2, 8), (2, 1), (3, 2)])
def test_slurms_tasks_are_the_ranks_that_composer_would_start(nodes, per_node):
    ranks = [rank_variables(task(rank, nodes=nodes, per_node=per_node)) for rank in range(nodes * per_node)]
    assert [int(each["RANK"]) for each in ranks] == list(range(nodes * per_node))
    assert [divmod(int(each["RANK"]), per_node) for each in ranks] == [
        (int(each["NODE_RANK"]), int(each["LOCAL_RANK"])) for each in ranks
    ]
    shared = {
        (each["WORLD_SIZE"], each["LOCAL_WORLD_SIZE"], each["MASTER_ADDR"], each["MASTER_PORT"]) for each in ranks
    }
    assert shared == {(str(nodes * per_node), str(per_node), "n1", "20004")}
    assert ranks[-1].keys() == COMPOSER.keys()


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("n[1-2]", "n1"),
        ("gpu-a[007-008,011],gpu-b1", "gpu-a007"),
        ("gpu-b1,gpu-a[007-008]", "gpu-b1"),
        ("node3", "node3"),
        ("rack[2-3]-gpu", "rack2-gpu"),
        ("ip-10-0-0-7.internal,ip-10-0-0-8.internal", "ip-10-0-0-7.internal"),
    ],
)
def test_rank_zeros_node_is_the_first_of_the_step(nodelist, first):
    assert rank_variables(task(3, nodelist=nodelist))["MASTER_ADDR"] == first


def test_what_the_job_script_exports_is_kept():
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501", "WORLD_SIZE": "16"}
    assert given.items() <= rank_variables(task(3) | given).items()


def test_launchers_are_trusted_in_an_allocation_too():
    assert rank_variables(COMPOSER) == COMPOSER
    assert rank_variables(COMPOSER | BATCH_SCRIPT) == COMPOSER
    assert rank_variables(COMPOSER | task(1, per_node=1)) == COMPOSER  # one launcher per node
    assert rank_variables(TORCHRUN) == COMPOSER


@pytest.mark.parametrize(
    "environment",
    [
        {},
        ALLOCATION,  # salloc's shell, without srun
        BATCH_SCRIPT | {"SLURM_NTASKS": "1"},
        task(0, nodes=1, per_node=1),
        {"MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"},
    ],
)
def test_one_process_needs_no_variables(environment):
    assert rank_variables(environment) == {}


def test_what_is_set_is_the_same_when_read_again():
    once = rank_variables(task(9))
    assert rank_variables(task(9) | once) == once


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, r"holds RANK=0, WORLD_SIZE=2, but not LOCAL_RANK, LOCAL_WORLD_SIZE: start"),
        (COMPOSER | {"RANK": "one"}, r"RANK='one' in the environment is not a number"),
        (COMPOSER | {"RANK": "16"}, r"RANK=16, WORLD_SIZE=16.* contradict each other"),
        (COMPOSER | {"LOCAL_RANK": "8"}, r"LOCAL_RANK=8.* contradict each other"),
        (COMPOSER | {"LOCAL_WORLD_SIZE": "0"}, r"LOCAL_WORLD_SIZE=0.* contradict each other"),
        (COMPOSER | {"WORLD_SIZE": "12"}, r"WORLD_SIZE=12.* contradict each other"),
        (COMPOSER | {"NODE_RANK": "0"}, r"ranks must be numbered node by node"),
        (COMPOSER | {"MASTER_ADDR": ""}, r"several ranks, but MASTER_ADDR not in the environment: set the host name"),
        (task(3) | {"WORLD_SIZE": "8"}, r"WORLD_SIZE=8, but by Slurm this task's is 16: unset WORLD_SIZE"),
        (task(3) | {"SLURM_LOCALID": "0"}, r"give --distribution=block|srun give --distribution=block"),
        (
            task(3) | {"SLURM_STEP_TASKS_PER_NODE": "9,7"},
            r"16 tasks on 2 nodes as 9,7, but every node must have as many",
        ),
        (task(3) | {"SLURM_STEP_NUM_TASKS": "x"}, r"SLURM_STEP_NUM_TASKS='x' in the environment is not a number"),
        (BATCH_SCRIPT, r"job has 16 tasks, but its script starts one process: write srun before the command"),
        (
            task(3) | COMPOSER | {"WORLD_SIZE": "1"},
            r"WORLD_SIZE=1, but srun started 16 tasks, which would train the same",
        ),
    ],
)
def test_half_an_environment_is_refused(environment, told):
    with pytest.raises(ConfigError, match=told):
        rank_variables(environment)


def test_it_needs_nothing_but_the_standard_library():
    """It must come before whatever reads the variables when imported."""
    code = "import sys, meap.train.ranks; print(sorted({'torch', 'composer', 'streaming', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert answer.stdout == "[]\n"

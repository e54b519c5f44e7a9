"""Which rank this process is, as composer, torchrun, srun or plain python has started it.

Composer, streaming and torch all read the variables that `composer` sets, some of them when they are imported: so
`adopt_ranks` comes first in a recipe. Slurm's tasks are ranks themselves (one task per device), which needs no launcher
in between: a job's signals reach every rank, and one import of everything is saved.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from meap.errors import ConfigError

__all__ = ["Ranks", "adopt_ranks", "rank_variables"]

_RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MASTER_NAMES = ("MASTER_ADDR", "MASTER_PORT")
_LAUNCH = "start the recipe with `composer`, `torchrun` or `srun`, which set them all, or unset them for one process"
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000  # below those that systems hand out by themselves
_FIRST_HOST = re.compile(r"(?P<before>[^,\[]*)(?:\[(?P<number>\d+)[^\]]*\])?(?P<after>[^,\[]*)")


@dataclass(frozen=True)
class Ranks:
    """How many processes train together."""

    world_size: int = 1
    ranks_per_node: int = 1

    @property
    def num_nodes(self) -> int:
        """Machines of the run."""
        return self.world_size // self.ranks_per_node


def adopt_ranks() -> Ranks:
    """Set the variables that Composer, streaming and torch read, for this process and its children.

    Raises:
        ConfigError: See `rank_variables`.
    """
    variables = rank_variables(os.environ)
    os.environ.update(variables)
    return Ranks(int(variables.get("WORLD_SIZE", "1")), int(variables.get("LOCAL_WORLD_SIZE", "1")))


def rank_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The rank variables of a process, as `composer` would set them; empty where it is the only one.

    Args:
        environment: The process's environment.

    Raises:
        ConfigError: Some variables are missing, contradict each other, or spread ranks unevenly over nodes.

    Example:
        >>> step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
        >>> task = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "70"}
        >>> variables = rank_variables({**step, **task, "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[07-08]"})
        >>> variables["RANK"], variables["LOCAL_RANK"], variables["MASTER_ADDR"], variables["MASTER_PORT"]
        ('3', '1', 'gpu07', '20070')
    """
    given = {name: environment[name] for name in (*_RANK_NAMES, "NODE_RANK") if environment.get(name)}
    num_tasks = _number({"SLURM_STEP_NUM_TASKS": "1", **environment}, "SLURM_STEP_NUM_TASKS")
    if all(name in given for name in _RANK_NAMES):
        if _number(given, "WORLD_SIZE") < num_tasks:
            raise ConfigError(
                f"WORLD_SIZE={given['WORLD_SIZE']}, but srun started {num_tasks} tasks, which would train the same run "
                f"side by side: unset {', '.join(_RANK_NAMES)}, or start one launcher per node with --world_size"
            )
        variables = {**given, "NODE_RANK": given.get("NODE_RANK") or environment.get("GROUP_RANK") or "0"}
    elif num_tasks > 1:
        variables = _slurm_ranks(environment)
        for name, value in given.items():
            if value != variables[name]:
                raise ConfigError(
                    f"{name}={value}, but by Slurm this task's is {variables[name]}: unset {', '.join(given)}"
                )
    elif given:
        missing = [name for name in _RANK_NAMES if name not in given]
        found = ", ".join(f"{name}={value}" for name, value in given.items())
        raise ConfigError(f"the environment holds {found}, but not {', '.join(missing)}: {_LAUNCH}")
    else:
        _require_srun(environment)
        return {}
    _require_consistent(variables)
    if int(variables["WORLD_SIZE"]) > 1:
        variables |= _master(environment)
    return variables


def _slurm_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    num_tasks, num_nodes = (_number(environment, f"SLURM_STEP_NUM_{of}") for of in ("TASKS", "NODES"))
    if "," in per_node or num_tasks % num_nodes:
        raise ConfigError(
            f"Slurm gave this step {num_tasks} tasks on {num_nodes} nodes as {per_node}, but every node must have as "
            "many ranks as the others: give srun --ntasks-per-node (one task per GPU) instead of --ntasks"
        )
    return {
        "RANK": str(_number(environment, "SLURM_PROCID")),
        "WORLD_SIZE": str(num_tasks),
        "LOCAL_RANK": str(_number(environment, "SLURM_LOCALID")),
        "LOCAL_WORLD_SIZE": str(num_tasks // num_nodes),
        "NODE_RANK": str(_number(environment, "SLURM_NODEID")),
    }


def _require_srun(environment: Mapping[str, str]) -> None:
    """Refuse a batch script without srun: it runs once, and would train on one of its devices."""
    num_tasks = environment.get("SLURM_NTASKS", "1")
    if "SLURM_PROCID" in environment and not environment.get("SLURM_STEP_NUM_TASKS") and num_tasks != "1":
        raise ConfigError(
            f"this Slurm job has {num_tasks} tasks, but its script starts one process: write srun before the command"
        )


def _require_consistent(variables: Mapping[str, str]) -> None:
    rank, world_size, local_rank, local_world_size, node_rank = (
        _number(variables, name) for name in (*_RANK_NAMES, "NODE_RANK")
    )
    found = ", ".join(f"{name}={variables[name]}" for name in (*_RANK_NAMES, "NODE_RANK"))
    if not (local_rank < local_world_size and rank < world_size) or world_size % local_world_size:
        raise ConfigError(f"{found} contradict each other: {_LAUNCH}")
    if rank != node_rank * local_world_size + local_rank:
        raise ConfigError(
            f"{found}: ranks must be numbered node by node, RANK = NODE_RANK * LOCAL_WORLD_SIZE + LOCAL_RANK; "
            "with srun give --distribution=block, with composer the right --node_rank"
        )


def _master(environment: Mapping[str, str]) -> dict[str, str]:
    given = {name: environment[name] for name in _MASTER_NAMES if environment.get(name)}
    derived: dict[str, str] = {}
    if nodes := environment.get("SLURM_STEP_NODELIST"):
        match = _FIRST_HOST.match(nodes)
        assert match is not None  # it matches the empty string
        derived["MASTER_ADDR"] = "".join(part or "" for part in match.groups())
        # Two jobs may share a node, so they must not share a port.
        step = _number(environment, "SLURM_JOB_ID") + _number(environment, "SLURM_STEP_ID")
        derived["MASTER_PORT"] = str(_FIRST_PORT + step % _NUM_PORTS)
    missing = [name for name in _MASTER_NAMES if name not in {**derived, **given}]
    if missing:
        raise ConfigError(
            f"there are several ranks, but {' and '.join(missing)} not in the environment: set the host name of "
            "rank 0's node and a free port there, the same for all ranks"
        )
    return derived | given


def _number(variables: Mapping[str, str], name: str) -> int:
    value = variables.get(name, "")
    if not value.isdecimal():
        raise ConfigError(f"{name}={value!r} in the environment is not a number: {_LAUNCH}")
    return int(value)

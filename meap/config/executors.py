"""What runs the tasks of data preparation: processes of this machine, Slurm, or Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from meap.config.checks import require_at_least, require_one_of
from meap.errors import ConfigError

__all__ = ["EXECUTORS", "ExecutorConfig", "RayConfig", "SlurmConfig"]

EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class SlurmConfig:
    """How Slurm runs the tasks, each as one element of an array job; for executor=slurm only."""

    partition: str | None = None
    """Partition to submit to. Unset: the cluster's default."""
    time_hours: float = 20.0
    """Time limit of one task in hours, at least 0.01; not as sbatch's 20:00:00."""
    cpus_per_task: int = 1
    """Cores of one task, at least 1; a task tokenizes on one."""
    mem_per_cpu_gb: int = 4
    """Memory of one task in GiB per core, at least 1."""
    qos: str | None = None
    """Quality of service to submit with. Unset: the cluster's default."""
    sbatch_args: dict[str, str] = field(default_factory=dict[str, str])
    """Further arguments of sbatch by name, without the leading dashes, as slurm.sbatch_args.account=physics."""
    env_command: str | None = None
    """Shell line that puts this project's `python` on a node's PATH, as `module load python; . venv/bin/activate`.
    Unset: the Python of this command, with this command's environment."""
    logs_dir: str | None = None
    """Folder, seen by all nodes, of Slurm's own logs. Unset: in .prep of a local remote, slurm_logs for a URL."""

    def __post_init__(self) -> None:
        require_at_least("slurm.time_hours", self.time_hours, 0.01)
        require_at_least("slurm.cpus_per_task", self.cpus_per_task, 1)
        require_at_least("slurm.mem_per_cpu_gb", self.mem_per_cpu_gb, 1)


@dataclass(frozen=True)
class RayConfig:
    """Which Ray cluster runs the tasks, and what each of them reserves; for executor=ray only."""

    address: str | None = None
    """Cluster to connect to, as ray.init takes it (auto, host:port, ray://...); `local` starts one on this machine.
    Unset: the one of RAY_ADDRESS or of `ray start` on this machine, or else a new one on this machine."""
    cpus_per_task: float = 1.0
    """Cores that a task reserves; more than 0."""
    memory_gb: float = 0.0
    """Memory that a task reserves, in GiB; 0 reserves none."""

    def __post_init__(self) -> None:
        if self.cpus_per_task <= 0:
            raise ConfigError(f"ray.cpus_per_task={self.cpus_per_task} must be more than 0 cores")
        require_at_least("ray.memory_gb", self.memory_gb, 0)


@dataclass(frozen=True)
class ExecutorConfig:
    """Keys that decide where and how fast the tasks run, and never what they write."""

    executor: str = "local"
    """What runs the tasks: `local` (processes of this machine), `slurm` (an array job) or `ray`."""
    workers: int = 0
    """Tasks that run at the same time; 0 uses every core of this machine, or what the cluster gives."""
    progress_interval: float = 5.0
    """Seconds between progress lines, and between polls of Slurm; more than 0."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ray: RayConfig = field(default_factory=RayConfig)

    @property
    def runs_here(self) -> bool:
        """Whether the tasks are processes of this machine, which end with the command."""
        return self.executor == "local"

    def __post_init__(self) -> None:
        require_one_of("executor", self.executor, EXECUTORS)
        require_at_least("workers", self.workers, 0)
        if self.progress_interval <= 0:
            raise ConfigError(f"progress_interval={self.progress_interval} must be more than 0 seconds")

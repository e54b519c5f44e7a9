"""The tasks on a Ray cluster, or on one that is started on this machine for the time of the command.

All nodes must see the output folder: on a shared file system, or in remote storage. Credentials and endpoints reach the
tasks as arguments, in memory.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dill
from datatrove.executor import RayPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from meap.errors import ConfigError, DataError, MeapError
from meap.extras import require_packages
from meap.prep.executors.base import TasksToRun, quiet, wait_for_records
from meap.prep.pinned.executor import CompletionFromRecords

__all__ = ["RayExecutor"]

_ENVIRONMENT = ("AWS_", "S3_", "HF_", "GOOGLE_", "TOKENIZERS_")
"""Beginnings of the environment variables that tasks need."""
_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_RETRIES = 2
"""How often Ray reruns a task that was lost with its node or process."""
_GIB = 1 << 30


class RayExecutor(CompletionFromRecords, RayPipelineExecutor):
    """Runs each task as a task of Ray, `workers` of them at a time.

    datatrove's own loop hides why a task failed, and waits for a killed worker for ever; this one uses `ray.wait`.
    """

    def __init__(self, steps: Sequence[PipelineStep], job: TasksToRun) -> None:
        require_packages("executor=ray", "ray", extra="ray")
        with quiet():
            super().__init__(
                pipeline=list(steps), tasks=job.num_tasks, workers=job.num_workers, logging_dir=job.logging_dir
            )
        self.belong_to(job)

    def run(self) -> None:
        """Run the tasks, and wait for them.

        Raises:
            ConfigError: There is no cluster at the address.
            DataError: A task failed, or was lost more than once.
        """
        import ray  # takes a second to import

        self.job.progress.announces_failures = True
        settings = self.job.config.ray
        with _cluster(settings.address):
            executor = ray.put(dill.dumps(self, fmode=dill.CONTENTS_FMODE))
            environment = {name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)}
            remote: Any = ray.remote(_run_task).options(
                num_cpus=settings.cpus_per_task, memory=settings.memory_gb * _GIB or None, max_retries=_RETRIES
            )
            ranks = self.get_incomplete_ranks()
            waiting = list(ranks)
            running: dict[Any, int] = {}
            failures: dict[int, str] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < self.workers:
                        rank = waiting.pop(0)
                        running[remote.remote(executor, rank, os.getcwd(), environment)] = rank  # noqa: PTH109  a string
                    self.job.progress.note = f"Ray: {len(running)} tasks submitted, {len(waiting)} to go"
                    ended, _ = ray.wait(list(running), timeout=_WAIT_SECONDS)
                    for reference in ended:
                        rank = running.pop(reference)
                        if failure := _failure(reference, rank):
                            failures[rank] = failure
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)
        if failures:
            first, *others = [failures[rank] for rank in sorted(failures)]
            raise DataError(first + (f"; {len(others)} more tasks failed" if others else ""))
        wait_for_records(self.job, ranks, completed=ranks)


def _run_task(executor: bytes, rank: int, folder: str, environment: Mapping[str, str]) -> str | None:
    """Run task `rank` in a process of Ray's; returns why it failed, or None."""
    os.environ.update(environment)
    try:
        os.chdir(folder)
        dill.loads(executor).run_task(rank)  # noqa: S301  our own
    except (MeapError, OSError) as error:
        return str(error)
    return None


def _failure(reference: Any, rank: int) -> str | None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        return (
            f"task {rank} could not run on its node ({type(error.cause).__name__}: {error.cause}): check that this "
            "project and its packages are installed on all nodes, and run the same command again"
        )
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return (
            f"task {rank} was lost by Ray ({type(error).__name__}: {lines[-1] if lines else 'no reason'}); was it "
            "killed, perhaps out of memory? Run the same command again to continue; if it was memory, with fewer "
            "workers or more ray.memory_gb"
        )


def _require_listener(address: str) -> None:
    """Raise OSError if nothing listens at the address; Ray itself would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and "/" not in address and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected to one."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from a cluster started here
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        _require_listener(address or "")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ConfigError(
            f"ray.address={address or 'unset'}: cannot connect to a Ray cluster or start one ({lines[0]}): start one "
            "with `ray start --head`, or give its address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()

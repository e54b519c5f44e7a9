"""The tasks as an array job of a Slurm cluster; the command submits it, waits for it and says what failed.

All nodes must see the output folder: on a shared file system, or in remote storage. Credentials and endpoints reach the
tasks through the environment of sbatch; nothing here writes them into a file.
"""

from __future__ import annotations

import copy
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dill
from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from meap.config.executors import SlurmConfig
from meap.errors import ConfigError, DataError
from meap.places.problems import place_errors
from meap.prep.executors.base import TasksToRun, quiet, wait_for_records
from meap.prep.executors.slurm_array import (
    ARRAY_NAME,
    ArrayJob,
    Element,
    max_array_size,
    submit,
)
from meap.prep.pinned.executor import CompletionFromRecords

__all__ = ["SlurmExecutor", "remedy"]

_PICKLE, _RANKS, _SCRIPT = "executor.pik", "ranks_to_run.json", "launch_script.slurm"
_SILENCE_SECONDS = 300.0
"""How long Slurm may not answer: its controller may be restarting."""
_SHOWN_CHARACTERS = 200


class SlurmExecutor(CompletionFromRecords, SlurmPipelineExecutor):
    """Runs each task as an element of an array job, `workers` of them at a time."""

    def __init__(self, steps: Sequence[PipelineStep], job: TasksToRun) -> None:
        slurm = job.config.slurm
        minutes, seconds = divmod(round(slurm.time_hours * 3600), 60)
        with quiet():
            super().__init__(
                pipeline=list(steps),
                tasks=job.num_tasks,
                time=f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}",
                partition=slurm.partition or "",
                cpus_per_task=slurm.cpus_per_task,
                mem_per_cpu_gb=slurm.mem_per_cpu_gb,
                workers=job.num_workers,
                qos=slurm.qos or "",
                env_command=slurm.env_command or "",
                sbatch_args=dict(slurm.sbatch_args),
                logging_dir=job.logging_dir,
                slurm_logs_folder=str(logs_dir := _logs_dir(job)),
            )
        self.belong_to(job)
        self.logs_dir = logs_dir
        self.is_submitted = False

    def run(self) -> None:
        """Submit the tasks, or find those that an earlier command submitted, and wait for them.

        Raises:
            ConfigError: There is no Slurm here, or it refuses the job.
            DataError: A task failed or was ended, or Slurm does not answer.
        """
        if self.is_submitted:
            super().run()
            return
        self.job.progress.announces_failures = True
        array = self._find_array() or self._new_array()
        if array is None:
            return
        try:
            array = self._submit(array)
            ended = self._wait(array)
        except KeyboardInterrupt:
            if (array := (ArrayJob.read(self.job.folder) or array).find_submitted()).job_ids:
                self.job.progress.say(
                    f"Slurm job {array} continues without this command, which waits for it again when run again; "
                    f"to end the job: scancel --name={','.join(map(array.name_of, range(array.num_arrays)))}"
                )
            raise
        completed = [rank for rank, element in ended.items() if element.state == "COMPLETED"]
        missing = wait_for_records(self.job, array.ranks, completed=completed)
        failure = self._failure(array, missing, ended) if missing else None
        self.job.folder.remove(ARRAY_NAME)
        if failure:
            raise failure

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """The directives of the script, without those that are unset."""
        with place_errors(str(self.logs_dir)):
            arguments = super().get_sbatch_args(max_array)
        return {name: value for name, value in arguments.items() if value or name == "requeue"}

    def _find_array(self) -> ArrayJob | None:
        array = ArrayJob.read(self.job.folder)
        if array is None:
            return None
        array = array.find_submitted()
        if array.is_live:
            self.job.progress.say(f"waiting for Slurm job {array}, which an earlier command submitted")
            return array
        self.job.folder.remove(ARRAY_NAME)
        return None

    def _new_array(self) -> ArrayJob | None:
        if not (ranks := self.get_incomplete_ranks()):
            return None
        self.max_array_size = min(max_array_size(), len(ranks))
        array = ArrayJob.of(self.job.folder, ranks, self.max_array_size)
        self.job_name = array.name
        self.job.progress.clear()
        in_task = copy.copy(self)
        in_task.is_submitted = True
        array.write(self.job.folder)
        with place_errors(self.job.logging_dir):
            with self.logging_dir.open(_PICKLE, "wb") as file:
                dill.dump(in_task, file, fmode=dill.CONTENTS_FMODE)
            with self.logging_dir.open(_RANKS, "w") as file:
                json.dump(ranks, file)
        # The Python of this command, unless one was asked for; `exec`, so that Slurm sees how it ends.
        python = "python" if self.env_command else shlex.quote(sys.executable)
        location = shlex.quote(str(self.logging_dir.resolve_paths(_PICKLE)))
        command = f"exec {python} -m meap.prep.executors.slurm_task {location}"
        script = self.get_launch_file_contents(self.get_sbatch_args(self.max_array_size), command)
        with place_errors(self.job.logging_dir), self.logging_dir.open(_SCRIPT, "w") as file:
            file.write(script)
        return array

    def _submit(self, array: ArrayJob) -> ArrayJob:
        """Submit the arrays that have not been submitted, each to start when the one before it has ended."""
        if len(array.job_ids) == array.num_arrays:
            return array
        with place_errors(self.job.logging_dir), self.logging_dir.open(_SCRIPT, "r") as file:
            script = file.read()
        # One thread per task: its cores are as many as were asked for.
        environment = {"TOKENIZERS_PARALLELISM": "false"} if self.cpus_per_task == 1 else {}
        for number in range(array.num_arrays):
            if str(number) in array.job_ids:
                continue
            elements = min(array.chunk, len(array.ranks) - number * array.chunk)
            arguments = [
                f"--export=ALL,RUN_OFFSET={number}",
                f"--job-name={array.name_of(number)}",
                f"--array=0-{elements - 1}%{self.workers}",
            ]
            if number:
                arguments.append(f"--dependency=afterany:{array.job_ids[str(number - 1)]}")
            try:
                job_id = submit(script, *arguments, environment=environment)
            except ConfigError:
                if not array.job_ids:
                    self.job.folder.remove(ARRAY_NAME)
                raise
            array = array.with_job(number, job_id)
            array.write(self.job.folder)
        self.job.progress.say(f"submitted Slurm job {array}: {len(array.ranks)} tasks, logs in {self.logs_dir}")
        return array

    def _wait(self, array: ArrayJob) -> dict[int, Element]:
        """Wait until no element is live; returns how each task ended, as Slurm says."""
        known: dict[int, Element] = {}
        answered = time.monotonic()
        while True:
            try:
                elements = array.elements()
                answered = time.monotonic()
            except DataError:
                if time.monotonic() - answered > _SILENCE_SECONDS:
                    raise
                elements = None
            if elements is not None:
                for rank, element in elements.items():
                    if element.is_listed or rank not in known or known[rank].is_live:
                        known[rank] = element
                live = [element for element in elements.values() if element.is_live]
                if not live:
                    return {rank: element for rank, element in known.items() if not element.is_live}
                self.job.progress.note = f"Slurm job {array}: {_describe(live)}"
            time.sleep(self.job.config.progress_interval)

    def _failure(self, array: ArrayJob, missing: list[int], ended: dict[int, Element]) -> DataError:
        """One error for all failed tasks: of the first that says why, or of which Slurm says how, or else any."""
        failures = self.job.progress.failures()
        said = {rank: failures[rank] for rank in missing if rank in failures}
        rank = next(iter(said), next((rank for rank in missing if rank in ended), missing[0]))
        number, index = divmod(array.ranks.index(rank), array.chunk)
        job_id = f"{array.job_ids[str(number)]}_{index}"
        element = ended.get(rank) or Element(job_id, "UNKNOWN (cancelled before it began, perhaps)", "")
        reason = f", {element.reason}" if element.reason not in {"", "None"} else ""
        message = f"task {rank} did not finish: Slurm job {job_id} ended as {element.state}{reason}, "
        log = self.logs_dir / f"{job_id}.out"
        message += f"its log is {log}" if log.exists() else f"without a log at {log}"
        if rank in said:
            host, why = said[rank]
            message += f"; on {host}: {why}"
        elif line := _last_line(log):
            message += f", which ends: {line}"
        others = f"; {len(missing) - 1} more tasks did not finish" if len(missing) > 1 else ""
        return DataError(f"{message}{others}; {remedy(element, self.job.config.slurm)}")


def remedy(element: Element, slurm: SlurmConfig) -> str:
    """The remedy for a task that ended as `element` says."""
    again = "run the same command again, which runs only the missing tasks"
    if element.state == "TIMEOUT":
        return f"raise slurm.time_hours={slurm.time_hours:g} and {again}"
    if element.state == "OUT_OF_MEMORY" or "Killed" in element.reason:
        return f"raise slurm.mem_per_cpu_gb={slurm.mem_per_cpu_gb} and {again}"
    return f"remove the cause and {again}" if element.state == "FAILED" else again


def _logs_dir(job: TasksToRun) -> Path:
    if job.config.slurm.logs_dir is not None:
        return Path(job.config.slurm.logs_dir).expanduser().absolute()
    return Path(job.logging_dir if job.folder.is_local else "").absolute() / "slurm_logs"


def _describe(live: list[Element]) -> str:
    """How many elements are in which state, and why some are pending."""
    states = Counter(element.state.lower() for element in live)
    reasons = sorted({element.reason for element in live if element.state == "PENDING"} - {"None", ""})
    return ", ".join(f"{count} {state}" for state, count in states.most_common()) + (
        f" ({', '.join(reasons)})" if reasons else ""
    )


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_SHOWN_CHARACTERS] for line in reversed(lines) if line.strip()), "")

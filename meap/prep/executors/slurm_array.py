"""The array job of a folder: what was submitted, as recorded in the folder, and what Slurm says of it.

An array outlives the command that submitted it. Its record is written before anything is submitted and removed once all
of it has ended, so that the next command finds it and waits for it instead of submitting another one. Job names derive
from the folder: a job that was submitted just before its command was killed is found by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meap.errors import ConfigError, DataError
from meap.json_text import parse_json
from meap.places.folder import Folder

__all__ = ["ARRAY_NAME", "ArrayJob", "Element", "end_array", "max_array_size", "submit"]

ARRAY_NAME = ".prep/slurm.json"

_FINAL_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
_DEFAULT_MAX_ARRAY_SIZE = 1001
_KEPT_VARIABLES = frozenset({"SLURM_CONF", "SLURM_CLUSTERS"})


@dataclass(frozen=True)
class Element:
    """One task of the array, as Slurm sees it."""

    id: str
    """As Slurm writes it: 12_3."""
    state: str
    reason: str

    @property
    def is_live(self) -> bool:
        """Whether it runs, or will run."""
        return self.state not in _FINAL_STATES

    @property
    def is_listed(self) -> bool:
        """Whether Slurm lists the element itself, rather than the pending rest of its array."""
        return "_" in self.id


@dataclass(frozen=True)
class ArrayJob:
    """The tasks of one submission, in as many arrays as the cluster's limit requires."""

    name: str
    ranks: tuple[int, ...]
    """Task of each element, in order."""
    chunk: int
    """Elements of an array."""
    job_ids: Mapping[str, str] = field(default_factory=dict[str, str])
    """Slurm's job id of each array that is known to be submitted, by number."""

    @classmethod
    def of(cls, folder: Folder, ranks: list[int], chunk: int) -> ArrayJob:
        """A submission that is still to be made."""
        place = str(folder.local_path()) if folder.is_local else folder.url
        return cls(f"meap-prep-{hashlib.sha256(place.encode()).hexdigest()[:12]}", tuple(ranks), chunk)

    @classmethod
    def read(cls, folder: Folder) -> ArrayJob | None:
        """The submission that is recorded in a folder."""
        content = folder.read(ARRAY_NAME)
        if content is None:
            return None
        try:
            values: dict[str, Any] = parse_json(content)
            return cls(values["name"], tuple(values["ranks"]), int(values["chunk"]), dict(values["job_ids"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder.url_of(ARRAY_NAME)} is not readable ({type(error).__name__}: {error}): end the Slurm job "
                "that it was for, if there is one, and delete it"
            ) from error

    def write(self, folder: Folder) -> None:
        """Record this submission in a folder."""
        folder.write(ARRAY_NAME, json.dumps(dataclasses.asdict(self), indent=1).encode())

    def with_job(self, number: int, job_id: str) -> ArrayJob:
        """The same, with array `number` submitted."""
        return dataclasses.replace(self, job_ids=dict(self.job_ids) | {str(number): job_id})

    @property
    def num_arrays(self) -> int:
        """How many arrays there are."""
        return -(-len(self.ranks) // self.chunk)

    def name_of(self, number: int) -> str:
        """Slurm's name of an array."""
        return f"{self.name}-{number}"

    def __str__(self) -> str:
        return " ".join(self.job_ids.values()) or self.name

    def elements(self) -> dict[int, Element]:
        """What Slurm says of the elements, by task; it forgets those that ended minutes ago.

        Raises:
            DataError: Slurm does not answer.
        """
        answer = _squeue(f"--jobs={','.join(self.job_ids.values())}", "--array", "--format=%i|%T|%r")
        elements = [Element(*line.split("|", 2)) for line in answer]
        found: dict[int, Element] = {}
        for number, job_id in self.job_ids.items():
            first = int(number) * self.chunk
            ranks = self.ranks[first : first + self.chunk]
            # What is left of an array that was cancelled before it began may be listed as the job itself.
            for rest in (element for element in elements if element.id == job_id):
                found |= dict.fromkeys(ranks, rest)
            for element in elements:
                of_job, _, index = element.id.partition("_")
                if of_job == job_id and index.isdecimal():
                    found[ranks[int(index)]] = element
        return found

    def find_submitted(self) -> ArrayJob:
        """The same, with jobs that were submitted but not recorded."""
        array = self
        for number in range(self.num_arrays):
            if str(number) not in self.job_ids and (ids := _squeue(f"--name={self.name_of(number)}", "--format=%F")):
                array = array.with_job(number, ids[-1])
        return array

    @property
    def is_live(self) -> bool:
        """Whether any element runs or will run."""
        return bool(self.job_ids) and any(element.is_live for element in self.elements().values())


def end_array(folder: Folder) -> None:
    """Remove the record of a folder's array that has ended.

    Raises:
        DataError: It has not ended, or this machine cannot ask Slurm.
    """
    array = ArrayJob.read(folder)
    if array is None:
        return
    try:
        array = array.find_submitted()
        is_live = array.is_live
    except (ConfigError, DataError) as error:
        raise DataError(
            f"a Slurm job ({array}) was submitted for {folder.url} and may still run ({error}): run the "
            f"command on that cluster, or delete {folder.url_of(ARRAY_NAME)} if the job has ended"
        ) from error
    if is_live:
        raise DataError(
            f"Slurm job {array} still runs for {folder.url}: run the same command with executor=slurm to wait for it, "
            f"or end it with: scancel {array}"
        )
    folder.remove(ARRAY_NAME)


def submit(script: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """Submit a script, and return Slurm's job id.

    Raises:
        ConfigError: There is no Slurm here, or it refuses the job.
        DataError: Slurm does not answer.
    """
    # sbatch would take the variables of a job that this command itself runs in for the new job's options.
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in _KEPT_VARIABLES
    }
    answer = _call("sbatch", "--parsable", *arguments, script=script, environment=own | dict(environment))
    if answer.returncode:
        reason = _reason(answer)
        if _is_silence(reason):
            raise _silent("sbatch", reason)
        raise ConfigError(f"sbatch refuses the job ({reason}): change the keys of slurm (see --help)")
    return answer.stdout.strip().splitlines()[-1].split(";")[0]


def max_array_size() -> int:
    """The most elements of an array on this cluster."""
    answer = _call("scontrol", "show", "config")
    if answer.returncode:
        raise _silent("scontrol", _reason(answer))
    for line in answer.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize" and value.strip().isdecimal():
            return max(1, int(value))
    return _DEFAULT_MAX_ARRAY_SIZE


def _squeue(*arguments: str) -> list[str]:
    answer = _call("squeue", "--noheader", "--states=all", *arguments)
    if answer.returncode:
        reason = _reason(answer)
        if "Invalid job id" in reason:  # all elements ended minutes ago
            return []
        raise _silent("squeue", reason)
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _call(
    *command: str, script: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        # In another process group, so that Ctrl-C reaches the command alone.
        return subprocess.run(
            command, input=script, env=environment, capture_output=True, text=True, check=False, start_new_session=True
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"executor=slurm, but there is no {command[0]} on this machine: run the command on a login node of the "
            "cluster, or choose executor=local"
        ) from error


def _reason(answer: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in answer.stderr.splitlines() if line.strip() and not line.startswith("Try ")]
    return lines[-1].strip() if lines else f"exit status {answer.returncode}"


def _is_silence(reason: str) -> bool:
    return any(sign in reason for sign in ("Unable to contact", "timed out", "Connection refused", "Zero Bytes"))


def _silent(command: str, reason: str) -> DataError:
    return DataError(
        f"{command} fails ({reason}): run the same command again when Slurm answers; submitted jobs continue"
    )

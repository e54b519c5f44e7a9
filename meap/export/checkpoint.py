"""Find a run's checkpoint, locally or in a store, and read weights from it."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meap.checkpoints import CheckpointRecord, CheckpointStore, DamagedError
from meap.config import TrainingConfig, from_values
from meap.errors import CheckpointError
from meap.storage import is_url

__all__ = ["Checkpoint", "find_checkpoint", "load_weights", "local_copy", "read_checkpoint", "read_run_config"]

_STEP = re.compile(r"ba(\d+)(\.pt)?")
_NOT_ALLOWED = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class Checkpoint:
    """What an export needs of a checkpoint."""

    name: str
    """File name."""
    run_name: str | None
    """Name of the run that wrote it, where the file says so."""
    step: int | None
    """Optimiser steps taken."""
    tokens: int | None
    """Input tokens seen."""
    weights: Mapping[str, torch.Tensor]
    """Parameters by the names they have in `meap.train.model.NextTokenModel`."""


def find_checkpoint(folder: str) -> str:
    """Path or URL of the newest checkpoint in `folder` that is whole; a damaged one is named on a line.

    A local one is read to the last byte. Of one behind a URL sizes are compared here, hashes by `local_copy`.

    Raises:
        CheckpointError: There is none, or the folder cannot be read.
    """
    store = CheckpointStore(folder)
    steps = store.steps()
    for step in steps:
        if problem := _problem_of(store, step):
            print(f"checkpoint {store.location}/ba{step} is damaged ({problem}): the one before it is used", flush=True)
        else:
            return f"{store.location}/{store.record(step).name}"
    raise CheckpointError(
        f"checkpoint.folder={folder} holds no checkpoint that is whole (of {len(steps)} with a record, ba<step>.json): "
        "train first, or give export.checkpoint=<file or folder>"
    )


def _problem_of(store: CheckpointStore, step: int) -> str:
    try:
        record = store.record(step)
        if store.is_remote:
            store.require_sizes(record)
        else:
            store.fetch(record, Path(store.location))
    except DamagedError as error:
        return str(error)
    return ""


def read_run_config(location: str) -> TrainingConfig:
    """The configuration of the run that wrote the checkpoint at `location`: it is in the record beside it.

    Raises:
        CheckpointError: There is no whole record.
    """
    parent, _, name = location.rstrip("/").rpartition("/")
    step = _STEP.fullmatch(name)
    if step is None:
        raise CheckpointError(f"checkpoint {location} is not called ba<step>.pt or ba<step>: give one that a run wrote")
    try:
        record = CheckpointStore(parent or ".").record(int(step[1]))
    except DamagedError as error:
        raise CheckpointError(
            f"the architecture of checkpoint {location} is not known ({error}): give one with its record, which a run "
            "writes beside it"
        ) from error
    return from_values(TrainingConfig, record.config, origin=f"the record of {location}")


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """A local file or folder with the checkpoint at `location`; a download is verified, and removed at the end.

    Raises:
        CheckpointError: It is not there, cannot be downloaded, or is not what was written.
    """
    if not is_url(location):
        if not Path(location).exists():
            raise CheckpointError(f"checkpoint {location} does not exist: correct export.checkpoint")
        yield Path(location)
        return
    parent, _, name = location.rstrip("/").rpartition("/")
    step = _STEP.fullmatch(name)
    if step is None:
        raise CheckpointError(f"checkpoint {location} is not called ba<step>.pt or ba<step>: correct export.checkpoint")
    store = CheckpointStore(parent)
    with tempfile.TemporaryDirectory(prefix="meap-checkpoint-") as folder:
        try:
            record = store.record(int(step[1]))
            path = store.fetch(record, Path(folder))
            Path(folder, f"ba{record.step}.json").write_bytes(record.to_json())
        except DamagedError as error:
            raise CheckpointError(
                f"checkpoint {location} is damaged ({error}): give an older one with export.checkpoint"
            ) from error
        yield path


def read_checkpoint(path: Path, load: Callable[[str], dict[str, Any]]) -> Checkpoint:
    """Read a Composer checkpoint as data.

    Args:
        path: A local file, or the folder of a sharded checkpoint.
        load: Loads tensors and plain values only and runs nothing, such as `meap.train.trust.load_checkpoint`.

    Raises:
        CheckpointError: The file is damaged, holds anything but data, or is not a Composer checkpoint.
    """
    try:
        state = load(str(path))["state"]
        weights = dict(state["model"])
    except pickle.UnpicklingError as error:
        found = _NOT_ALLOWED.search(str(error))
        what = f"asks for {found[1]}" if found else "is not only tensors and plain values"
        raise CheckpointError(
            f"checkpoint {path.name} {what}: loading it could run a program, so it is refused. Use a file that "
            "recipes/meap_1b.py wrote"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path.name} has no state/model, so it is not one that Composer wrote: use a file that "
            "recipes/meap_1b.py wrote"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path.name} is damaged ({type(error).__name__}: {_first_line(error)}): use an older one with "
            "export.checkpoint=<file>"
        ) from error
    timestamp = state.get("timestamp", {}).get("Timestamp", {})
    run_name, step, tokens = state.get("run_name"), timestamp.get("batch"), timestamp.get("token")
    if path.is_dir():  # the folder holds weights as parts, all else stands in its record
        record = _record_beside(path)
        run_name, step, tokens = record.run, record.step, record.tokens
    return Checkpoint(path.name, run_name, step, tokens, weights)


def _record_beside(path: Path) -> CheckpointRecord:
    try:
        return CheckpointRecord.from_json(path.with_name(f"{path.name}.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path.name} has no whole {path.name}.json beside it ({error}): give an older one with "
            "export.checkpoint"
        ) from error


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's weights into `model`, every one of them.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    # DDP and torch.compile leave their wrappers in the names.
    weights = {
        name.removeprefix("module.").replace("_orig_mod.", ""): value for name, value in checkpoint.weights.items()
    }
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        differences = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(
            f"checkpoint {checkpoint.name} does not fit the run's configuration ({' '.join(differences)[:300]}): "
            "export a checkpoint of this run, with the tokenizer and data it was trained on"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"

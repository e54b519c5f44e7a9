"""Find a run's checkpoint, locally or in a store, and read weights from it."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import torch

from meap.errors import CheckpointError
from meap.storage import is_url

__all__ = ["Checkpoint", "find_checkpoint", "find_run_config", "load_weights", "local_copy", "read_checkpoint"]

_LATEST = "latest.pt"
_LATEST_OBJECT = "latest.pt.symlink"
"""Stores have no symlinks: Composer keeps an object that holds the newest checkpoint's path within the bucket."""
_STEP = re.compile(r"ba(\d+)\.pt")
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
    """Path or URL of the newest checkpoint in `folder`: what ``latest`` points to, else the highest ``ba<step>.pt``.

    Raises:
        CheckpointError: There is none, or the folder cannot be read.
    """
    root = folder.rstrip("/")
    try:
        filesystem, path = fsspec.core.url_to_fs(root)
        names = {PurePosixPath(str(each)).name for each in filesystem.ls(path, detail=False)}
        # A symlink that points nowhere (a crash between two steps) is listed, but not a file.
        latest = _LATEST if _LATEST in names and filesystem.isfile(f"{path}/{_LATEST}") else None
        if latest is not None and not is_url(root):
            latest = Path(root, latest).resolve().name
        elif _LATEST_OBJECT in names:
            latest = PurePosixPath(filesystem.cat_file(f"{path}/{_LATEST_OBJECT}").decode().strip()).name
    except FileNotFoundError:
        names, latest = set[str](), None
    except Exception as error:
        raise CheckpointError(
            f"cannot look into checkpoint.folder={folder} ({type(error).__name__}: {_first_line(error)}): check the "
            "address and credentials"
        ) from error
    if latest is not None and latest in names:
        return f"{root}/{latest}"
    steps = sorted((int(found[1]), found[0]) for found in map(_STEP.fullmatch, names) if found)
    if not steps:
        raise CheckpointError(
            f"checkpoint.folder={folder} holds no checkpoint (no {_LATEST}, no ba<step>.pt): train first, or give "
            "export.checkpoint=<file>"
        )
    return f"{root}/{steps[-1][1]}"


def find_run_config(location: str, *, run_dir: str, config_name: str) -> Path:
    """The configuration that the run of checkpoint `location` stored: beside its checkpoints folder, else in `run_dir`.

    Raises:
        CheckpointError: It is in neither place.
    """
    places = [Path(run_dir, config_name)]
    if not is_url(location):
        places.insert(0, Path(location).resolve().parent.parent / config_name)
    for place in places:
        if place.is_file():
            return place
    raise CheckpointError(
        f"there is no {' and no '.join(map(str, places))}, so the architecture of {location} is not known: set "
        "run.name or run.dir to the run that wrote it, or copy its configuration there from the machine that trained"
    )


@contextmanager
def local_copy(location: str) -> Iterator[Path]:
    """A local file with the checkpoint at `location`; a download is removed again when the context ends.

    Raises:
        CheckpointError: It is not there, cannot be downloaded, or is a folder.
    """
    if not is_url(location):
        path = Path(location)
        if path.is_dir():
            raise CheckpointError(f"checkpoint {location} is a folder (sharded?): give a single .pt file")
        if not path.is_file():
            raise CheckpointError(f"checkpoint {location} does not exist: correct export.checkpoint")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="meap-checkpoint-") as folder:
        path = Path(folder, PurePosixPath(location).name)
        try:
            filesystem, remote = fsspec.core.url_to_fs(location)
            filesystem.get_file(remote, str(path))
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {location} cannot be downloaded ({type(error).__name__}: {_first_line(error)}): check the "
                "address, the credentials and the space in the temporary folder"
            ) from error
        yield path


def read_checkpoint(path: Path, load: Callable[[str], dict[str, Any]]) -> Checkpoint:
    """Read a Composer checkpoint as data.

    Args:
        path: A local file.
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
    return Checkpoint(path.name, state.get("run_name"), timestamp.get("batch"), timestamp.get("token"), weights)


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

"""Reads weights, configuration and tokenizer of a checkpoint, local or in a store."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from meap.checkpoints.finding import require_checkpoint_at, store_and_step
from meap.checkpoints.record import CheckpointRecord
from meap.checkpoints.store import DamagedError
from meap.checkpoints.trust import load_checkpoint
from meap.config import RecipeConfig, TokenizerConfig, from_values
from meap.errors import CheckpointError, ConfigError, first_line
from meap.json_text import read_small
from meap.places.addresses import is_url
from meap.places.whole import temporary_folder
from meap.tokenizer import Tokenizer, load_tokenizer, restore_tokenizer

__all__ = [
    "Checkpoint",
    "load_weights",
    "local_copy",
    "read_checkpoint",
    "read_record",
    "recorded_config",
    "recorded_tokenizer",
    "rows_without_mask",
]

_NOT_ALLOWED = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint without the state that only resuming needs."""

    name: str
    """File name."""
    run_name: str | None
    """Name of the run that wrote it; None if the file does not say."""
    step: int | None
    """Optimiser steps taken."""
    tokens: int | None
    """Input tokens seen."""
    weights: Mapping[str, torch.Tensor]
    """Parameters by the names they have in `meap.train.model.NextTokenModel`."""


def read_record(location: str, *, key: str = "export.checkpoint") -> CheckpointRecord:
    """The record beside the checkpoint at `location`, which `key` of the configuration names.

    Raises:
        CheckpointError: It is missing or damaged, or there is no such checkpoint.
    """
    store, step = store_and_step(location, key=key)
    try:
        return store.record(step)
    except DamagedError as error:
        require_checkpoint_at(location, key=key)
        raise CheckpointError(
            f"the architecture of {key}={location} is not known ({error}): give one with its record, which a run "
            "writes beside it"
        ) from error


def recorded_config(record: CheckpointRecord, location: str) -> RecipeConfig:
    """The configuration of the run that wrote the checkpoint at `location`."""
    return from_values(RecipeConfig, record.config, origin=f"the record of {location}")


def recorded_tokenizer(record: CheckpointRecord, location: str, *, otherwise: TokenizerConfig) -> Tokenizer:
    """The tokenizer stored beside the checkpoint at `location`.

    Args:
        record: Record of the checkpoint.
        location: Path or URL of the checkpoint.
        otherwise: Tokenizer to use if that one is missing or damaged; only if its name is set.

    Raises:
        CheckpointError: It is missing or damaged, and no other is named.
        MismatchError: The other one is not the run's.
    """
    expected, config = record.model.tokenizer, recorded_config(record, location).tokenizer
    store, _ = store_and_step(location)
    try:
        contents = {PurePosixPath(file.name).name: store.read(file) for file in record.model.tokenizer_files}
    except DamagedError as error:
        if otherwise.name is None:
            raise CheckpointError(
                f"the tokenizer of checkpoint {location} is missing or damaged ({error}): copy tokenizer/ from the "
                "run's folder of checkpoints, or give the same one by tokenizer.name=<folder or hub name>, such as "
                "the folder tokenizer/ of its data"
            ) from error
        tokenizer = load_tokenizer(dataclasses.replace(config, name=otherwise.name))
        tokenizer = tokenizer.without_bos() if expected.bos_id is None else tokenizer
    else:
        tokenizer = restore_tokenizer(contents, config, name=expected.name)
    tokenizer.require_fingerprint(expected.fingerprint, owner=f"checkpoint {location}")
    return tokenizer


def rows_without_mask(record: CheckpointRecord) -> int:
    """Embedding rows of an export without the mask token: as many as before it was added.

    Raises:
        ConfigError: Neither this run nor one that it started from added the mask token.
    """
    rows, config = record.model.rows_without_mask, recorded_config(record, record.name)
    if rows is None:
        raise ConfigError(
            f"export.keep_mask=false, but {config.model.base or record.model.tokenizer.name} had "
            f"{config.tokenizer.mask_token!r} before this run: use export.keep_mask=true"
        )
    return rows


@contextmanager
def local_copy(location: str, *, key: str = "export.checkpoint") -> Iterator[Path]:
    """A local file or folder with the checkpoint at `location`; a download is verified, and removed at the end.

    Raises:
        CheckpointError: It does not exist, cannot be downloaded, or is damaged.
    """
    if not is_url(location):
        if not Path(location).exists():
            raise CheckpointError(f"{key}={location} does not exist: correct the path")
        yield Path(location)
        return
    store, step = store_and_step(location, key=key)
    with temporary_folder("meap-checkpoint-") as folder:
        try:
            record = store.record(step)
            path = store.fetch(record, folder)
            (folder / f"ba{record.step}.json").write_bytes(record.to_json())
        except DamagedError as error:
            raise CheckpointError(f"{key}={location} is damaged ({error}): give an older one") from error
        yield path


def read_checkpoint(path: Path, *, key: str = "export.checkpoint") -> Checkpoint:
    """Read a Composer checkpoint as data.

    Args:
        path: A local file, or the folder of a sharded checkpoint.
        key: Key of the configuration that names it, for errors.

    Raises:
        CheckpointError: The file is damaged, holds anything but data, or is not a Composer checkpoint.
    """
    try:
        state = load_checkpoint(str(path))["state"]
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
            f"checkpoint {path.name} is damaged ({type(error).__name__}: {first_line(error)}): give an older one with "
            f"{key}=<file or folder>"
        ) from error
    timestamp = state.get("timestamp", {}).get("Timestamp", {})
    run_name, step, tokens = state.get("run_name"), timestamp.get("batch"), timestamp.get("token")
    if path.is_dir():  # the folder holds the weights, its record the rest
        record = _record_beside(path, key)
        run_name, step, tokens = record.run, record.step, record.tokens
    return Checkpoint(path.name, run_name, step, tokens, weights)


def _record_beside(path: Path, key: str) -> CheckpointRecord:
    try:
        return CheckpointRecord.from_json(read_small(path.with_name(f"{path.name}.json")))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path.name} has no intact {path.name}.json beside it ({error}): give an older one with {key}"
        ) from error


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load the checkpoint's weights into `model`, all of them.

    Raises:
        CheckpointError: Names or shapes differ.
    """
    # DDP and torch.compile add prefixes to names.
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

"""Starting from a run of ours: its weights alone, by the architecture that its stored configuration gives.

`model.base` is the run's folder (its newest checkpoint then), the folder or URL of its checkpoints, or one checkpoint.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from composer.utils import dist
from transformers import PretrainedConfig, PreTrainedModel

from meap.config import TrainingConfig, load_resolved
from meap.data import open_shards
from meap.errors import DataError
from meap.export.checkpoint import find_checkpoint, load_weights, local_copy, read_checkpoint, read_run_config
from meap.schema import TRAIN_SPLIT
from meap.storage import is_url
from meap.tokenizer import Tokenizer
from meap.train.model import NextTokenModel
from meap.train.run_folder import CONFIG_NAME
from meap.train.start.base import empty_model
from meap.train.trust import load_checkpoint

__all__ = ["is_own_run", "load_run", "read_run", "require_tokenizer"]

_CHECKPOINT = re.compile(r"ba\d+(\.pt)?")


def is_own_run(base: str) -> bool:
    """Whether `base` is a run, or a checkpoint of one, rather than a Hugging Face model."""
    path = Path(base)
    return (
        is_url(base)
        or _is_checkpoint(base)
        or (path / CONFIG_NAME).is_file()
        or (path.is_dir() and (path.parent / CONFIG_NAME).is_file() and not (path / "config.json").is_file())
    )


def read_run(base: str) -> TrainingConfig:
    """The configuration that the run stored, in its folder or with its checkpoint.

    Raises:
        CheckpointError: There is none, or no checkpoint to go with it.
    """
    stored = Path(base, CONFIG_NAME)
    if stored.is_file():
        return load_resolved(TrainingConfig, stored)
    return read_run_config(base if _is_checkpoint(base) else find_checkpoint(base))


def require_tokenizer(base: str, run: TrainingConfig, tokenizer: Tokenizer) -> None:
    """Raise `MismatchError` unless the run was trained on data of this tokenizer."""
    try:
        recorded = open_shards(run.data, TRAIN_SPLIT, kind=None).tokenizer
    except DataError as error:
        _say(f"warning: the tokenizer of model.base={base} is taken to be that of the data ({error})")
        return
    tokenizer.require_fingerprint(recorded.fingerprint, owner=f"model.base={base}")


def load_run(base: str, run: TrainingConfig, architecture: PretrainedConfig) -> PreTrainedModel:
    """A model with the weights of `base`, or of the newest checkpoint there.

    Raises:
        CheckpointError: There is none, it is damaged, or it is of another architecture.
    """
    location = base if _is_checkpoint(base) else find_checkpoint(_checkpoint_folder(base, run))
    _say(f"base       {location}")
    model = empty_model(architecture)
    with local_copy(location) as path:
        load_weights(NextTokenModel(model), read_checkpoint(path, load_checkpoint))
    return model


def _checkpoint_folder(base: str, run: TrainingConfig) -> str:
    if not Path(base, CONFIG_NAME).is_file():
        return base
    # The folder may have been moved or copied since the run wrote its place down.
    beside = Path(base, "checkpoints")
    return str(beside) if beside.is_dir() and not is_url(run.checkpoint.folder) else run.checkpoint.folder


def _is_checkpoint(base: str) -> bool:
    return _CHECKPOINT.fullmatch(PurePosixPath(base).name) is not None


def _say(line: str) -> None:
    if dist.get_global_rank() == 0:
        print(line, flush=True)

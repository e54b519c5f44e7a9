"""Starting from a run of ours: its weights alone, by the architecture and the tokenizer that its checkpoint records.

`model.base` is the run's folder (its newest checkpoint then), the folder or URL of its checkpoints, or one checkpoint.
Neither the run's data nor its own base is needed.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

from composer.utils import dist
from transformers import PretrainedConfig, PreTrainedModel

from meap.checkpoints import CheckpointRecord, find_checkpoint, newest_record
from meap.checkpoints.reading import load_weights, local_copy, read_checkpoint, read_record
from meap.config import RecipeConfig, load_resolved
from meap.errors import CheckpointError, ConfigError
from meap.places.addresses import is_url
from meap.run_files import CONFIG_NAME
from meap.tokenizer import Tokenizer
from meap.train.model import NextTokenModel
from meap.train.start.base import Base, empty_model, recorded_architecture

__all__ = ["is_own_run", "open_own_run"]

_KEY = "model.base"
_CHECKPOINT = re.compile(r"ba\d+(\.pt)?")


def is_own_run(base: str) -> bool:
    """Whether `base` is a run, or a checkpoint of one, rather than a Hugging Face model."""
    path = Path(base)
    if is_url(base) or _is_checkpoint(base) or (path / CONFIG_NAME).is_file():
        return True
    if not path.is_dir() or (path / "config.json").is_file():
        return False
    return (path.parent / CONFIG_NAME).is_file() or any(path.glob("ba*.json"))


def open_own_run(base: str, tokenizer: Tokenizer) -> Base:
    """The model that a run trained.

    Args:
        base: `model.base`.
        tokenizer: The tokenizer of the data.

    Raises:
        CheckpointError: There is no checkpoint.
        ConfigError: It trained adapters.
        MismatchError: The run was trained with another tokenizer.
    """
    record = _record(base)
    tokenizer.require_fingerprint(record.model.tokenizer.fingerprint, owner=f"model.base={base}")
    if record.model.base_fingerprint is not None:
        raise ConfigError(
            f"model.base={base} is a run of adapters, whose checkpoints do not hold its base: export it "
            "(recipes/export_hf.py merges them), and give that folder"
        )
    return Base(
        recorded_architecture(record.model),
        is_mask_new=False,
        rows_without_mask=record.model.rows_without_mask,
        has_direction=record.model.tokenizer.direction_id is not None,
        load=partial(_load, base),
        usage=record.model.usage,
    )


def _record(base: str) -> CheckpointRecord:
    """Any readable record: weights are verified when they are loaded, and all of a run have one architecture."""
    if _is_checkpoint(base):
        return read_record(base, key=_KEY)
    folder = _checkpoint_folder(base)
    record = newest_record(folder, key=_KEY)
    if record is None:
        raise CheckpointError(
            f"model.base={base}: {folder} holds no checkpoint with a record (ba<step>.json): give a run that has saved "
            "one"
        )
    return record


def _load(base: str, architecture: PretrainedConfig) -> PreTrainedModel:
    location = base if _is_checkpoint(base) else find_checkpoint(_checkpoint_folder(base), key=_KEY)
    if dist.get_global_rank() == 0:
        print(f"base       {location}", flush=True)
    model = empty_model(architecture)
    with local_copy(location, key=_KEY) as path:
        load_weights(NextTokenModel(model), read_checkpoint(path, key=_KEY))
    return model


def _checkpoint_folder(base: str) -> str:
    stored = Path(base, CONFIG_NAME)
    if not stored.is_file():
        return base
    # The folder may have been moved or copied since the run recorded its path.
    beside, written = Path(base, "checkpoints"), load_resolved(RecipeConfig, stored).checkpoint.folder
    return str(beside) if beside.is_dir() and not is_url(written) else written


def _is_checkpoint(base: str) -> bool:
    return _CHECKPOINT.fullmatch(PurePosixPath(base).name) is not None

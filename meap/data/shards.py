"""Open what data preparation wrote: the manifest of a split, and the tokenizer that belongs to it."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import fsspec

from meap.config import DataConfig, TokenizerConfig
from meap.errors import DataError, IncompleteError, MismatchError
from meap.manifest import CONVERSATIONS, ROWS, Manifest
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR
from meap.tokenizer import TOKENIZER_FILES, Tokenizer, load_tokenizer

__all__ = ["Shards", "open_shards", "open_tokenizer", "read_manifest"]

_INDEX_NAME = "index.json"
_PREPARE = (
    "run dataprep/c4_to_mds.py (for fine-tuning dataprep/sft_to_mds.py), "
    "or the same preparation command again if it was interrupted"
)
_RECIPES = {ROWS: "recipes/meap_1b.py trains on it", CONVERSATIONS: "recipes/meap_sft.py trains on it"}


@dataclass(frozen=True)
class Shards:
    """A finished split of a prepared data set."""

    remote: str
    """Folder or URL of the data set; the split lies below it."""
    split: str
    manifest: Manifest


def open_shards(config: DataConfig, split: str, *, kind: str = ROWS) -> Shards:
    """Read the manifest of `split` and check it against the configuration.

    Raises:
        IncompleteError: There is no finished data set at `config.remote`.
        MismatchError: The rows are not of `config.seq_len`, or of another kind.
        DataError: The place cannot be read, or the manifest is damaged.
    """
    root = config.remote.rstrip("/")
    manifest = read_manifest(root, split, key="data.remote")
    if manifest.kind != kind:
        raise MismatchError(
            f"data.remote={config.remote} holds {manifest.kind}, not {kind}: {_RECIPES.get(manifest.kind, 'unknown')}"
        )
    if manifest.seq_len != config.seq_len:
        raise MismatchError(
            f"data.seq_len={config.seq_len}, but the rows of {root}/{split} were packed to {manifest.seq_len} tokens: "
            f"set data.seq_len={manifest.seq_len} or prepare the data again"
        )
    return Shards(remote=root, split=split, manifest=manifest)


def read_manifest(remote: str, split: str, *, key: str) -> Manifest:
    """The manifest of `split` below `remote`, which the user gave as `key`.

    Raises:
        IncompleteError: There is no finished data set.
        DataError: The place cannot be read, or the manifest is damaged.
    """
    if not _exists(f"{remote}/{split}/{_INDEX_NAME}"):
        raise IncompleteError(
            f"{key}={remote} holds no finished {split!r} split (no {split}/{_INDEX_NAME}): {_PREPARE}"
        )
    origin = f"{remote}/{split}/{MANIFEST_NAME}"
    return Manifest.from_json(_read(origin), origin=origin)


def open_tokenizer(config: TokenizerConfig, shards: Shards) -> Tokenizer:
    """The tokenizer the shards were made with, or the configured one if it is the same.

    Raises:
        MismatchError: `config.name` names another tokenizer.
        DataError: The tokenizer stored with the data cannot be read.
    """
    recorded = shards.manifest.tokenizer
    if config.name is not None:
        tokenizer = load_tokenizer(config)
    else:
        with tempfile.TemporaryDirectory(prefix="meap-tokenizer-") as folder:
            for name in TOKENIZER_FILES:
                Path(folder, name).write_bytes(_read(f"{shards.remote}/{TOKENIZER_DIR}/{name}"))
            stored = load_tokenizer(dataclasses.replace(config, name=folder))
            tokenizer = dataclasses.replace(stored, name=recorded.name)
    tokenizer.require_fingerprint(recorded.fingerprint, owner=f"{shards.remote}/{shards.split}")
    return tokenizer


def _exists(url: str) -> bool:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        return bool(filesystem.exists(path))
    except Exception as error:
        raise DataError(
            f"cannot look into {url} ({type(error).__name__}): check the address and credentials"
        ) from error


def _read(url: str) -> bytes:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        content = filesystem.cat_file(path)
    except FileNotFoundError as error:
        raise IncompleteError(f"{url} is missing: {_PREPARE}") from error
    except Exception as error:
        raise DataError(f"cannot read {url} ({type(error).__name__}): check the address and credentials") from error
    assert isinstance(content, bytes)
    return content

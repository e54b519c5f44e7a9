"""Open what data preparation wrote: the manifests of a split, and the tokenizer that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import fsspec
import numpy as np
from numpy.typing import NDArray

from meap.config import DataConfig, TokenizerConfig
from meap.errors import DataError, IncompleteError, MismatchError
from meap.manifest import CONVERSATIONS, ROWS, Manifest, TokenizerRecord
from meap.schema import INDEX_NAME, MANIFEST_NAME, TOKENIZER_DIR, TRAIN_SPLIT, VALIDATION_SPLIT
from meap.storage import describe_error, relative_to, without_file_scheme
from meap.tokenizer import TOKENIZER_FILES, Tokenizer, load_tokenizer, restore_tokenizer

__all__ = ["Shards", "StreamShards", "open_heldout", "open_shards", "open_tokenizer", "read_manifest"]

_PREPARE = (
    "run dataprep/c4_to_mds.py (for fine-tuning dataprep/sft_to_mds.py), "
    "or the same preparation command again if it was interrupted"
)
_NO_EVALUATION = "or set train.eval_batches=0"
_RECIPES = {ROWS: "recipes/meap_1b.py trains on it", CONVERSATIONS: "recipes/meap_sft.py trains on it"}


@dataclass(frozen=True)
class StreamShards:
    """A finished split of one prepared data set."""

    name: str | None
    """Name in `data.streams`; None for the single one at `data.remote`."""
    remote: str
    """Local folder or URL of the data set; the split lies below it."""
    proportion: float | None
    """Share of the rows of an epoch, relative to the other streams; None: as many as it has."""
    manifest: Manifest

    @property
    def key(self) -> str:
        """The key of the configuration that says where it is."""
        return _key(self.name)


@dataclass(frozen=True)
class Shards:
    """A split of everything the configuration mixes: one stream or several, whose rows fit together."""

    split: str
    streams: tuple[StreamShards, ...]
    """By name. Rows are numbered through them in this order, which is not the order of lines in a yaml."""

    @property
    def rows(self) -> int:
        """Rows stored in all streams."""
        return sum(stream.manifest.rows for stream in self.streams)

    @property
    def tokenizer(self) -> TokenizerRecord:
        """The tokenizer of every stream."""
        return self.streams[0].manifest.tokenizer

    @property
    def seq_len(self) -> int:
        """Input tokens per row."""
        return self.streams[0].manifest.seq_len

    @property
    def origin(self) -> str:
        """Where the rows come from, for messages: the remotes, with their names and proportions."""
        return ", ".join(
            (f"{stream.name}: " if stream.name else "")
            + stream.remote
            + ("" if stream.proportion is None else f" ({stream.proportion:g})")
            for stream in self.streams
        )

    @property
    def identity(self) -> dict[str, str]:
        """What tells these rows from others, wherever they are: by the key that says where.

        It names streams, whose order numbers the rows, but no place: data may move.
        """
        return {stream.key: stream.manifest.identity for stream in self.streams}

    def mixed_order(self) -> NDArray[np.int64]:
        """All row numbers, so that the first N hold every stream in the ratio of its rows; of one stream, 0, 1, ..."""
        place = [(np.arange(stream.manifest.rows) + 0.5) / stream.manifest.rows for stream in self.streams]
        return np.argsort(np.concatenate(place), kind="stable")


def open_shards(config: DataConfig, split: str, *, kind: str | None = ROWS) -> Shards:
    """Read the manifests of `split`, and check them against the configuration and each other.

    Proportions hold for training only. Another split is read as it is, from the streams that have it.

    Args:
        config: Section `data` of the configuration.
        split: Name of the split.
        kind: What it must hold, `meap.manifest.ROWS` or `CONVERSATIONS`; None for either.

    Raises:
        IncompleteError: There is no finished data set at `config.remote`, or at a stream's.
        MismatchError: The rows are not of `config.seq_len`, of another kind, or of different tokenizers.
        DataError: A place cannot be read, or a manifest is damaged.
    """
    if not config.streams:
        return Shards(split, (_open_stream(config, None, config.remote, None, split, kind),))
    streams: list[StreamShards] = []
    for name, stream in sorted(config.streams.items()):
        root = _root(stream.remote)
        if split != TRAIN_SPLIT and not _has_split(root, split) and _has_split(root, TRAIN_SPLIT):
            continue  # prepared with heldout_ratio=0
        proportion = stream.proportion if split == TRAIN_SPLIT else None
        streams.append(_open_stream(config, name, stream.remote, proportion, split, kind))
    if not streams:
        raise IncompleteError(
            f"none of data.streams ({', '.join(sorted(config.streams))}) has a {split!r} split: "
            f"prepare one of them with a heldout_ratio above 0, {_NO_EVALUATION}"
        )
    first = streams[0]
    for other in streams[1:]:
        if other.manifest.tokenizer.fingerprint != first.manifest.tokenizer.fingerprint:
            raise MismatchError(
                f"data.streams.{first.name} ({first.remote}) and data.streams.{other.name} ({other.remote}) were made "
                f"with different tokenizers, {first.manifest.tokenizer.name} and {other.manifest.tokenizer.name}: "
                "prepare one of them again with the other's, or leave it out"
            )
    return Shards(split, tuple(streams))


def open_heldout(config: DataConfig, *, kind: str | None = ROWS) -> Shards | None:
    """The rows that data preparation kept from training, as `open_shards` reads them; None where it kept none.

    It publishes the training split last: where that is, and no other, there are no rows to wait for.
    """
    roots = [stream.remote for stream in config.streams.values()] or [config.remote]
    if not any(_has_split(root.rstrip("/"), VALIDATION_SPLIT) for root in roots):
        return None
    return open_shards(config, VALIDATION_SPLIT, kind=kind)


def _open_stream(
    config: DataConfig, name: str | None, remote: str, proportion: float | None, split: str, kind: str | None
) -> StreamShards:
    key, root = _key(name), _root(remote)
    manifest = read_manifest(root, split, key=key)
    if kind is not None and manifest.kind != kind:
        raise MismatchError(
            f"{key}={remote} holds {manifest.kind}, not {kind}: {_RECIPES.get(manifest.kind, 'unknown')}"
        )
    if manifest.seq_len != config.seq_len:
        raise MismatchError(
            f"data.seq_len={config.seq_len}, but the rows of {root}/{split} were packed to {manifest.seq_len} tokens: "
            f"set data.seq_len={manifest.seq_len} or prepare the data again"
        )
    return StreamShards(name, root, proportion, manifest)


def _key(stream: str | None) -> str:
    return "data.remote" if stream is None else f"data.streams.{stream}.remote"


def _root(remote: str) -> str:
    return without_file_scheme(remote).rstrip("/") or "/"


def read_manifest(remote: str, split: str, *, key: str) -> Manifest:
    """The manifest of `split` below `remote`, which the user gave as `key`.

    Raises:
        IncompleteError: There is no finished data set.
        DataError: The place cannot be read, or the manifest is damaged.
    """
    if not _has_split(remote, split):
        parts = urlsplit(remote)
        if parts.scheme in {"s3", "gs"} and not _exists(f"{parts.scheme}://{parts.netloc}"):
            raise IncompleteError(
                f"{key}={remote}: there is no bucket {parts.netloc!r} at this endpoint that these credentials may see: "
                f"correct {key}, or the endpoint (AWS_ENDPOINT_URL)"
            )
        remedy = _PREPARE if split == TRAIN_SPLIT else f"{_PREPARE}, with a heldout_ratio above 0; {_NO_EVALUATION}"
        found = f"{key}={remote}{relative_to(remote)} holds no finished {split!r} split (no {split}/{INDEX_NAME})"
        raise IncompleteError(f"{found}: {remedy}")
    origin = f"{remote}/{split}/{MANIFEST_NAME}"
    return Manifest.from_json(_read(origin), origin=origin)


def open_tokenizer(config: TokenizerConfig, shards: Shards) -> Tokenizer:
    """The tokenizer the shards were made with, or the configured one if it is the same.

    Raises:
        MismatchError: `config.name` names another tokenizer.
        DataError: The tokenizer stored with the data cannot be read.
    """
    recorded, remote = shards.tokenizer, shards.streams[0].remote
    if config.name is not None:
        tokenizer = load_tokenizer(config)
    else:
        contents = {name: _read(f"{remote}/{TOKENIZER_DIR}/{name}") for name in TOKENIZER_FILES}
        tokenizer = restore_tokenizer(contents, config, name=recorded.name)
    tokenizer.require_fingerprint(recorded.fingerprint, owner=f"{remote}/{shards.split}")
    return tokenizer


def _has_split(root: str, split: str) -> bool:
    return _exists(f"{root}/{split}/{INDEX_NAME}")


def _exists(url: str) -> bool:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        return bool(filesystem.exists(path))
    except Exception as error:
        raise DataError(
            f"cannot look into {url} ({describe_error(error)}): check the address and credentials"
        ) from error


def _read(url: str) -> bytes:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        content = filesystem.cat_file(path)
    except FileNotFoundError as error:
        raise IncompleteError(f"{url} is missing: {_PREPARE}") from error
    except Exception as error:
        raise DataError(f"cannot read {url} ({describe_error(error)}): check the address and credentials") from error
    assert isinstance(content, bytes)
    return content

"""Opens prepared data: the manifests of a split, and the tokenizer it was made with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from meap.config import DataConfig, TokenizerConfig
from meap.errors import DataError, IncompleteError, MismatchError
from meap.json_text import MOST_BYTES, RESTORE, too_large
from meap.manifest import CONVERSATIONS, ROWS, Manifest, TokenizerRecord
from meap.mds.index import INDEX_NAME
from meap.places.addresses import is_url, relative_to, without_file_scheme
from meap.places.folder import Folder
from meap.places.near import describe_missing, is_there
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR, TRAIN_SPLIT, VALIDATION_SPLIT
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
        """The configuration key of its location."""
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
        """The remotes with their names and proportions, for messages."""
        return ", ".join(
            (f"{stream.name}: " if stream.name else "")
            + stream.remote
            + ("" if stream.proportion is None else f" ({stream.proportion:g})")
            for stream in self.streams
        )

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprint of each stream's content, by configuration key.

        Locations are not part of it, as data may move; names are, as their order numbers the rows.
        """
        return {stream.key: stream.manifest.identity for stream in self.streams}

    def mixed_order(self) -> NDArray[np.int64]:
        """All row numbers, so that the first N hold every stream in proportion to its rows; for one stream 0, 1, ..."""
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
        DataError: A location cannot be read, or a manifest is damaged.
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
    """The rows held out from training, as `open_shards` reads them; None if there are none.

    Preparation publishes the training split last: if it is the only one, no other will follow.
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
        DataError: The location cannot be read, or the manifest is damaged.
    """
    size = Folder(remote).size(f"{split}/{INDEX_NAME}")
    if size is None:
        parts = urlsplit(remote)
        if parts.scheme in {"s3", "gs"} and not Folder(f"{parts.scheme}://{parts.netloc}").exists():
            raise IncompleteError(
                f"{key}={remote}: there is no bucket {parts.netloc!r} at this endpoint that these credentials may see: "
                f"correct {key}, or the endpoint (AWS_ENDPOINT_URL)"
            )
        if not is_url(remote) and not is_there(Path(remote)):
            missing = describe_missing(Path(remote), remedy=_PREPARE)
            raise IncompleteError(f"{key}={remote}{relative_to(remote)} {missing}")
        remedy = _PREPARE
        if split != TRAIN_SPLIT:
            remedy += ", with a heldout_ratio above 0"
            remedy += f"; {_NO_EVALUATION}" if key.startswith("data.") else ""
        found = f"{key}={remote}{relative_to(remote)} holds no finished {split!r} split (no {split}/{INDEX_NAME})"
        raise IncompleteError(f"{found}: {remedy}")
    if size > MOST_BYTES:  # ranks would download it
        raise DataError(
            f"{key}: {remote}/{split}/{INDEX_NAME} is refused, since {too_large(size, MOST_BYTES)}: {RESTORE}"
        )
    origin = f"{remote}/{split}/{MANIFEST_NAME}"
    manifest = Manifest.from_json(_read(remote, f"{split}/{MANIFEST_NAME}"), origin=origin)
    if manifest.shards and (in_shards := sum(shard.rows for shard in manifest.shards)) != manifest.rows:
        raise DataError(f"{origin} says {manifest.rows:,} rows, and its shards {in_shards:,}: prepare the data again")
    return manifest


def open_tokenizer(config: TokenizerConfig, shards: Shards) -> Tokenizer:
    """The tokenizer the shards were made with, or the configured one if it is the same.

    That of conversations has the template that rendered them, whichever the configured one came with.

    Raises:
        MismatchError: `config.name` names another tokenizer.
        DataError: The tokenizer stored with the data cannot be read.
    """
    recorded, remote = shards.tokenizer, shards.streams[0].remote
    if config.name is not None:
        tokenizer = load_tokenizer(config)
        tokenizer = tokenizer.without_bos() if recorded.bos_id is None else tokenizer
        if shards.streams[0].manifest.kind == CONVERSATIONS:
            stored = open_tokenizer(dataclasses.replace(config, name=None), shards).source_config
            source_config = tokenizer.source_config | {"chat_template": stored.get("chat_template")}
            tokenizer = dataclasses.replace(tokenizer, source_config=source_config)
    else:
        contents = {name: _read(remote, f"{TOKENIZER_DIR}/{name}") for name in TOKENIZER_FILES}
        tokenizer = restore_tokenizer(contents, config, name=recorded.name)
    tokenizer.require_fingerprint(recorded.fingerprint, owner=f"{remote}/{shards.split}")
    return tokenizer


def _has_split(root: str, split: str) -> bool:
    return Folder(root).exists(f"{split}/{INDEX_NAME}")


def _read(root: str, name: str) -> bytes:
    content = Folder(root).read(name)
    if content is None:
        raise IncompleteError(f"{root}/{name} is missing: {_PREPARE}")
    return content

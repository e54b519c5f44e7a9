"""Reads samples by (epoch, id) through the dataset that training iterates over, and splits them into parts."""

from __future__ import annotations

import dataclasses
import errno
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from meap.answers import LONG, long_answers
from meap.config import DataConfig, MaskingConfig, RecipeConfig, SftConfig, TokenizerConfig
from meap.config.commands import InspectConfig
from meap.config.loading import read_layers
from meap.data import (
    StreamingMaskedDataset,
    build_loader,
    build_mask_rule,
    build_sft_loader,
    open_shards,
    open_tokenizer,
)
from meap.data.sft import expand_row, require_room_for_copies
from meap.data.shards import read_manifest
from meap.errors import ConfigError, DataError, IncompleteError, MeapError
from meap.manifest import CONVERSATIONS, ROWS, Manifest
from meap.masking import MaskRule
from meap.places.problems import MORE_FILES
from meap.schema import (
    ANSWER_COLUMN,
    CHOSEN_COLUMN,
    IGNORE_INDEX,
    LENGTHS_COLUMN,
    SPLITS,
    TOKENS_COLUMN,
    TRAIN_SPLIT,
)
from meap.tokenizer import Tokenizer

__all__ = ["InspectedData", "Part", "Sample", "open_data"]

_COLLISIONS = 10
_TRAINED_KINDS = {"meap_1b": ROWS, "meap_sft": CONVERSATIONS}
"""By the recipe that a yaml is for; one that names none is for either."""

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Part:
    """A contiguous part of a sample: a whole row of documents, one conversation, or its masked copy."""

    conversation: int | None
    """Number within the row, from 0; None for a row of documents."""
    is_copy: bool
    first_position: int
    """`position_ids` of its first token."""
    tokens: NDArray[np.int64]
    """Clean, in the order in which they are read. A row of documents includes its last token, which is only a label."""
    inputs: NDArray[np.int64]
    """What the model reads at their places."""
    is_masked: BoolArray
    """Chosen tokens, whatever replaces them."""
    is_maskable: BoolArray
    """Tokens of which the ratio masks a share."""
    is_scored: BoolArray
    """Tokens that some position has to predict."""
    is_reversed: bool = False
    """Whether it is read right to left, behind the direction token; `tokens` are then in that order."""


@dataclass(frozen=True)
class Sample:
    """A row as one epoch of training sees it."""

    sample_id: int
    epoch: int
    seq_len: int
    parts: tuple[Part, ...]

    @property
    def num_masked(self) -> int:
        """Masked input tokens."""
        return sum(int(part.is_masked.sum()) for part in self.parts)

    @property
    def num_maskable(self) -> int:
        """Input tokens of which the ratio masks a share."""
        return sum(int(part.is_maskable.sum()) for part in self.parts)

    @property
    def num_scored(self) -> int:
        """Tokens that some position has to predict."""
        return sum(int(part.is_scored.sum()) for part in self.parts)


@dataclass(frozen=True)
class InspectedData:
    """An open split, and how it is masked."""

    split: str
    remote: str
    manifest: Manifest
    other_manifests: tuple[Manifest, ...]
    """Of the other splits."""
    tokenizer: Tokenizer
    dataset: StreamingMaskedDataset
    rule: MaskRule | None
    """None where nothing is masked."""
    masking: MaskingConfig
    sft: SftConfig
    seed: int
    epoch: int

    @property
    def is_conversations(self) -> bool:
        """Whether these are fine-tuning shards."""
        return self.manifest.kind == CONVERSATIONS

    @cached_property
    def shard_starts(self) -> list[int]:
        """Number of the first row of each shard, and the number of rows."""
        return [0, *accumulate(shard.rows for shard in self.manifest.shards)]

    def choose_samples(self, cfg: InspectConfig) -> Sequence[int]:
        """Ids of the rows to show.

        Raises:
            ConfigError: One does not exist.
        """
        rows = self.manifest.rows
        for sample_id in cfg.samples:
            if sample_id >= rows:
                raise ConfigError(
                    f"samples=[{sample_id}] is out of range: the {self.split} split has {rows:,} rows, 0 to {rows - 1}"
                )
        return cfg.samples or range(min(cfg.count, rows))

    def shard_of(self, sample_id: int) -> int:
        """Number of the shard that holds a row."""
        return bisect_right(self.shard_starts, sample_id) - 1

    def samples_of(self, shard: int) -> Iterator[Sample]:
        """Every row of a shard."""
        return map(self.sample, range(self.shard_starts[shard], self.shard_starts[shard + 1]))

    def sample(self, sample_id: int) -> Sample:
        """A row, masked as in the chosen epoch."""
        columns = self.dataset.stored_at(sample_id)
        shown = {
            name: np.asarray(value) if name in {"input_ids", "labels", "position_ids", CHOSEN_COLUMN} else value
            for name, value in self.dataset.sample_at(sample_id, epoch=self.epoch).items()
        }
        parts = self._conversations(columns, sample_id, shown) if self.is_conversations else [self._row(columns, shown)]
        return Sample(sample_id, self.epoch, self.manifest.seq_len, tuple(parts))

    def stored_tokens(self, sample_id: int) -> NDArray[np.int64]:
        """All tokens of a row, as they are stored."""
        return self.dataset.stored_at(sample_id)[TOKENS_COLUMN].astype(np.int64)

    def _row(self, columns: Any, shown: dict[str, Any]) -> Part:
        tokens = columns[TOKENS_COLUMN].astype(np.int64)
        is_reversed = self.rule is not None and shown["input_ids"][0] == self.rule.direction_id
        if is_reversed:
            tokens = np.append(shown["input_ids"][:1], shown["labels"])
        is_input = np.arange(len(tokens)) < len(tokens) - 1
        unmaskable = [] if self.rule is None else [*self.rule.protected_ids, self.rule.direction_id or -1]
        return Part(
            conversation=None,
            is_copy=False,
            first_position=0,
            tokens=tokens,
            inputs=np.append(shown["input_ids"], tokens[-1]),
            is_masked=np.append(shown.get(CHOSEN_COLUMN, shown["input_ids"] != tokens[:-1]), False),
            is_maskable=is_input & ~np.isin(tokens, unmaskable),
            is_scored=np.arange(len(tokens)) > 0,
            is_reversed=is_reversed,
        )

    def _conversations(self, columns: Any, sample_id: int, shown: dict[str, Any]) -> Iterator[Part]:
        # In this layout a conversation and its copy are one segment of twice the length, which tells which have a copy.
        together = dataclasses.replace(self.sft, layout="concat")
        sizes = expand_row(
            columns, sample_id, seq_len=self.manifest.seq_len, sft=together, rule=self.rule, epoch=self.epoch
        )["segment_lengths"]
        tokens, flags = columns[TOKENS_COLUMN].astype(np.int64), columns[ANSWER_COLUMN]
        lengths = columns[LENGTHS_COLUMN].tolist()
        place, start = 0, 0
        for number, (length, size) in enumerate(zip(lengths, sizes, strict=True)):
            clean, own = tokens[start : start + length], flags[start : start + length]
            start += length
            is_word = np.zeros(length, bool)
            for first, stop in long_answers(own, self.sft.min_answer_tokens or 0):
                is_word[first:stop] = (own[first:stop] & LONG) != 0
            for is_copy in [False, True][: size // length]:
                here = slice(place, place + length)
                inputs, labels = (shown[name][here] for name in ("input_ids", "labels"))
                yield Part(
                    conversation=number,
                    is_copy=is_copy,
                    first_position=int(shown["position_ids"][place]),
                    tokens=clean,
                    inputs=inputs,
                    is_masked=shown[CHOSEN_COLUMN][here] if CHOSEN_COLUMN in shown else inputs != clean,
                    is_maskable=is_word & is_copy,
                    is_scored=np.concatenate([[False], labels[:-1] != IGNORE_INDEX]),
                )
                place += length


def open_data(cfg: InspectConfig, cache_dir: str) -> InspectedData:
    """Open a split as training does, for random access to single rows.

    Args:
        cfg: What the command line asks for.
        cache_dir: Folder for downloaded shards.

    Raises:
        ConfigError: A key does not apply to this kind of data, or training would mask nothing of it.
        DataError: The data cannot be read, there is none, or they are not what `cfg.training` trains on.
    """
    remote, training = cfg.resolve_remote(), cfg.resolve_training()
    masking, sft, seed = training.masking.in_epoch(cfg.epoch), training.sft, training.run.seed
    manifest = read_manifest(remote, cfg.split, key="remote")
    _require_kind(cfg, manifest, remote)
    if cfg.training is not None:
        _require_trainable(cfg, training, remote)
    # Rows one by one, in order: this decides how a sample is fetched, not what it is.
    config = DataConfig(
        remote=remote,
        seq_len=manifest.seq_len,
        num_canonical_nodes=1,
        num_workers=0,
        download_retry=1,
        download_patience=0,
    )
    shards = open_shards(config, cfg.split, kind=manifest.kind)
    mask_token = manifest.config.get("tokenizer", {}).get("mask_token", TokenizerConfig.mask_token)
    tokenizer = open_tokenizer(TokenizerConfig(mask_token=mask_token), shards)
    tokenizer = tokenizer.with_direction() if masking.reversed_ratio else tokenizer
    rule = build_mask_rule(masking, tokenizer.record, seed=seed, special_ids=tokenizer.special_ids)
    rule = rule if rule.changes_rows else None
    how: Any = {
        "rule": rule,
        "seed": seed,
        "global_batch_size": 1,
        "world_size": 1,
        "cache_dir": Path(cache_dir),
        "shuffle": False,
    }
    build = build_loader if manifest.kind != CONVERSATIONS else partial(build_sft_loader, sft=sft)
    try:
        loader = _retry_collisions(lambda: build(config, shards, **how))
    except MeapError:
        raise
    except Exception as error:
        is_short_of_files = getattr(error, "errno", None) == errno.EMFILE
        remedy = MORE_FILES if is_short_of_files else "check the storage and cache_dir"
        raise DataError(
            f"{remote}/{cfg.split} could not be opened ({type(error).__name__}: {error}): {remedy}"
        ) from error
    return InspectedData(
        split=cfg.split,
        remote=remote,
        manifest=manifest,
        other_manifests=tuple(_other_manifests(remote, cfg.split)),
        tokenizer=tokenizer,
        dataset=cast("StreamingMaskedDataset", loader.dataset),
        rule=rule,
        masking=masking,
        sft=sft,
        seed=seed,
        epoch=cfg.epoch,
    )


def _require_trainable(cfg: InspectConfig, training: RecipeConfig, remote: str) -> None:
    """Refuse data that the training would refuse, by its own checks: it would never see these samples."""
    recipes = [recipe for _, recipe in read_layers(Path(str(cfg.training))) if recipe is not None]
    config = DataConfig(remote=remote, seq_len=training.data.seq_len)
    shards = open_shards(config, TRAIN_SPLIT, kind=_TRAINED_KINDS.get(recipes[-1]) if recipes else None)
    if shards.streams[0].manifest.kind == CONVERSATIONS and cfg.split == TRAIN_SPLIT:
        require_room_for_copies(shards, ratio=training.masking.largest_ratio)
    if training.tokenizer.name is not None:
        open_tokenizer(training.tokenizer, shards)


def _require_kind(cfg: InspectConfig, manifest: Manifest, remote: str) -> None:
    if cfg.sft_keys and manifest.kind != CONVERSATIONS:
        raise ConfigError(
            f"{' and '.join(cfg.sft_keys)}: {remote} holds {manifest.kind}, not conversations for fine-tuning; leave "
            f"{'it' if len(cfg.sft_keys) == 1 else 'them'} out"
        )


def _retry_collisions(build: Callable[[], DataLoader[Any]]) -> DataLoader[Any]:
    """Build; retry where another process takes the same name in shared memory first."""
    for _ in range(_COLLISIONS):
        with suppress(FileExistsError):
            return build()
    return build()


def _other_manifests(remote: str, than: str) -> Iterator[Manifest]:
    for split in SPLITS:
        if split != than:
            try:
                yield read_manifest(remote, split, key="remote")
            except IncompleteError:
                continue  # small data sets have nothing held out

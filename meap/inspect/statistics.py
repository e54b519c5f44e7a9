"""Statistics of a data set: what its manifest records, and what is measured on the rows read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from meap.inspect.samples import InspectedData, Part, Sample
from meap.manifest import CONVERSATIONS, Manifest

__all__ = ["NUM_PLACES", "Measured", "SourceGroup", "group_sources", "measure"]

NUM_PLACES = 32
"""Buckets of the positions that may be masked, from the first to the last of a row or an answer."""


@dataclass(frozen=True)
class SourceGroup:
    """Input files that one preparation task read; the shards tell tasks apart, but not the files of one task."""

    files: tuple[str, ...]
    rows: int
    tokens: int | None
    """Tokens in its rows; None where rows hold fewer tokens than they have room for."""


@dataclass
class Measured:
    """Sums over the rows that were read."""

    rows: int = 0
    shards: int = 0
    num_maskable: int = 0
    num_masked: int = 0
    num_scored: int = 0
    num_copies: int = 0
    num_used: int = 0
    """Positions that are not padding."""
    maskable_by_place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_PLACES, np.int64))
    masked_by_place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_PLACES, np.int64))
    lengths: list[int] = field(default_factory=list)
    """Tokens of each whole document, without BOS and EOS, or of each conversation."""
    answer_lengths: list[int] = field(default_factory=list)
    """Scored tokens of each conversation, its copy included."""
    num_cut: int = 0
    """Documents that begin or end outside the rows read."""

    @property
    def realised_ratio(self) -> float:
        """Masked tokens as a share of those the ratio is of."""
        return self.num_masked / self.num_maskable if self.num_maskable else 0.0

    @property
    def masked_share_by_place(self) -> NDArray[np.float64]:
        """Share masked in each bucket."""
        return self.masked_by_place / np.maximum(self.maskable_by_place, 1)


def group_sources(manifest: Manifest) -> list[SourceGroup]:
    """Rows and tokens by input file, as far as the manifest records them."""
    num_tasks = manifest.config.get("tasks") or 1
    count = len(manifest.sources)
    rows = [0] * num_tasks
    for shard in manifest.shards:
        # Preparation names shards shard.<task>.<number>; a task reads a contiguous range of files.
        task = int(shard.basename.split(".")[1]) if num_tasks > 1 else 0
        rows[task] += shard.rows
    return [
        SourceGroup(
            files=manifest.sources[task * count // num_tasks : (task + 1) * count // num_tasks],
            rows=rows[task],
            tokens=None if manifest.kind == CONVERSATIONS else rows[task] * (manifest.seq_len + 1),
        )
        for task in range(num_tasks)
    ]


def measure(data: InspectedData, samples: Sequence[Sample], *, extra_shards: int) -> Measured:
    """Read every row of the shards that hold `samples`, and of `extra_shards` others, spread over the data set."""
    chosen = {data.shard_of(sample.sample_id) for sample in samples}
    others = [number for number in range(len(data.manifest.shards)) if number not in chosen]
    extra_shards = min(extra_shards, len(others))
    chosen |= {others[number * len(others) // extra_shards] for number in range(extra_shards)}
    measured = Measured(shards=len(chosen))
    for shard in sorted(chosen):
        rows: list[NDArray[np.int64]] = []
        for sample in data.samples_of(shard):
            _add(measured, sample)
            if not data.is_conversations:
                rows.append(data.stored_tokens(sample.sample_id))
        if rows:
            # Rows of a shard follow each other as documents do: a document may run on from one into the next.
            _add_documents(measured, np.concatenate(rows), data.manifest.tokenizer.borders)
    return measured


def _add(measured: Measured, sample: Sample) -> None:
    measured.rows += 1
    measured.num_maskable += sample.num_maskable
    measured.num_masked += sample.num_masked
    measured.num_scored += sample.num_scored
    scored: dict[int, int] = {}
    for part in sample.parts:
        _add_masks(measured, part)
        measured.num_used += len(part.tokens)
        if part.conversation is not None:
            scored[part.conversation] = scored.get(part.conversation, 0) + int(part.is_scored.sum())
            measured.num_copies += part.is_copy
            if not part.is_copy:
                measured.lengths.append(len(part.tokens))
    measured.answer_lengths += scored.values()


def _add_masks(measured: Measured, part: Part) -> None:
    is_masked = part.is_masked[part.is_maskable]
    if len(is_masked):
        # By the middle of each token, so that a part of fewer tokens than buckets leans to neither side.
        place = (2 * np.arange(len(is_masked)) + 1) * NUM_PLACES // (2 * len(is_masked))
        measured.maskable_by_place += np.bincount(place, minlength=NUM_PLACES)
        measured.masked_by_place += np.bincount(place[is_masked], minlength=NUM_PLACES)


def _add_documents(measured: Measured, tokens: NDArray[np.int64], borders: tuple[int, ...]) -> None:
    """Add the lengths of runs between border tokens; the first and the last run may go on elsewhere."""
    places = np.flatnonzero(np.isin(tokens, borders))
    gaps = np.diff(places) - 1
    measured.lengths += gaps[gaps > 0].tolist()
    if len(places):
        measured.num_cut += int(places[0] > 0) + int(places[-1] < len(tokens) - 1)
    else:
        measured.num_cut += 1

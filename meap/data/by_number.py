"""Held-out rows read by number, for measurements that keep no state: an evaluation's."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meap.config import DataConfig, StreamConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.loader import build_streams
from meap.data.ranks import gather_from_ranks
from meap.data.shards import open_shards, read_manifest
from meap.errors import DataError, MismatchError
from meap.manifest import ROWS
from meap.places.whole import temporary_folder
from meap.schema import TOKENS_COLUMN, VALIDATION_SPLIT

__all__ = ["HeldoutRows", "open_heldout_rows"]


@dataclass(frozen=True)
class HeldoutRows:
    """Clean rows of ``seq_len + 1`` ids."""

    num_rows: int
    read: Callable[[int], NDArray[np.int64]]
    """Returns row number ``i``; streams are mixed in proportion to their rows."""
    origin: str | None = None
    """Where the data are."""
    source_of: Callable[[int], str] = lambda index: ""
    """Returns the data set of row number ``i``."""
    why_none: str = ""
    """Why there are no rows, if there are none."""

    @classmethod
    def none(cls, why: str, origin: str | None = None) -> HeldoutRows:
        """No rows."""
        return cls(0, lambda index: np.empty(0, np.int64), origin, why_none=why)


@contextmanager
def open_heldout_rows(remotes: Sequence[str], *, fingerprint: str, key: str) -> Iterator[HeldoutRows]:
    """The validation rows of prepared data; none, and why, where they cannot be read or another tokenizer made them.

    Args:
        remotes: Folders or URLs that data preparation wrote; their rows are mixed.
        fingerprint: Of the tokenizer that must have made the rows: to another, their ids mean nothing.
        key: The key that names `remotes`, for errors.

    Raises:
        MismatchError: The data sets do not belong together.
    """
    without = f"no held-out rows of the model's tokenizer are given: set {key}=[<prepared data>]"
    if not remotes:
        yield HeldoutRows.none(without)
        return
    try:
        manifest = read_manifest(remotes[0], VALIDATION_SPLIT, key=key)
        streams = {str(number): StreamConfig(remote) for number, remote in enumerate(remotes)}
        data = DataConfig(streams=streams, seq_len=manifest.seq_len)
        shards = open_shards(data, VALIDATION_SPLIT, kind=None)
    except MismatchError:
        raise
    except DataError as error:
        yield HeldoutRows.none(str(error))
        return
    for stream in shards.streams:
        if stream.manifest.kind != ROWS:
            raise MismatchError(
                f"{key}: {stream.remote} holds conversations, whose held-out loss recipes/meap_sft.py measures as it "
                "trains: give rows of text, which dataprep/c4_to_mds.py prepares"
            )
    if shards.tokenizer.fingerprint != fingerprint:
        yield HeldoutRows.none(without, shards.origin)
        return
    with _open_cache() as cache_dir:
        dataset = StreamingMaskedDataset(
            rule=None,
            labels="shifted",
            streams=build_streams(data, shards, cache_dir),
            batch_size=1,
            num_canonical_nodes=1,
            shuffle=False,
        )
        order = shards.mixed_order()

        # By number, not by iteration, which starts threads and keeps an epoch's state.
        def read(index: int) -> NDArray[np.int64]:
            return dataset.stored_at(int(order[index]))[TOKENS_COLUMN].astype(np.int64)

        ends = np.cumsum([stream.manifest.rows for stream in shards.streams])

        def source_of(index: int) -> str:
            return shards.streams[int(np.searchsorted(ends, order[index], side="right"))].remote

        yield HeldoutRows(shards.rows, read, shards.origin, source_of=source_of)


@contextmanager
def _open_cache() -> Iterator[Path]:
    """A folder for downloaded shards, the same on all ranks; a training run that is still going on owns another one."""
    name = gather_from_ranks(secrets.token_hex(8))[0]
    # The first rank of a machine reads no less than the others do.
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    with temporary_folder("meap-eval-", shared=name, removes=is_first) as folder:
        yield folder

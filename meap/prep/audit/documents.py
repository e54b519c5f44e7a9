"""Documents in packed rows: cut where one ends and the next begins, and joined where one runs on into the next shard.

Rows hold ``BOS tokens EOS`` back to back. A text may spell out a special token itself, so a document begins only where
an EOS is followed by a BOS (where both are one token: at every second one of a run of them). Imported rows may come
without BOS; their documents begin after every EOS.

A task's stream of tokens ends where its last row does, so its last document is mostly cut; it is counted apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.manifest import Manifest

__all__ = ["Borders", "DocumentJoiner"]

_BLOCK = 1 << 20
_LONGEST = 1 << 24
"""Tokens of a document that are held to be joined; a longer one is counted as cut."""


@dataclass(frozen=True)
class Borders:
    """How documents begin and end."""

    bos_id: int
    eos_id: int
    has_bos: bool = True
    """Whether each document begins with BOS."""

    @classmethod
    def of(cls, manifest: Manifest) -> Borders:
        """Those of a split of rows."""
        tokenizer = manifest.tokenizer
        return cls(tokenizer.bos_id, tokenizer.eos_id, has_bos="text_key" in manifest.config)

    def beginnings(self, tokens: NDArray[Any], *, is_start: bool) -> NDArray[np.int64]:
        """Positions where documents begin, as far as `tokens` alone can tell.

        Args:
            tokens: Part of a stream.
            is_start: Whether the first token begins a document.
        """
        first = np.zeros(int(is_start and len(tokens) > 0), np.int64)
        if not self.has_bos:
            places = _places_of(self.eos_id, tokens) + 1
            return np.concatenate([first, places[places < len(tokens)]])
        places = _places_of(self.bos_id, tokens)
        if self.bos_id != self.eos_id:
            places = places[places > 0]
            return np.concatenate([first, places[tokens[places - 1] == self.eos_id]])
        begins_run = np.diff(places, prepend=-2) > 1
        run_start = places[np.maximum.accumulate(np.where(begins_run, np.arange(len(places)), 0))]
        # A run begins with the end of a document, unless a document begins there; without what stands before it, it
        # is not known.
        parity = np.where(run_start > 0, 1, 0 if is_start else -1)
        return places[(places - run_start) % 2 == parity]

    def content_lengths(self, tokens: NDArray[Any], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Any:
        """Tokens of whole documents, without BOS and EOS."""
        return ends - starts - 1 - (tokens[starts] == self.bos_id if self.has_bos or self._differ else 0)

    def is_whole(self, document: NDArray[Any]) -> bool:
        """Whether a document that begins where it should also ends."""
        least = 2 if self.has_bos else 1
        return (
            len(document) >= least and document[-1] == self.eos_id and (not self.has_bos or document[0] == self.bos_id)
        )

    @property
    def _differ(self) -> bool:
        return self.bos_id != self.eos_id


class DocumentJoiner:
    """Joins what shards of a task have left over at their beginnings and ends.

    Args:
        borders: How documents begin and end.
    """

    def __init__(self, borders: Borders) -> None:
        self.borders = borders
        self.num_cut = 0
        """Documents of which a part is missing, or that are too long to be joined."""
        self._carried: NDArray[Any] | None = None
        self._begins = True

    def join(self, head: NDArray[Any], tail: NDArray[Any] | None) -> list[NDArray[Any]]:
        """Documents that a shard completes.

        Args:
            head: Its tokens before the first document that surely begins in it; all of them if there is none.
            tail: Its tokens from the last document on that surely begins in it; None if there is none.
        """
        tokens = head if self._carried is None else np.concatenate([self._carried, head])
        documents = self._split(tokens)
        last = documents.pop() if documents else tokens[:0]
        if tail is not None:
            documents.append(last)
            last = tail
        whole = [each for each in documents if len(each) and self._count(each)]
        if tail is not None or len(documents):
            self._begins = True
        self._carried = last
        if len(last) > _LONGEST:
            self._carried, self._begins = None, False
        return whole

    def end(self) -> list[NDArray[Any]]:
        """The last document of the task, if it is whole; then all begins anew."""
        last, self._carried = self._carried, None
        whole = [last] if last is not None and len(last) and self._count(last) else []
        self._begins = True
        return whole

    def _split(self, tokens: NDArray[Any]) -> list[NDArray[Any]]:
        starts = self.borders.beginnings(tokens, is_start=self._begins)
        return np.split(tokens, starts[starts > 0])

    def _count(self, document: NDArray[Any]) -> bool:
        is_whole = self._begins and self.borders.is_whole(document)
        self._begins = True  # what follows begins where a document does
        self.num_cut += not is_whole
        return is_whole


def _places_of(token: int, tokens: NDArray[Any]) -> NDArray[np.int64]:
    blocks = [
        np.flatnonzero(tokens[start : start + _BLOCK] == token) + start for start in range(0, len(tokens), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)

"""The interface of a model: `meap.evals.hugging_face` implements it with transformers, tests with a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Attention", "Ids", "LanguageModel", "Reading"]

Ids = NDArray[np.int32]
"""Token ids of a prompt or row, (T,): arrays, since long-context evaluations have many."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A row whose attention is read."""

    ids: Ids
    """Token ids, (T,), at least 2."""
    asking: tuple[int, int] = (0, 0)
    """Queries of `Attention.asking_LT`: the first token, and the one after the last; equal: none."""


@dataclass(frozen=True, eq=False)
class Attention:
    """How much each token of a row is attended to: sums over the softmax weights ``A[i, j]`` of query i and key j <= i.

    All are (L, T), by layer and key j, and means over heads.
    """

    later_LT: NDArray[np.float64]
    """Sum over later queries, i > j."""
    own_LT: NDArray[np.float64]
    """``A[j, j]``."""
    relative_LT: NDArray[np.float64]
    """Sum over later queries of ``A[i, j] * (i + 1)``, which is 1 per query where attention is uniform."""
    squares_LT: NDArray[np.float64]
    """Sum over later queries of ``A[i, j]`` squared, before heads are averaged."""
    last_LT: NDArray[np.float64]
    """``A[T - 1, j]``."""
    asking_LT: NDArray[np.float64]
    """Mean over the queries of `Reading.asking`; zeros without any."""


class LanguageModel(Protocol):
    """Token ids in; log-likelihoods, token ids or attention out. Nothing is added, cut or masked on the way."""

    @property
    def max_positions(self) -> int:
        """Most tokens that a forward pass may see, generated ones included."""
        ...

    def loglikelihoods(self, rows: Sequence[Ids]) -> list[NDArray[np.float64]]:
        """Log-likelihood, in nats, of each token of each row given those before it.

        Args:
            rows: Token ids, (T + 1,) each, of any lengths of at least 2; the first token is context only.

        Returns:
            For each row, in order, (T,): entry ``t`` belongs to token ``t + 1``.
        """
        ...

    def generate(self, prompts: Sequence[Ids], *, max_new_tokens: int, stop: str = "") -> list[list[int]]:
        """Greedy continuation of each prompt: the new ids only.

        Args:
            prompts: Token ids, of any lengths of at least 1.
            max_new_tokens: Most tokens to generate; a continuation ends before the end-of-text token,
                or another that ends the model's answers.
            stop: A continuation ends with the token that completes this text, once anything but spaces and newlines
                precedes it; empty: no such text.
        """
        ...

    def attention(self, readings: Sequence[Reading]) -> list[Attention]:
        """Attention in each row, in order."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the results file: name, hash of the weights, parameters, precision, device."""
        ...

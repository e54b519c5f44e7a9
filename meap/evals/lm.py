"""What a task may ask of a model. Tests implement it with a few lines; `meap.evals.hugging_face` with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ids", "LanguageModel"]

Ids = NDArray[np.int32]
"""Token ids of a prompt or of a row, (T,): arrays, because those of a long-context evaluation are many."""


class LanguageModel(Protocol):
    """Token ids in, log-likelihoods or token ids out. Nothing is added, cut or masked on the way."""

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
            max_new_tokens: At most so many are generated; a continuation ends before the end-of-text token.
            stop: A continuation ends with the token that completes this text; empty: it does not matter.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the results file: name, hash of the weights, parameters, precision, device."""
        ...

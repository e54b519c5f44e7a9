"""What a task may ask of a model. Tests implement it with a few lines; `meap.evals.hugging_face` with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["LanguageModel"]


class LanguageModel(Protocol):
    """Token ids in, log-likelihoods or token ids out. Nothing is added, cut or masked on the way."""

    @property
    def max_positions(self) -> int:
        """Most tokens that a forward pass may see, generated ones included."""
        ...

    def loglikelihoods(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """Log-likelihood, in nats, of each token of each row given those before it.

        Args:
            rows: Token ids, (T + 1,) each, of any lengths of at least 2; the first token is context only.

        Returns:
            For each row, in order, (T,): entry ``t`` belongs to token ``t + 1``.
        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """Greedy continuation of each prompt: the new ids only, ending before the end-of-text token."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for the results file: name, parameters, precision, device."""
        ...

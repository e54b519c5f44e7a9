"""Rows of embedding and head for untrained tokens (mask, direction), and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

__all__ = ["fit_vocabulary"]


@torch.no_grad()
def fit_vocabulary(model: PreTrainedModel, rows: int, new_ids: Sequence[int]) -> None:
    """Give the embedding and the head `rows` rows; untrained rows start as the mean of the others.

    A mean keeps the new token's logit ordinary, where a random row can outdo every real token (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").

    Args:
        model: The model, changed in place.
        rows: At least as many as it has.
        new_ids: Ids of untrained tokens, also among its rows.
    """
    before = int(model.config.vocab_size)
    means = [each.weight[:before].mean(0) for each in _vocabulary_layers(model)]
    if rows != before:
        # Not mean_resizing: it draws from the rows' covariance, which takes minutes and depends on a random state.
        model.resize_token_embeddings(rows, mean_resizing=False)
    new_rows = [*range(before, rows), *(each for each in new_ids if each < before)]
    for layer, mean in zip(_vocabulary_layers(model), means, strict=True):
        layer.weight[new_rows] = mean


def _vocabulary_layers(model: PreTrainedModel) -> list[Any]:
    """The embedding and the head, which may share their weights."""
    return [model.get_input_embeddings(), model.get_output_embeddings()]

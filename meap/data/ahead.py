"""Masks of upcoming rows, drawn many at once: several times cheaper than one by one.

A draw is an address, so when it is drawn, and beside which others, changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meap.masking import MaskRule

__all__ = ["MaskAhead"]


class MaskAhead:
    """Applies a rule to one row at a time.

    Args:
        rule: How to mask. Where a mask depends on the row's tokens, it is drawn with the row.
    """

    def __init__(self, rule: MaskRule) -> None:
        self._rule = rule
        self._drawn: tuple[tuple[int, int], dict[int, NDArray[np.bool_]]] = ((-1, -1), {})
        """Epoch and number of tokens, and the masks of samples drawn for them."""

    def apply(self, input_ids_T: NDArray[np.int64], sample_ids: NDArray[np.int64], *, epoch: int) -> NDArray[np.int64]:
        """The row of the first of `sample_ids`, masked; not changed.

        Args:
            input_ids_T: Its token ids.
            sample_ids: Its id, and those of the rows that are expected to follow; negative ones stand for none.
            epoch: Epoch number, from 0.
        """
        if self._rule.depends_on_tokens:
            return self._rule.apply(input_ids_T[None], sample_ids[:1], epoch=epoch)[0]
        masked_T = input_ids_T.copy()
        np.putmask(masked_T, self._mask_of(sample_ids, epoch, len(input_ids_T)), self._rule.mask_id)
        return masked_T

    def _mask_of(self, sample_ids: NDArray[np.int64], epoch: int, num_tokens: int) -> NDArray[np.bool_]:
        sample_id = int(sample_ids[0])
        drawn_for, masks = self._drawn
        if drawn_for != (epoch, num_tokens) or sample_id not in masks:
            sample_ids = sample_ids[sample_ids >= 0]
            masks_BT = self._rule.choose(sample_ids, num_tokens=num_tokens, epoch=epoch)
            masks = dict(zip(sample_ids.tolist(), masks_BT, strict=True))
            self._drawn = (epoch, num_tokens), masks
        return masks[sample_id]

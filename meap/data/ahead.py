"""Chosen positions of upcoming rows, drawn many at once: several times cheaper than one by one.

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
        rule: How to mask. Where the choice depends on the row's tokens, it is drawn with the row.
    """

    def __init__(self, rule: MaskRule) -> None:
        self._rule = rule
        self._drawn: tuple[tuple[int, int], dict[int, NDArray[np.bool_]]] = ((-1, -1), {})
        """Epoch and number of tokens, and the positions of samples drawn for them."""

    def apply(
        self, input_ids_T: NDArray[np.int64], sample_ids: NDArray[np.int64], *, epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The row of the first of `sample_ids` with its chosen tokens replaced, and where they are; not changed.

        Args:
            input_ids_T: Its token ids.
            sample_ids: Its id, and those of the rows that are expected to follow; negative ones stand for none.
            epoch: Epoch number, from 0.
        """
        rule, own = self._rule.at(epoch), sample_ids[:1]
        if rule.depends_on_tokens:
            row_BT = input_ids_T[None]
            chosen_T = rule.choose(own, num_tokens=len(input_ids_T), epoch=epoch, input_ids_BT=row_BT)[0]
        else:
            chosen_T = self._choice_of(rule, sample_ids, epoch, len(input_ids_T))
        if not rule.shows_choice:
            return rule.replace(input_ids_T[None], chosen_T[None], own, epoch=epoch)[0], chosen_T
        masked_T = input_ids_T.copy()
        np.putmask(masked_T, chosen_T, rule.mask_id)
        return masked_T, chosen_T

    def _choice_of(
        self, rule: MaskRule, sample_ids: NDArray[np.int64], epoch: int, num_tokens: int
    ) -> NDArray[np.bool_]:
        sample_id = int(sample_ids[0])
        drawn_for, choices = self._drawn
        if drawn_for != (epoch, num_tokens) or sample_id not in choices:
            sample_ids = sample_ids[sample_ids >= 0]
            chosen_BT = rule.choose(sample_ids, num_tokens=num_tokens, epoch=epoch)
            choices = dict(zip(sample_ids.tolist(), chosen_BT, strict=True))
            self._drawn = (epoch, num_tokens), choices
        return choices[sample_id]

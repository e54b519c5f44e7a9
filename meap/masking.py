"""The method: which input tokens of a row are chosen, and what replaces them.

MEAP (arXiv 2502.07490, section 3) replaces a fraction of the *input* tokens by ``[MASK]``, keeps the labels clean, and
trains plain next-token prediction. A draw is an address, not a stream: (seed, epoch, sample id) alone decides which
of the tokens in scope are chosen. There is no state to checkpoint, and no worker or rank can get out of step. The
same body runs on numpy arrays (loader workers) and torch tensors (training process, CPU or CUDA), bit for bit.

Beyond the paper, a share of the chosen tokens may become a random token, or stay as it is, and a share of the rows may
be read right to left.

Invariants, one test per number:

1. Labels are the clean tokens: masking returns new inputs and never touches its arguments.
2. The count is exact: ``max(1, int(T * ratio))`` distinct positions of T in scope (official code), not Bernoulli.
3. Padding, tokens out of scope, protected ids and, unless `mask_last`, the last input token are never chosen.
4. The choice depends on the address and on what is in scope: not on batch, rank, worker, order, or other token values.
5. Both sites agree: numpy and torch give the same positions, tokens and directions bit for bit.
6. Ratio 0 is plain next-token prediction: inputs come back equal. So does a row of which no share is reversed.
7. Every feasible placement is equally likely: of single tokens, and of spans that do not overlap.
8. What becomes of a chosen token depends on its address, its place among the row's tokens, and itself alone. It is
   masked, random or kept by the shares, each token on its own.
9. A random token is any ordinary one but the one that it replaces, each equally likely; never a special token.
10. A reversed row is the direction token, never chosen, and the row from its end; its labels are those of the row from
   their end. Which rows are reversed depends on the address alone.

Positions are those of `meap.positions`; a random token is an index among the ordinary ids, drawn alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from meap.arrays import Array, arange, cast_like, concatenate, copy_of, flip, like, place_in, where
from meap.philox import DIRECTION, KIND, RANDOM_TOKEN, draw_words
from meap.positions import choose_masked

__all__ = ["MaskRule"]

_WORDS = 1 << 32
"""Values of a random word."""


@dataclass(frozen=True)
class MaskRule:
    """Which input tokens of a row are chosen, and what replaces them: all that a run fixes, for both sites.

    Args:
        mask_id: Id of the mask token.
        ratio: Share of the input tokens in scope to choose, in [0, 1).
        seed: The run's seed, in [0, 2**32).
        span_length: Tokens per span; 1 chooses single tokens.
        mask_last: Whether the last input token of a row may be chosen.
        protected_ids: Token ids that are never chosen; they do not count as input tokens in scope.
        random_share: Share of the chosen tokens that a random token replaces. What neither this nor `keep_share` takes
            is masked.
        keep_share: Share of the chosen tokens that stay as they are.
        num_ids: Number of ids, of which random tokens are drawn; only needed for these.
        special_ids: Ids that are never drawn.
        reversed_ratio: Share of the rows that are read right to left, in [0, 1].
        direction_id: Id of the token that begins them; only needed for these.
        later: Rules of later epochs, each with the first epoch in which it is in force, ascending; see `at`.

    Source: paper section 3 and Table 15 (spans); the counting rule is the official code's.
    """

    mask_id: int
    ratio: float
    seed: int
    span_length: int = 1
    mask_last: bool = False
    protected_ids: tuple[int, ...] = ()
    random_share: float = 0.0
    keep_share: float = 0.0
    num_ids: int = 0
    special_ids: tuple[int, ...] = ()
    reversed_ratio: float = 0.0
    direction_id: int | None = None
    later: tuple[tuple[int, MaskRule], ...] = ()

    def at(self, epoch: int) -> MaskRule:
        """The rule in force in an epoch, counted from 0."""
        return [self, *(rule for first, rule in self.later if first <= epoch)][-1]

    @property
    def depends_on_tokens(self) -> bool:
        """Whether the chosen positions of a row cannot be drawn from its address alone."""
        return bool(self.protected_ids)

    @property
    def changes_rows(self) -> bool:
        """Whether rows of any epoch are read in another way than as they are stored."""
        return self.ratio > 0.0 or self.reversed_ratio > 0.0 or any(rule.changes_rows for _, rule in self.later)

    @property
    def shows_choice(self) -> bool:
        """Whether a chosen token is always the mask token."""
        return not (self.random_share or self.keep_share)

    def is_reversed(self, sample_ids_B: Array, *, epoch: int) -> Array:
        """Which rows are read right to left: boolean (B,)."""
        return draw_words(sample_ids_B, 1, (self.seed, epoch), DIRECTION)[:, 0] < round(self.reversed_ratio * _WORDS)

    def turn(self, input_ids_BT: Array, labels_BT: Array, sample_ids_B: Array, *, epoch: int) -> tuple[Array, Array]:
        """Inputs and shifted labels of rows (B, T), as they are read: some of them from their end; not changed."""
        if not self.reversed_ratio:
            return input_ids_BT, labels_BT
        is_reversed_B1 = self.is_reversed(sample_ids_B, epoch=epoch)[:, None]
        backwards_BT = flip(labels_BT)
        first_B1 = 0 * backwards_BT[:, :1] + self.direction_id
        behind_BT = cast_like(concatenate([first_B1, backwards_BT[:, :-1]]), input_ids_BT)
        return where(is_reversed_B1, behind_BT, input_ids_BT), where(is_reversed_B1, backwards_BT, labels_BT)

    def choose(
        self,
        sample_ids_B: Array,
        *,
        num_tokens: int,
        epoch: int,
        input_ids_BT: Array | None = None,
        in_scope_BT: Array | None = None,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Choose positions of rows, as they are read: boolean (B, T).

        Args:
            sample_ids_B: Row numbers in the data set (B,), int64.
            num_tokens: Input tokens per row, T.
            epoch: Epoch number, from 0.
            input_ids_BT: Token ids (B, T), needed where the rule depends on tokens.
            in_scope_BT: Boolean (B, T), True where a token may be chosen; all may be where it is None.
            is_token_BT: Boolean (B, T), False at padding, which is out of scope; no padding where it is None.
        """
        for token_id in self.protected_ids:
            assert input_ids_BT is not None
            allowed_BT = input_ids_BT != token_id
            in_scope_BT = allowed_BT if in_scope_BT is None else in_scope_BT & allowed_BT
        if self.reversed_ratio:  # of which the first token is the direction
            is_reversed_B1 = self.is_reversed(sample_ids_B, epoch=epoch)[:, None]
            allowed_BT = ~is_reversed_B1 | (arange(num_tokens, like=sample_ids_B) > 0)
            in_scope_BT = allowed_BT if in_scope_BT is None else in_scope_BT & allowed_BT
        return choose_masked(
            sample_ids_B,
            num_tokens=num_tokens,
            ratio=self.ratio,
            seed=self.seed,
            epoch=epoch,
            span_length=self.span_length,
            mask_last=self.mask_last,
            in_scope_BT=in_scope_BT,
            is_token_BT=is_token_BT,
        )

    def replace(
        self,
        input_ids_BT: Array,
        chosen_BT: Array,
        sample_ids_B: Array,
        *,
        epoch: int,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Replace chosen tokens: by the mask token, or by what the shares say.

        Args:
            input_ids_BT: Token ids (B, T); not changed.
            chosen_BT: What `choose` returned.
            sample_ids_B: Row numbers in the data set (B,), int64.
            epoch: Epoch number, from 0.
            is_token_BT: As `choose` was given it.

        Returns:
            Token ids (B, T), of the same type as `input_ids_BT`.
        """
        replaced_BT = copy_of(input_ids_BT)
        if self.shows_choice:
            replaced_BT[chosen_BT] = self.mask_id
            return replaced_BT

        def words_for(purpose: int) -> Array:
            words_BT = draw_words(sample_ids_B, input_ids_BT.shape[1], (self.seed, epoch), purpose)
            if is_token_BT is not None:  # padding does not count: on whichever side it stands, it changes nothing
                rows_B1 = arange(len(sample_ids_B), like=sample_ids_B)[:, None]
                words_BT = words_BT[rows_B1, is_token_BT.cumsum(1) - 1]
            return words_BT[chosen_BT]

        tokens = input_ids_BT[chosen_BT]
        drawn = self._random_tokens(tokens, words_for(RANDOM_TOKEN)) if self.random_share else tokens
        if self.random_share < 1:
            kinds, changed = words_for(KIND), 0 * tokens + self.mask_id
            unmasked = self.random_share + self.keep_share
            changed = where(kinds < round(unmasked * _WORDS), tokens, changed)
            drawn = where(kinds < round(self.random_share * _WORDS), drawn, changed)
        replaced_BT[chosen_BT] = drawn
        return replaced_BT

    def apply(
        self,
        input_ids_BT: Array,
        sample_ids_B: Array,
        *,
        epoch: int,
        in_scope_BT: Array | None = None,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Choose input tokens and replace them, as `choose` and `replace` of the rule that is in force in the epoch do.

        Labels are the caller's and stay clean.

        Raises:
            ValueError: The ratio is outside [0, 1), or the span length is below 1.
        """
        rule = self.at(epoch)
        chosen_BT = rule.choose(
            sample_ids_B,
            num_tokens=input_ids_BT.shape[1],
            epoch=epoch,
            input_ids_BT=input_ids_BT,
            in_scope_BT=in_scope_BT,
            is_token_BT=is_token_BT,
        )
        return rule.replace(input_ids_BT, chosen_BT, sample_ids_B, epoch=epoch, is_token_BT=is_token_BT)

    def _random_tokens(self, tokens: Array, words: Array) -> Array:
        """For each word an ordinary token other than the one given."""
        ordinary = like(_ordinary_ids(self.num_ids, self.special_ids), words)
        most = ordinary.shape[0]
        places = place_in(ordinary, cast_like(tokens, ordinary))
        is_ordinary = ordinary[places.clip(max=most - 1)] == tokens
        # An ordinary token is left out: those after it move up.
        drawn = words * (most - 1 * is_ordinary) >> 32
        return cast_like(ordinary[drawn + 1 * (is_ordinary & (drawn >= places))], tokens)


@lru_cache(maxsize=8)
def _ordinary_ids(num_ids: int, special_ids: tuple[int, ...]) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(num_ids, dtype=np.int64), special_ids)

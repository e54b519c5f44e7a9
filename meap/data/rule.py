"""The mask rule of a run, from its configuration and the tokenizer of its data."""

from __future__ import annotations

from meap.config import MaskingConfig
from meap.manifest import TokenizerRecord
from meap.masking import MaskRule

__all__ = ["build_mask_rule"]


def build_mask_rule(
    config: MaskingConfig, tokenizer: TokenizerRecord, *, seed: int, special_ids: tuple[int, ...] = ()
) -> MaskRule:
    """The rule that both sites apply.

    Args:
        config: Section `masking` of the configuration.
        tokenizer: Special ids of the tokenizer the rows were made with, that of the direction among them where rows
            are reversed.
        seed: Seed of the masks, in [0, 2**32).
        special_ids: Those of the tokenizer; only needed for `masking.replacement` with random tokens.
    """
    later = tuple(
        (first, build_mask_rule(masking, tokenizer, seed=seed, special_ids=special_ids))
        for first, masking in config.later
    )
    shares = config.shares
    assert special_ids or not shares.random
    assert tokenizer.direction_id is not None or not config.reversed_ratio
    ids_by_role = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    return MaskRule(
        mask_id=tokenizer.mask_id,
        ratio=config.ratio,
        seed=seed,
        span_length=config.tokens_per_span,
        mask_last=config.mask_last,
        protected_ids=tuple(number for role in config.protected if (number := ids_by_role[role]) is not None),
        random_share=shares.random,
        keep_share=shares.keep,
        num_ids=tokenizer.vocab_size if shares.random else 0,
        special_ids=special_ids if shares.random else (),
        reversed_ratio=config.reversed_ratio,
        direction_id=tokenizer.direction_id if config.reversed_ratio else None,
        later=later,
    )

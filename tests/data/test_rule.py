import dataclasses

import pytest

from meap.config import MaskingConfig
from meap.config.masking import EpochMasking
from meap.data import build_mask_rule
from meap.manifest import TokenizerRecord
from meap.masking import MaskRule

TOKENIZER = TokenizerRecord("t", "sha256:0", vocab_size=10, bos_id=1, eos_id=2, mask_id=9)
SPECIAL = (1, 2, 9)


def test_later_epochs_have_rules_of_their_own_which_keep_what_they_do_not_change():
    changes = {"10": EpochMasking(ratio=0.0), "2": EpochMasking(ratio=0.3), "3": EpochMasking(replacement="random")}
    config = MaskingConfig(ratio=0.1, span_length=4, strategy="span", from_epoch=changes)
    rule = build_mask_rule(config, TOKENIZER, seed=3, special_ids=SPECIAL)
    expected = {0: (0.1, "mask"), 1: (0.1, "mask"), 2: (0.3, "mask"), 3: (0.3, "random"), 9: (0.3, "random")}
    for epoch, (ratio, replacement) in (expected | {10: (0.0, "random"), 99: (0.0, "random")}).items():
        alone = MaskingConfig(ratio=ratio, replacement=replacement, span_length=4, strategy="span")
        assert config.in_epoch(epoch) == alone
        of_epoch = dataclasses.replace(rule.at(epoch), later=())
        assert of_epoch == build_mask_rule(alone, TOKENIZER, seed=3, special_ids=SPECIAL)
    assert config.largest_ratio == 0.3
    assert rule.changes_rows
    assert build_mask_rule(MaskingConfig(ratio=0, from_epoch={"1": changes["2"]}), TOKENIZER, seed=3).changes_rows
    assert not build_mask_rule(MaskingConfig(ratio=0), TOKENIZER, seed=3).changes_rows


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (MaskingConfig(), MaskRule(mask_id=9, ratio=0.15, seed=3)),
        (MaskingConfig(span_length=50), MaskRule(mask_id=9, ratio=0.15, seed=3)),
        (
            MaskingConfig(ratio=0.2, strategy="span", span_length=50, mask_last=True, protected=("eos", "bos")),
            MaskRule(mask_id=9, ratio=0.2, seed=3, span_length=50, mask_last=True, protected_ids=(2, 1)),
        ),
        (
            MaskingConfig(replacement="random"),
            MaskRule(mask_id=9, ratio=0.15, seed=3, random_share=1.0, num_ids=10, special_ids=SPECIAL),
        ),
        (
            MaskingConfig(replacement="{mask: 0.8, random: 0.15, keep: 0.05}"),
            MaskRule(9, 0.15, seed=3, random_share=0.15, keep_share=0.05, num_ids=10, special_ids=SPECIAL),
        ),
        (MaskingConfig(replacement="{mask: 1}"), MaskRule(mask_id=9, ratio=0.15, seed=3)),
    ],
)
def test_the_rule_is_the_configuration_with_the_ids_of_the_data(config: MaskingConfig, rule: MaskRule):
    assert build_mask_rule(config, TOKENIZER, seed=3, special_ids=SPECIAL) == rule

"""The invariants of `meap.masking`, one test per number of its docstring, and what they rest on."""

import dataclasses
import math
import random
import re
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meap import masking
from meap.masking import MaskRule
from meap.philox import philox4x64
from meap.positions import choose_masked, count_masked, official_positions

MASK = 32_000
SPECIAL = (0, 1, 2, MASK)
ORDINARY = {"num_ids": MASK + 1, "special_ids": SPECIAL}
REPLACEMENTS = [
    {},
    {"random_share": 1.0, **ORDINARY},
    {"random_share": 0.1, "keep_share": 0.1, **ORDINARY},
    {"keep_share": 0.5},
]


def rows(num_rows: int, num_tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, MASK, (num_rows, num_tokens))


def mask_inputs(inputs, samples, *, epoch: int, in_scope_BT=None, is_token_BT=None, **rule):
    rule = MaskRule(**{"mask_id": MASK} | rule)
    return rule.apply(inputs, samples, epoch=epoch, in_scope_BT=in_scope_BT, is_token_BT=is_token_BT)


def test_every_numbered_invariant_has_a_test():
    assert masking.__doc__ is not None
    promised = re.findall(r"^(\d+)\. ", masking.__doc__, flags=re.MULTILINE)
    tested = {name.split("_")[1] for name in globals() if re.match(r"test_\d+_", name)}
    assert sorted(tested, key=int) == promised


def test_1_labels_are_the_clean_tokens():
    inputs = rows(4, 64)
    before = inputs.copy()
    masked = mask_inputs(inputs, np.arange(4), ratio=0.5, seed=1, epoch=0)
    np.testing.assert_array_equal(inputs, before)
    assert masked is not inputs
    np.testing.assert_array_equal(masked[masked != MASK], inputs[masked != MASK])


@given(
    num_tokens=st.integers(1, 300),
    ratio=st.floats(0.0, 1.0, exclude_max=True),
    sample=st.integers(0, 2**40),
    span_length=st.sampled_from([1, 2, 5, 50, 1000]),
    mask_last=st.booleans(),
)
@settings(max_examples=250, deadline=None)
def test_2_the_count_is_exact(num_tokens: int, ratio: float, sample: int, span_length: int, mask_last: bool):
    chosen = choose_masked(
        np.array([sample]),
        num_tokens=num_tokens,
        ratio=ratio,
        seed=1,
        epoch=0,
        span_length=span_length,
        mask_last=mask_last,
    )
    assert chosen.shape == (1, num_tokens)
    wanted = max(1, int(num_tokens * ratio)) if ratio > 0 else 0
    assert chosen.sum() == min(wanted, num_tokens if mask_last else num_tokens - 1)


def test_2_the_paper_masks_614_of_4096():
    assert count_masked(4096, 0.15) == 614
    assert count_masked(4096, 1e-9) == 1


def test_3_protected_ids_and_the_last_position_are_never_chosen():
    inputs = rows(200, 32)
    inputs[:, ::3] = 1
    inputs[:, 1::6] = 2
    masked = mask_inputs(inputs, np.arange(200), ratio=0.9, seed=5, epoch=0, protected_ids=(1, 2))
    is_mask = masked == MASK
    assert not is_mask[:, -1].any()
    assert not (is_mask & np.isin(inputs, (1, 2))).any()
    in_scope = ~np.isin(inputs, (1, 2))
    wanted = np.minimum((in_scope.sum(1) * 0.9).astype(int), in_scope[:, :-1].sum(1))
    np.testing.assert_array_equal(is_mask.sum(1), wanted)


def test_3_the_last_position_may_be_chosen_when_asked_for():
    chosen = choose_masked(np.arange(500), num_tokens=8, ratio=0.5, seed=5, epoch=0, mask_last=True)
    assert chosen[:, -1].any()
    assert chosen[:, 0].any()


def test_3_a_row_without_tokens_in_scope_stays_as_it_is():
    inputs = np.ones((2, 8), np.int64)
    inputs[1] = 7
    masked = mask_inputs(inputs, np.arange(2), ratio=0.5, seed=0, epoch=0, protected_ids=(1,))
    np.testing.assert_array_equal(masked[0], inputs[0])
    assert (masked[1] == MASK).sum() == 4


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    ratio=st.floats(0.01, 0.95),
    mask_last=st.booleans(),
    span_length=st.sampled_from([1, 3]),
)
@settings(max_examples=100, deadline=None)
def test_3_padding_is_never_chosen_and_the_count_is_that_of_the_tokens(lengths, ratio, mask_last, span_length):
    is_token = np.arange(40)[None, :] < np.array(lengths)[:, None]
    chosen = choose_masked(
        np.arange(len(lengths)),
        num_tokens=40,
        ratio=ratio,
        seed=5,
        epoch=0,
        span_length=span_length,
        mask_last=mask_last,
        is_token_BT=is_token,
    )
    assert not (chosen & ~is_token).any()
    for row, length in zip(chosen, lengths, strict=True):
        assert row.sum() == min(count_masked(length, ratio), length if mask_last else max(0, length - 1))
        assert mask_last or length == 0 or not row[length - 1]


@pytest.mark.parametrize("span_length", [1, 4])
def test_4_padding_on_either_side_changes_nothing(span_length: int):
    arguments = {"ratio": 0.4, "seed": 3, "epoch": 1, "span_length": span_length}
    alone = choose_masked(np.array([5]), num_tokens=30, **arguments)
    for left, right in ((0, 0), (0, 1), (9, 0), (3, 50)):
        is_token = np.concatenate([np.zeros(left, bool), np.ones(30, bool), np.zeros(right, bool)])[None]
        padded = choose_masked(np.array([5]), num_tokens=is_token.shape[1], is_token_BT=is_token, **arguments)
        np.testing.assert_array_equal(padded[is_token][None], alone)


def test_4_a_scope_of_everything_is_no_scope():
    everything = np.ones((3, 30), bool)
    for given_scope in ({"in_scope_BT": everything}, {"is_token_BT": everything}):
        np.testing.assert_array_equal(
            choose_masked(np.arange(3), num_tokens=30, ratio=0.4, seed=3, epoch=1, **given_scope),
            choose_masked(np.arange(3), num_tokens=30, ratio=0.4, seed=3, epoch=1),
        )


def test_4_the_choice_depends_on_the_address_alone():
    def choose(samples, **changed):
        return choose_masked(np.array(samples), **{"num_tokens": 128, "ratio": 0.15, "seed": 3, "epoch": 1} | changed)

    together = choose([5, 2**35 + 5, 9])
    np.testing.assert_array_equal(together[2:], choose([9]))
    np.testing.assert_array_equal(together[::-1], choose([9, 2**35 + 5, 5]))
    for changed in ({"seed": 4}, {"epoch": 2}):
        assert (choose([5], **changed) != together[:1]).any()
    spans = choose([5, 9, 12], span_length=5, ratio=0.3)
    np.testing.assert_array_equal(spans[1:2], choose([9], span_length=5, ratio=0.3))
    assert (together[0] != together[1]).any()

    tokens = [mask_inputs(rows(1, 128, seed), np.array([5]), ratio=0.15, seed=3, epoch=1) for seed in (1, 2)]
    np.testing.assert_array_equal(tokens[0] == MASK, tokens[1] == MASK)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 17, 256, 4096, 65_536])
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.97])
@pytest.mark.parametrize("span_length", [1, 5, 50])
def test_5_numpy_and_torch_agree_bit_for_bit(num_tokens: int, ratio: float, span_length: int):
    inputs, samples = rows(3, num_tokens), np.array([0, 77, 2**40 + 1])
    arguments = {"ratio": ratio, "seed": 2**32 - 1, "epoch": 6, "span_length": span_length}
    by_torch = mask_inputs(torch.from_numpy(inputs), torch.from_numpy(samples), **arguments)
    np.testing.assert_array_equal(mask_inputs(inputs, samples, **arguments), by_torch.numpy())


@pytest.mark.parametrize("span_length", [1, 7])
def test_5_numpy_and_torch_agree_with_protected_ids(span_length: int):
    inputs, samples = rows(6, 200) % 9, np.arange(6)
    arguments = {"ratio": 0.4, "seed": 8, "epoch": 0, "protected_ids": (1, 2)}
    arguments["span_length"] = span_length
    by_torch = mask_inputs(torch.from_numpy(inputs), torch.from_numpy(samples), **arguments)
    np.testing.assert_array_equal(mask_inputs(inputs, samples, **arguments), by_torch.numpy())


@pytest.mark.parametrize("mask_last", [False, True])
@pytest.mark.parametrize("span_length", [1, 7])
def test_5_numpy_and_torch_agree_with_scope_and_padding(span_length: int, mask_last: bool):
    random_bits = np.random.default_rng(1)
    inputs, samples = rows(6, 200), np.arange(6)
    in_scope, is_token = (
        random_bits.random((6, 200)) < 0.6,
        np.arange(200) < np.array([[200], [1], [0], [77], [2], [9]]),
    )
    arguments = {"ratio": 0.4, "seed": 8, "epoch": 0}
    arguments |= {"span_length": span_length, "mask_last": mask_last}
    by_numpy = mask_inputs(inputs, samples, in_scope_BT=in_scope, is_token_BT=is_token, **arguments)
    by_torch = mask_inputs(
        torch.from_numpy(inputs),
        torch.from_numpy(samples),
        in_scope_BT=torch.from_numpy(in_scope),
        is_token_BT=torch.from_numpy(is_token),
        **arguments,
    )
    np.testing.assert_array_equal(by_numpy, by_torch.numpy())


@pytest.mark.parametrize("replacement", REPLACEMENTS[1:], ids=str)
@pytest.mark.parametrize("changed", [{}, {"span_length": 7, "mask_last": True}, {"protected_ids": (1, 2)}], ids=str)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_5_numpy_and_torch_agree_on_what_replaces_a_token(replacement, changed, dtype):
    inputs, samples = (rows(6, 200) % 40).astype(dtype), np.array([0, 1, 2, 77, 2**40 + 1, 3])
    scope = {
        "in_scope_BT": np.random.default_rng(1).random((6, 200)) < 0.6,
        "is_token_BT": np.arange(200) < np.array([[200], [1], [0], [77], [2], [9]]),
    }
    rule = {"ratio": 0.4, "seed": 2**32 - 1} | replacement | changed
    for given_scope in ({}, scope):
        by_numpy = mask_inputs(inputs, samples, epoch=6, **given_scope, **rule)
        tensors = {name: torch.from_numpy(each) for name, each in given_scope.items()}
        by_torch = mask_inputs(torch.from_numpy(inputs), torch.from_numpy(samples), epoch=6, **tensors, **rule)
        assert by_numpy.dtype == dtype
        assert by_torch.numpy().dtype == dtype
        np.testing.assert_array_equal(by_numpy, by_torch.numpy())


def test_5_numpy_and_torch_agree_on_rows_that_are_reversed():
    rule = MaskRule(MASK, 0.2, seed=9, reversed_ratio=0.5, direction_id=MASK + 1)
    inputs, samples = rows(40, 33), np.arange(40)
    tensors = [torch.from_numpy(each) for each in (inputs[:, :-1], inputs[:, 1:], samples)]
    turned = rule.turn(inputs[:, :-1], inputs[:, 1:], samples, epoch=3)
    for one, other in zip(turned, rule.turn(*tensors, epoch=3), strict=True):
        np.testing.assert_array_equal(one, other.numpy())
        assert one.dtype == other.numpy().dtype
    chosen = rule.choose(samples, num_tokens=32, epoch=3)
    np.testing.assert_array_equal(chosen, rule.choose(tensors[2], num_tokens=32, epoch=3).numpy())


def test_6_no_share_of_rows_is_reversed_unless_asked_for():
    inputs = rows(40, 33)
    turned = MaskRule(MASK, 0.2, seed=9).turn(inputs[:, :-1], inputs[:, 1:], np.arange(40), epoch=3)
    np.testing.assert_array_equal(turned, (inputs[:, :-1], inputs[:, 1:]))


def test_6_ratio_zero_is_plain_next_token_prediction():
    inputs = rows(2, 32)
    for protected in ((), (5,)):
        for replacement in REPLACEMENTS:
            rule = {"protected_ids": protected, **replacement}
            same = mask_inputs(inputs, np.arange(2), ratio=0.0, seed=1, epoch=0, **rule)
            np.testing.assert_array_equal(same, inputs)


@pytest.mark.parametrize(("num_tokens", "ratio"), [(65, 0.15), (33, 0.6)])
def test_7_every_position_is_equally_likely(num_tokens: int, ratio: float):
    num_rows, choices = 100_000, num_tokens - 1
    chosen = choose_masked(np.arange(num_rows), num_tokens=num_tokens, ratio=ratio, seed=11, epoch=0)
    share = count_masked(num_tokens, ratio) / choices
    sigma = math.sqrt(num_rows * share * (1 - share))
    assert np.abs(chosen[:, :choices].sum(0) - num_rows * share).max() < 4 * sigma
    # Pairs too: drawing without replacement from few positions leaves a known covariance, nothing more.
    together = (chosen[:, 0] & chosen[:, 1]).sum()
    pair = share * (count_masked(num_tokens, ratio) - 1) / (choices - 1)
    assert abs(together - num_rows * pair) < 4 * math.sqrt(num_rows * pair * (1 - pair))


def chi_square_is_plausible(observed: list[int], expected: list[float]) -> bool:
    """Whether Pearson's statistic lies within 4 sigma of its mean, the degrees of freedom."""
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(observed, expected, strict=True))
    freedom = len(observed) - 1
    return abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


def test_7_gaps_between_masked_tokens_have_their_exact_distribution():
    """The first masked position of k among n is g with probability C(n - g - 1, k - 1) / C(n, k)."""
    num_rows, choices, count = 100_000, 64, 9
    chosen = choose_masked(np.arange(num_rows), num_tokens=65, ratio=0.15, seed=2, epoch=0)[:, :choices]
    assert (chosen.sum(1) == count).all()
    positions = np.nonzero(chosen)[1].reshape(num_rows, count)
    for gaps in (positions[:, 0], positions[:, 4] - positions[:, 3] - 1):  # every gap is distributed alike
        expected = [num_rows * math.comb(choices - gap - 1, count - 1) / math.comb(choices, count) for gap in range(20)]
        observed = [int((gaps == gap).sum()) for gap in range(20)]
        rest = [num_rows - sum(observed)], [num_rows - sum(expected)]
        assert chi_square_is_plausible(observed + rest[0], expected + rest[1])


@pytest.mark.slow
@pytest.mark.parametrize(("num_tokens", "num_spans", "span_length"), [(65, 3, 5), (81, 6, 4)])
def test_7_gaps_between_spans_have_their_exact_distribution(num_tokens: int, num_spans: int, span_length: int):
    """With every span shrunk to one slot, gaps are those between k tokens among the slots that remain."""
    num_rows, count = 100_000, num_spans * span_length
    chosen = choose_masked(
        np.arange(num_rows),
        num_tokens=num_tokens,
        ratio=count / num_tokens + 1e-9,
        seed=6,
        epoch=0,
        span_length=span_length,
    )
    assert (chosen.sum(1) == count).all()
    # Spans may touch, but each is `span_length` long: every so many-th masked position begins one.
    starts = np.nonzero(chosen)[1].reshape(num_rows, num_spans, span_length)[:, :, 0]
    slots = num_tokens - 1 - count + num_spans
    for gaps in (starts[:, 0], starts[:, 2] - starts[:, 1] - span_length):
        expected = [
            num_rows * math.comb(slots - gap - 1, num_spans - 1) / math.comb(slots, num_spans) for gap in range(12)
        ]
        observed = [int((gaps == gap).sum()) for gap in range(12)]
        assert chi_square_is_plausible([*observed, num_rows - sum(observed)], [*expected, num_rows - sum(expected)])


def test_7_every_placement_of_spans_is_equally_likely():
    """Eleven positions, two spans of three and one of two: every order and placement without overlap, counted."""
    num_rows, choices, count, span_length = 100_000, 11, 8, 3
    chosen = choose_masked(
        np.arange(num_rows),
        num_tokens=choices,
        ratio=count / choices + 1e-9,
        seed=3,
        epoch=0,
        span_length=3,
        mask_last=True,
    )
    lengths = [span_length, span_length, count - 2 * span_length]
    placements: Counter[tuple[bool, ...]] = Counter()
    num_slots = choices - count + len(lengths)
    for slots in combinations(range(num_slots), len(lengths)):
        for order in set(permutations(lengths)):
            row = [False] * choices
            grown = 0
            for slot, length in zip(slots, order, strict=True):
                row[slot + grown : slot + grown + length] = [True] * length
                grown += length - 1
            placements[tuple(row)] += 1
    total = sum(placements.values())
    observed = Counter(map(tuple, chosen.tolist()))
    assert set(observed) == set(placements)
    kinds = sorted(placements)
    expected = [num_rows * placements[kind] / total for kind in kinds]
    assert chi_square_is_plausible([observed[kind] for kind in kinds], expected)


@pytest.mark.parametrize("span_length", [5, 50])
def test_7_spans_keep_their_length_and_the_paper_s_count(span_length: int):
    chosen = choose_masked(np.arange(50), num_tokens=4096, ratio=0.15, seed=3, epoch=0, span_length=span_length)
    assert (chosen.sum(1) == 614).all()
    for row in chosen:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        runs = edges[1::2] - edges[::2]
        # Spans may touch; what is left over is the one short span.
        assert sorted(runs % span_length)[-2:] <= [614 % span_length] * 2
        assert sum(runs % span_length) % span_length == 614 % span_length


MIXTURE = MaskRule(MASK, 0.3, seed=4, random_share=0.25, keep_share=0.15, **ORDINARY)


def test_8_the_shares_are_those_asked_for_and_places_are_drawn_apart():
    inputs = rows(4000, 65)
    chosen = MIXTURE.choose(np.arange(4000), num_tokens=65, epoch=0)
    replaced = MIXTURE.replace(inputs, chosen, np.arange(4000), epoch=0)
    np.testing.assert_array_equal(replaced[~chosen], inputs[~chosen])
    kinds = {"mask": replaced == MASK, "keep": chosen & (replaced == inputs)}
    kinds["random"] = chosen & ~kinds["mask"] & ~kinds["keep"]
    shares, total = {"mask": 0.6, "random": 0.25, "keep": 0.15}, int(chosen.sum())
    assert total == 4000 * count_masked(65, 0.3)
    names = sorted(shares)
    assert chi_square_is_plausible([int(kinds[name].sum()) for name in names], [total * shares[name] for name in names])
    # Neighbours are independent: both masked is as frequent as that says.
    both = chosen[:, :-1] & chosen[:, 1:]
    masked = (kinds["mask"][:, :-1] & kinds["mask"][:, 1:])[both].mean()
    assert abs(masked - 0.36) < 4 * math.sqrt(0.36 * 0.64 / both.sum())


def test_8_what_becomes_of_a_token_depends_on_its_address_its_place_and_itself():
    inputs, samples = rows(3, 64), np.array([5, 2**35 + 5, 9])
    together = MIXTURE.apply(inputs, samples, epoch=1)
    np.testing.assert_array_equal(together[2:], MIXTURE.apply(inputs[2:], samples[2:], epoch=1))
    np.testing.assert_array_equal(together[::-1], MIXTURE.apply(inputs[::-1], samples[::-1], epoch=1))
    # Other tokens, whether before or after, change nothing of this one.
    for place in np.flatnonzero(MIXTURE.choose(samples[:1], num_tokens=64, epoch=1)[0]):
        others = rows(1, 64, seed=9)
        others[0, place] = inputs[0, place]
        assert MIXTURE.apply(others, samples[:1], epoch=1)[0, place] == together[0, place]
    alone = {}
    for changed in ({"seed": 4}, {"seed": 5}, {"seed": 4, "epoch": 2}):
        epoch = {"epoch": 1, **changed}.pop("epoch")
        rule = MaskRule(MASK, 0.3, seed=changed["seed"], random_share=1.0, **ORDINARY)
        alone[str(changed)] = rule.replace(inputs, np.ones_like(inputs, bool), samples, epoch=epoch)
    first, *others = alone.values()
    assert all((first != other).mean() > 0.99 for other in others)


def test_8_padding_on_either_side_changes_nothing():
    inputs = rows(1, 30)
    alone = MIXTURE.apply(inputs, np.array([5]), epoch=1)
    for left, right in ((0, 1), (9, 0), (3, 50)):
        is_token = np.concatenate([np.zeros(left, bool), np.ones(30, bool), np.zeros(right, bool)])[None]
        padded = np.zeros_like(is_token, np.int64)
        padded[is_token] = inputs[0]
        seen = MIXTURE.apply(padded, np.array([5]), epoch=1, is_token_BT=is_token)
        np.testing.assert_array_equal(seen[is_token][None], alone)
        assert not seen[~is_token].any()


def test_8_the_choice_is_that_of_plain_masks():
    plain, samples = MaskRule(MASK, 0.3, seed=4), np.arange(3)
    for span_length in (1, 5):
        one, other = (dataclasses.replace(rule, span_length=span_length) for rule in (plain, MIXTURE))
        np.testing.assert_array_equal(*(rule.choose(samples, num_tokens=64, epoch=2) for rule in (one, other)))


@pytest.mark.parametrize("token", [1, 3, 7, 11])
def test_9_a_random_token_is_any_ordinary_one_but_the_one_it_replaces(token: int):
    """Of 12 ids, 4 are special; a special token may be replaced, too."""
    special = (1, 2, 6, 11)
    rule = MaskRule(11, 0.5, seed=3, random_share=1.0, num_ids=12, special_ids=special)
    inputs = np.full((2000, 33), token)
    chosen = rule.choose(np.arange(2000), num_tokens=33, epoch=0)
    drawn = Counter(rule.apply(inputs, np.arange(2000), epoch=0)[chosen].tolist())
    expected = {*range(12)} - {*special, token}
    assert set(drawn) == expected
    assert chi_square_is_plausible([drawn[each] for each in expected], [chosen.sum() / len(expected)] * len(expected))


BOTH_WAYS = MaskRule(MASK, 0.25, seed=4, reversed_ratio=0.3, direction_id=MASK + 1)


def test_10_a_reversed_row_is_the_direction_token_and_the_row_from_its_end():
    stored, samples = rows(200, 17), np.arange(200)
    inputs, labels = BOTH_WAYS.turn(stored[:, :-1], stored[:, 1:], samples, epoch=2)
    is_reversed = BOTH_WAYS.is_reversed(samples, epoch=2)
    assert 30 < is_reversed.sum() < 90
    for row, read, target, backwards in zip(stored, inputs, labels, is_reversed, strict=True):
        as_read = [MASK + 1, *row[:0:-1]] if backwards else row.tolist()
        assert (read.tolist(), target.tolist()) == (as_read[:-1], as_read[1:])
    chosen = BOTH_WAYS.choose(samples, num_tokens=16, epoch=2)
    assert not chosen[is_reversed, 0].any()
    assert chosen[~is_reversed, 0].any()
    # Of a reversed row, all inputs but the direction token are in scope.
    np.testing.assert_array_equal(chosen.sum(1), np.where(is_reversed, count_masked(15, 0.25), count_masked(16, 0.25)))


def test_10_which_rows_are_reversed_depends_on_the_address_alone():
    samples = np.array([5, 2**35 + 5, 9, 4, 77])
    together = BOTH_WAYS.is_reversed(samples, epoch=1)
    np.testing.assert_array_equal(together[::-1], BOTH_WAYS.is_reversed(samples[::-1], epoch=1))
    assert [bool(BOTH_WAYS.is_reversed(samples[n : n + 1], epoch=1)[0]) for n in range(5)] == together.tolist()
    many = np.arange(20_000)
    of = [BOTH_WAYS.is_reversed(many, epoch=epoch) for epoch in (0, 1)]
    of.append(dataclasses.replace(BOTH_WAYS, seed=5).is_reversed(many, epoch=0))
    for one, other in combinations(of, 2):
        assert abs((one & other).mean() - 0.09) < 4 * math.sqrt(0.09 * 0.91 / 20_000)
    assert dataclasses.replace(BOTH_WAYS, reversed_ratio=1.0).is_reversed(many, epoch=0).all()


def test_the_official_preset_repeats_the_official_patterns():
    for step in range(200):
        expected = random.Random(50 + step % 51).sample(range(4095), 614)
        assert official_positions(step, num_tokens=4096, ratio=0.15) == tuple(sorted(expected))


def test_a_span_without_length_is_refused():
    with pytest.raises(ValueError, match="span length 0 is too small: it must be at least 1"):
        choose_masked(np.array([0]), num_tokens=8, ratio=0.5, seed=0, epoch=0, span_length=0)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float):
    with pytest.raises(ValueError, match=r"masking ratio .* is out of range: it must be in \[0, 1\)"):
        mask_inputs(rows(1, 8), np.array([0]), ratio=ratio, seed=0, epoch=0)


# Known-answer vectors published with the generator (Random123 distribution, kat_vectors, philox4x64 10).
ALL_ONES = (1 << 64) - 1
KNOWN_ANSWERS = [
    (
        [0, 0, 0, 0],
        (0, 0),
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [ALL_ONES] * 4,
        (ALL_ONES, ALL_ONES),
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_generator_gives_its_published_answers(library, counter, key, expected):
    words = [np.array([word], np.uint64).view(np.int64) for word in counter]
    words = [torch.from_numpy(word) for word in words] if library == "torch" else words
    assert [int(word[0]) & ALL_ONES for word in philox4x64(words, key)] == expected


def test_numpy_s_own_generator_is_the_same_one():
    key, counter = (2**32 - 1, 7), (41, 2**40 + 3, 1, 0)
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    expected = philox4x64([np.array([word + (n == 0)]) for n, word in enumerate(counter)], key)  # numpy counts on first
    assert generator.random_raw(4).view(np.int64).tolist() == [int(word[0]) for word in expected]

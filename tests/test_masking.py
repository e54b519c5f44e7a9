"""The invariants of `meap.masking`, one test per number of its docstring, and what they rest on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meap.masking import CLEAN_VIEW, choose_masked, count_masked, mask_inputs, philox4x32

MASK = 32_000


def rows(num_rows: int, num_tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, MASK, (num_rows, num_tokens))


def test_1_labels_are_the_clean_tokens():
    inputs = rows(4, 64)
    before = inputs.copy()
    masked = mask_inputs(inputs, np.arange(4), mask_id=MASK, ratio=0.5, seed=1, epoch=0)
    np.testing.assert_array_equal(inputs, before)
    assert masked is not inputs
    np.testing.assert_array_equal(masked[masked != MASK], inputs[masked != MASK])


@given(
    num_tokens=st.integers(1, 300),
    ratio=st.floats(0.0, 1.0, exclude_max=True),
    sample=st.integers(0, 2**40),
    mask_last=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_2_the_count_is_exact(num_tokens: int, ratio: float, sample: int, mask_last: bool):
    chosen = choose_masked(np.array([sample]), num_tokens=num_tokens, ratio=ratio, seed=1, epoch=0, mask_last=mask_last)
    wanted = max(1, int(num_tokens * ratio)) if ratio > 0 else 0
    assert chosen.sum() == min(wanted, num_tokens if mask_last else num_tokens - 1)


def test_2_the_paper_masks_614_of_4096():
    assert count_masked(4096, 0.15) == 614
    assert count_masked(4096, 1e-9) == 1


def test_3_protected_ids_and_the_last_position_are_never_chosen():
    inputs = rows(200, 32)
    inputs[:, ::3] = 1
    inputs[:, 1::6] = 2
    masked = mask_inputs(inputs, np.arange(200), mask_id=MASK, ratio=0.9, seed=5, epoch=0, protected_ids=(1, 2))
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
    masked = mask_inputs(inputs, np.arange(2), mask_id=MASK, ratio=0.5, seed=0, epoch=0, protected_ids=(1,))
    np.testing.assert_array_equal(masked[0], inputs[0])
    assert (masked[1] == MASK).sum() == 4


def test_4_the_choice_depends_on_the_address_alone():
    def choose(samples, **changed):
        return choose_masked(np.array(samples), **{"num_tokens": 128, "ratio": 0.15, "seed": 3, "epoch": 1} | changed)

    together = choose([5, 2**35 + 5, 9])
    np.testing.assert_array_equal(together[2:], choose([9]))
    np.testing.assert_array_equal(together[::-1], choose([9, 2**35 + 5, 5]))
    for changed in ({"seed": 4}, {"epoch": 2}, {"view": 2}):
        assert (choose([5], **changed) != together[:1]).any()
    assert (together[0] != together[1]).any()

    tokens = [
        mask_inputs(rows(1, 128, seed), np.array([5]), mask_id=MASK, ratio=0.15, seed=3, epoch=1) for seed in (1, 2)
    ]
    np.testing.assert_array_equal(tokens[0] == MASK, tokens[1] == MASK)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 17, 256, 4096, 65_536])
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.97])
def test_5_numpy_and_torch_agree_bit_for_bit(num_tokens: int, ratio: float):
    inputs, samples = rows(3, num_tokens), np.array([0, 77, 2**40 + 1])
    arguments = {"mask_id": MASK, "ratio": ratio, "seed": 2**32 - 1, "epoch": 6}
    by_torch = mask_inputs(torch.from_numpy(inputs), torch.from_numpy(samples), **arguments)
    np.testing.assert_array_equal(mask_inputs(inputs, samples, **arguments), by_torch.numpy())


def test_5_numpy_and_torch_agree_with_protected_ids():
    inputs, samples = rows(6, 200) % 9, np.arange(6)
    arguments = {"mask_id": MASK, "ratio": 0.4, "seed": 8, "epoch": 0, "protected_ids": (1, 2)}
    by_torch = mask_inputs(torch.from_numpy(inputs), torch.from_numpy(samples), **arguments)
    np.testing.assert_array_equal(mask_inputs(inputs, samples, **arguments), by_torch.numpy())


def test_6_the_first_view_is_clean():
    inputs = rows(2, 32)
    clean = mask_inputs(inputs, np.arange(2), mask_id=MASK, ratio=0.5, seed=1, epoch=0, view=CLEAN_VIEW)
    np.testing.assert_array_equal(clean, inputs)


def test_7_ratio_zero_is_plain_next_token_prediction():
    inputs = rows(2, 32)
    for protected in ((), (5,)):
        same = mask_inputs(inputs, np.arange(2), mask_id=MASK, ratio=0.0, seed=1, epoch=0, protected_ids=protected)
        np.testing.assert_array_equal(same, inputs)


@pytest.mark.parametrize(("num_tokens", "ratio"), [(65, 0.15), (33, 0.6)])
def test_8_every_position_is_equally_likely(num_tokens: int, ratio: float):
    num_rows, choices = 20_000, num_tokens - 1
    chosen = choose_masked(np.arange(num_rows), num_tokens=num_tokens, ratio=ratio, seed=11, epoch=0)
    share = count_masked(num_tokens, ratio) / choices
    sigma = np.sqrt(num_rows * share * (1 - share))
    assert np.abs(chosen[:, :choices].sum(0) - num_rows * share).max() < 4.5 * sigma
    # Pairs too: drawing without replacement from few positions leaves a known covariance, nothing more.
    together = (chosen[:, 0] & chosen[:, 1]).sum()
    pair = share * (count_masked(num_tokens, ratio) - 1) / (choices - 1)
    assert abs(together - num_rows * pair) < 4.5 * np.sqrt(num_rows * pair * (1 - pair))


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio: float):
    with pytest.raises(ValueError, match=r"masking ratio .* is out of range: it must be in \[0, 1\)"):
        mask_inputs(rows(1, 8), np.array([0]), mask_id=MASK, ratio=ratio, seed=0, epoch=0)


# Known-answer vectors published with the generator (Random123 distribution, kat_vectors, philox4x32 10).
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
@pytest.mark.parametrize("array", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_the_generator_gives_its_published_answers(array, counter, key, expected):
    words = philox4x32([array([word]) for word in counter], key)
    assert [int(word[0]) for word in words] == expected

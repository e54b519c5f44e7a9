"""Table 10 from responses whose numbers are known."""

import numpy as np
import pytest
from scipy import stats

from meap.errors import MismatchError
from meap.evals.decay import PAIRS, change, decay_between, decay_within, key, paired_t, welch_t

RNG = np.random.default_rng(3)
BEFORE, AFTER = RNG.random(40) + 1, RNG.random(40) + 0.5


def responses(scores, variances=None, *, length=16, variants=("received_mean", "layer_0", "layer_1")):
    """Each by view, for each sequence."""
    variances = variances or scores
    return [
        {"id": f"{length}-{number}", "length": length, "control": False}
        | {
            key(variant, quantity, view): float(values[view][number])
            for variant in variants
            for quantity, values in (("score", scores), ("variance", variances), ("rest", scores))
            for view in ("clean", "masked")
        }
        for number in range(len(scores["clean"]))
    ]


def test_t_is_that_of_paired_differences():
    expected = stats.ttest_rel(AFTER, BEFORE)
    assert paired_t(BEFORE, AFTER) == pytest.approx((expected.statistic, 39, expected.pvalue))


def test_welchs_t_is_that_of_two_samples():
    expected = stats.ttest_ind(AFTER, BEFORE, equal_var=False)
    assert welch_t(BEFORE, AFTER) == pytest.approx((expected.statistic, expected.df, expected.pvalue))


def test_a_fall_is_a_decay_with_a_negative_t():
    found = change(np.array([0.2, 0.4, 0.6]), np.array([0.1, 0.3, 0.2]), sign=-1)
    assert found.value == pytest.approx(0.5)
    assert found.low is None, "three sequences do not tell the mean before from 0"
    assert found.t == pytest.approx(stats.ttest_rel([0.1, 0.3, 0.2], [0.2, 0.4, 0.6]).statistic)
    assert found.t < 0
    assert found.df == 2


def test_the_interval_holds_what_the_t_test_does_not_reject():
    """Fieller's limits: a ratio r is in the interval if the mean of after - r before may be 0."""
    found = change(BEFORE, AFTER, sign=-1)
    for limit in (found.low, found.high):
        assert stats.ttest_1samp(AFTER - (1 - limit) * BEFORE, 0).pvalue == pytest.approx(0.05)
    assert found.low < found.value < found.high
    again = change(BEFORE, AFTER)
    assert (again.low, again.high) == pytest.approx((-found.high, -found.low))


def test_what_does_not_change_has_no_t():
    found = change(BEFORE, BEFORE.copy(), sign=-1)
    assert (found.value, found.low, found.high, found.t, found.p) == (0, 0, 0, None, None)
    assert not np.signbit(found.value)
    assert welch_t(np.ones(3), np.ones(3))[0] is None


def test_a_single_sequence_has_no_t():
    found = change(np.array([2.0]), np.array([1.0]), sign=-1)
    assert (found.value, found.t, found.df, found.p) == (0.5, None, 0, None)
    assert welch_t(np.array([2.0]), np.array([1.0])) == (None, 0.0, None)


def test_nothing_cannot_become_less():
    found = change(np.zeros(4), np.arange(4.0))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.t is not None


def test_pairs_take_each_model_and_input_as_named():
    first = responses({"clean": [8.0, 8.0], "masked": [6.0, 6.0]})
    second = responses({"clean": [4.0, 4.0], "masked": [1.0, 1.0]})
    (found,) = decay_between(first, second)["lengths"]
    assert (found["length"], found["n"], list(found["pairs"])) == (16, 2, list(PAIRS))
    decays = {name: each["decay"]["value"] for name, each in found["pairs"].items()}
    assert decays == {
        "paper": 1 - 1 / 8,
        "models on X_N": 1 - 4 / 8,
        "models on X_M": 1 - 1 / 6,
        "masking in the first": 1 - 6 / 8,
        "masking in the second": 1 - 1 / 4,
    }
    assert found["pairs"]["paper"]["variance_increase"]["value"] == 1 / 8 - 1
    assert [layer["layer"] for layer in found["layers"]] == [0, 1]
    assert found["layers"][1]["decay"]["value"] == 1 - 1 / 8
    assert found["variants"] == {}
    assert found["further"]["decay_mean_of_ratios"] == 1 - 1 / 8


def test_the_mean_of_ratios_is_not_the_ratio_of_means():
    first = responses({"clean": [1.0, 4.0], "masked": [1.0, 1.0]})
    second = responses({"clean": [1.0, 1.0], "masked": [1.0, 1.0]})
    (found,) = decay_between(first, second)["lengths"]
    assert found["pairs"]["paper"]["decay"]["value"] == pytest.approx(1 - 2 / 5)
    assert found["further"]["decay_mean_of_ratios"] == pytest.approx(1 - (1 + 1 / 4) / 2)
    # Within 1 and 4 on average 2.5, and the means 1 and 4 themselves vary by 2.25; after, 1 and nothing.
    assert found["further"]["variance_increase_pooled"] == pytest.approx(1 / (2.5 + 2.25) - 1)


def test_lengths_are_kept_apart_and_order_does_not_matter():
    short = responses({"clean": BEFORE, "masked": AFTER})
    long = responses({"clean": AFTER, "masked": BEFORE}, length=64)
    together = decay_between([*short, *long], [*long[::-1], *short[::-1]])
    assert [each["length"] for each in together["lengths"]] == [16, 64]
    assert together["lengths"][0] == decay_between(short, short)["lengths"][0]
    assert decay_within([*short, *long])["lengths"][1]["decay"]["value"] == pytest.approx(
        1 - BEFORE.mean() / AFTER.mean()
    )


def test_models_of_unequal_depth_share_their_first_layers():
    deep = responses({"clean": BEFORE, "masked": AFTER})
    shallow = responses({"clean": BEFORE, "masked": AFTER}, variants=("received_mean", "layer_0"))
    for pair in ((deep, shallow), (shallow, deep)):
        assert [layer["layer"] for layer in decay_between(*pair)["lengths"][0]["layers"]] == [0]


def test_other_sequences_are_refused():
    some = responses({"clean": BEFORE, "masked": AFTER})
    with pytest.raises(MismatchError, match="the two models read different sequences, such as 16-39: evaluate both"):
        decay_between(some, some[:-1])

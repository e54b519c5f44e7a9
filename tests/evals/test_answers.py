"""Text scores by hand, and against the published ones."""

import pytest

from meap.evals.answers import best_subspan_em, contains, normalize_answer, rouge1, word_overlap


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Cat, a dog & an owl!", "cat dog owl"),
        ("A", ""),
        ("“U.S.”", "“us”"),
        ("theatre", "theatre"),
        (" x \n y ", "x y"),
    ],
)
def test_normalisation_is_squad_s(text, normalised):
    assert normalize_answer(text) == normalised


def test_any_answer_counts_and_an_empty_one_does_not():
    assert best_subspan_em("He was born in New York.", ["Boston", "new york"])
    assert best_subspan_em("newyorkers", ["York"])  # upstream: a substring, not a word
    assert not best_subspan_em("anything at all", ["The"])
    assert not best_subspan_em("", ["x"])


def test_an_answer_inside_a_longer_word_is_not_contained():
    assert contains("It is 123, I think", "123")
    assert not contains("It is 1234", "123")
    assert contains("blue HORSE.", "Blue horse")
    assert contains("it costs (3.5) now", "3.5")


def test_rouge_by_hand():
    # 3 of 4 words said are right, 3 of 5 are found.
    found = rouge1("alpha beta gamma omega", "alpha beta gamma delta epsilon")
    assert found == pytest.approx((3 / 4, 3 / 5, 2 * 3 / 9))
    assert rouge1("running", "runs").recall == 1  # stems
    assert rouge1("", "x").f == 0


def test_the_overlap_of_fu_et_al_counts_a_word_once():
    assert word_overlap("on a sunny day", "a day a night") == 2 / 4

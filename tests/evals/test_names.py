"""Names that nobody has."""

import random

import pytest

from meap.evals.names import MOST_NAMES, draw_names


@pytest.mark.parametrize("number", [0, 1, 513, MOST_NAMES])
def test_no_word_occurs_twice_nor_inside_another(number):
    names = draw_names(random.Random(number), number)
    words = [word for name in names for word in name.split()]
    assert len(names) == number
    assert len(set(words)) == len(words) == 2 * number
    assert {len(word) for word in words} <= {7}


def test_names_are_those_of_their_seed():
    assert draw_names(random.Random(1), 5) == draw_names(random.Random(1), 5)
    assert draw_names(random.Random(1), 5) != draw_names(random.Random(2), 5)

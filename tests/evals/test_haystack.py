"""Text of any length, and the end of a sentence in it."""

import numpy as np
import pytest

from meap.config import HaystackConfig
from meap.errors import DataError
from meap.evals.haystack import Haystack, insert_needles, open_haystack, sentence_ends, sentence_place

LINES = [np.array([1, 2, 3], np.int32), np.array([4, 5], np.int32)]


def test_lines_are_repeated_to_length():
    haystack = Haystack(LINES)
    assert haystack.tokens(9).tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert haystack.tokens(4, first_line=1).tolist() == [4, 5, 1, 2]
    assert haystack.tokens(0).tolist() == []


def test_a_needle_walks_left_to_the_end_of_a_sentence():
    context = np.array([5, 9, 5, 5, 9, 5, 5, 5, 5, 5], np.int32)
    ends = frozenset({9})
    assert sentence_place(context, 90, ends) == 5
    assert sentence_place(context, 50, ends) == 5
    assert sentence_place(context, 40, ends) == 2
    assert sentence_place(context, 10, ends) == 0
    assert sentence_place(context, 0, ends) == 0
    assert sentence_place(context, 100, ends) == 10


def test_without_a_sentence_a_needle_stays_at_its_depth():
    assert sentence_place(np.zeros(2000, np.int32), 50, frozenset({9})) == 1000


def test_needles_are_put_in_and_nothing_is_lost():
    context = np.arange(6, dtype=np.int32)
    needles = [(4, np.array([70], np.int32)), (0, np.array([80, 81], np.int32)), (6, np.array([90], np.int32))]
    assert insert_needles(context, needles).tolist() == [80, 81, 0, 1, 2, 3, 70, 4, 5, 90]


def test_periods_are_found_by_whatever_name(tokenizer):
    ids = np.array(tokenizer.encode("One. Two .\nThree, four.Five"), np.int32)
    ends = sentence_ends(tokenizer, ids)
    assert ends
    assert all("." in tokenizer.decode([each]) for each in ends)
    assert sum(int(each) in ends for each in ids) == 3


def test_generated_prose_is_long_enough_and_seeded(tokenizer):
    def build(seed):
        return open_haystack(HaystackConfig(), tokenizer, seed, 3000)

    assert build(1).tokens(3000).tolist() == build(1).tokens(3000).tolist()
    assert build(1).tokens(500).tolist() != build(2).tokens(500).tolist()
    assert build(1).num_lines > 10


def test_a_folder_without_text_is_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match="has no .txt file with text"):
        open_haystack(HaystackConfig(dir=str(tmp_path)), tokenizer, 0, 10)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="has a file that is not UTF-8 text"):
        open_haystack(HaystackConfig(dir=str(tmp_path)), tokenizer, 0, 10)

"""Text of any length, and the end of a sentence in it."""

import re

import numpy as np
import pytest

from meap.config import HaystackConfig
from meap.errors import DataError
from meap.evals.haystack import Context, Haystack, open_haystack, sentence_place, token_borders


def words(text):
    """A context whose tokens are words with the space before them."""
    ends = np.cumsum([len(each) for each in re.findall(r" ?[^ ]+", text)])
    return Context(text, np.array([0, *ends]))


def test_lines_are_repeated_to_length(tokenizer):
    haystack = Haystack(["One two.\n", "Three.\n"], tokenizer)
    of_all = len(tokenizer.encode("One two.\nThree.\n"))
    assert haystack.take(of_all).text == "One two.\nThree.\n"
    assert haystack.take(2 * of_all + 1).text.startswith("One two.\nThree.\nOne two.\nThree.\n")
    assert haystack.take(of_all, first_line=1).text == "Three.\nOne two.\n"
    assert haystack.take(of_all, first_line=3).text == "Three.\nOne two.\n"
    assert (haystack.take(0).text, haystack.take(0).num_tokens) == ("", 0)
    for number in range(2 * of_all):
        assert haystack.take(number).num_tokens == number


def test_a_needle_walks_left_to_the_end_of_a_sentence():
    context = words("a b. c d e. f g h i j")
    assert sentence_place(context, 90) == 5
    assert sentence_place(context, 50) == 5
    assert sentence_place(context, 40) == 2
    assert sentence_place(context, 10) == 0
    assert sentence_place(context, 0) == 0
    assert sentence_place(context, 100) == 10


def test_without_a_sentence_a_needle_stays_at_its_depth():
    assert sentence_place(words("x " * 1999 + "x"), 50) == 1000


def test_needles_are_put_in_and_nothing_is_lost():
    context = words("a b c d e f")
    needles = [(4, "<1>"), (0, "<2>"), (6, "<4>"), (4, "<3>")]
    assert context.with_needles(needles) == "<2>a b c d<1><3> e f<4>"
    assert context.last(2) == " e f"


@pytest.mark.parametrize("text", ["One. Two .\nThree, four.Five", "Ünïcödé ✓✓. 漢字 and  spaces . \n\n", "", "."])
def test_borders_divide_a_text_among_its_tokens(tokenizer, text):
    borders = token_borders(text, tokenizer)
    assert len(borders) == len(tokenizer.encode(text)) + 1
    assert borders.tolist() == sorted(borders.tolist())
    assert (borders[0], borders[-1]) == (0, len(text))


def test_periods_are_found_by_whatever_name(tokenizer):
    text = "One. Two .\nThree, four.Five"
    context = Context(text, token_borders(text, tokenizer))
    assert sum(context.ends_sentence(place) for place in range(1, context.num_tokens + 1)) == 3


def test_generated_prose_is_long_enough_and_seeded(tokenizer):
    def build(seed):
        return open_haystack(HaystackConfig(), tokenizer, seed, 3000)

    assert build(1).take(3000).text == build(1).take(3000).text
    assert build(1).take(500).text != build(2).take(500).text
    assert build(1).num_lines > 10


def test_a_folder_without_text_is_refused(tokenizer, tmp_path):
    with pytest.raises(DataError, match="has no .txt file with text"):
        open_haystack(HaystackConfig(dir=str(tmp_path)), tokenizer, 0, 10)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="has a file that is not UTF-8 text"):
        open_haystack(HaystackConfig(dir=str(tmp_path)), tokenizer, 0, 10)

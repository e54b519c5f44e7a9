"""The magic numbers: prompt, place and score."""

import re

import pytest

from meap.errors import ConfigError
from meap.evals.runner import run_tasks
from meap.evals.task import Example, Output
from meap.evals.tasks.needle_magic import CITIES, examples, score


def texts(inputs, tokenizer):
    return [(each, tokenizer.decode(each.prompt.tolist(), skip_special_tokens=True)) for each in examples(inputs)]


def test_the_prompt_is_that_of_ye_et_al(make_inputs, tokenizer):
    for each, text in texts(make_inputs(), tokenizer):
        city, number = each.facts["city"], each.answers[0]
        assert text.startswith(
            "There is a special magic number inside a lot of irrelevant text. Find it and memorize them. I will quiz "
            "you about the magic number there. "
        )
        assert text.endswith(f"\nWhat is the special magic {city} number? The special magic {city} number is")
        assert text.count(f"\nThe special magic {city} number is {number} . \n") == (0 if each.control else 1)
        assert 1 <= int(number) <= 50_000
        assert each.max_new_tokens == 20


def test_cities_are_those_of_the_source_each_once():
    assert len(CITIES) == len(set(CITIES)) == 69


def test_the_haystack_has_its_length(make_inputs):
    inputs = make_inputs()
    lengths = {each.facts["length"]: len(each.prompt) for each in examples(inputs) if each.control}
    assert lengths[400] - lengths[300] in range(80, 121)  # cities differ in length


def test_every_trial_asks_something_else(make_inputs):
    found = [each for each in examples(make_inputs("needle_magic.trials=5")) if not each.control]
    assert len({each.answers for each in found}) > len(found) * 0.9
    assert len({each.prompt.tobytes() for each in found}) == len(found)


def test_another_grid_asks_the_same_where_both_agree(make_inputs):
    one = {each.id: each.prompt.tobytes() for each in examples(make_inputs())}
    other = {each.id: each.answers for each in examples(make_inputs("needle_magic.lengths=[300]"))}
    assert set(other) < set(one)


def test_distractors_are_told_of_and_not_asked_for(make_inputs, tokenizer):
    for each, text in texts(make_inputs("needle_magic.needles=4"), tokenizer):
        told = dict(re.findall(r"\nThe special magic ([\w ]+) number is (\d+) \. \n", text))
        assert len(told) == (3 if each.control else 4)
        assert told.get(each.facts["city"]) == (None if each.control else each.answers[0])
        assert len(set(told.values())) == len(told)


@pytest.mark.parametrize(
    ("text", "anywhere", "first"),
    [(" 4821 .", 1, 1), ("\n4821", 1, 1), (" 99.\n4821", 1, 0), (" 48210", 0, 0), ("", 0, 0)],
)
def test_scores_by_hand(text, anywhere, first):
    found = score(Example("0", answers=("4821",)), Output(text))
    assert (found["contains"], found["first_line"]) == (anywhere, first)


MANY = ("needle_magic.needles=4", "needle_magic.asked=3")


def test_several_cities_are_asked_for_at_once(make_inputs, tokenizer):
    for each, text in texts(make_inputs(*MANY), tokenizer):
        told = dict(re.findall(r"\nThe special magic ([\w ]+) number is (\d+) \. \n", text))
        one, two, three = each.facts["city"].split(", ")
        assert text.endswith(
            f"\nWhat are the special magic {one}, {two} and {three} numbers? "
            f"The special magic {one}, {two} and {three} numbers are"
        )
        assert len(told) == (1 if each.control else 4)
        if not each.control:
            assert each.answers == (f"{told[one]}, {told[two]}, {told[three]}",)
        assert each.max_new_tokens == 60


def test_who_asks_for_more_hides_the_same(make_inputs, tokenizer):
    """The haystack does not depend on how many cities are asked for."""
    few, many = (
        texts(make_inputs("needle_magic.needles=4", f"needle_magic.asked={asked}"), tokenizer) for asked in (1, 2)
    )
    for (one, text), (two, text_of_two) in zip(few, many, strict=True):
        assert two.answers[0].startswith(one.answers[0] + ", ")
        same = text.rsplit("\nWhat", 1)[0] == text_of_two.rsplit("\nWhat", 1)[0]
        assert same != one.control


@pytest.mark.parametrize(
    ("text", "anywhere", "first"),
    [(" 17, 4821 and 9.", 1, 1), (" 9\n17", 2 / 3, 1 / 3), (" 4821", 1 / 3, 1 / 3), (" 179", 0, 0), ("", 0, 0)],
)
def test_the_score_of_several_is_the_share_that_was_said(text, anywhere, first):
    found = score(Example("0", answers=("4821, 17, 9",)), Output(text))
    assert (found["contains"], found["first_line"]) == pytest.approx((anywhere, first))


@pytest.mark.parametrize("asked", [1, 2])
def test_who_knows_half_has_a_half(make_inputs, oracle, asked, tmp_path):
    inputs = make_inputs("needle_magic.needles=2", f"needle_magic.asked={asked}")
    knows_one = oracle(examples(inputs), lambda answer: " " + answer.split(", ")[0])
    found = run_tasks(inputs, knows_one, ["needle_magic"], tmp_path)["tasks"]["needle_magic"]["metrics"]["contains"]
    assert found["value"] == pytest.approx(1 / asked)
    assert found["low"] < 1 / asked
    assert found["high"] > 1 / asked or asked == 1


def test_too_many_needles_are_refused(make_inputs):
    with pytest.raises(ConfigError, match="needle_magic.needles=60 is too large for a length of 200"):
        examples(make_inputs("needle_magic.needles=60", "needle_magic.lengths=[200]"))
    with pytest.raises(ConfigError, match=r"needle_magic.needles=61 is out of range: it must be in \[1, 60\]"):
        make_inputs("needle_magic.needles=61")
    with pytest.raises(
        ConfigError, match=r"needle_magic.asked=3 is out of range: it must be in \[1, needle_magic.needles=2\]"
    ):
        make_inputs("needle_magic.needles=2", "needle_magic.asked=3")

"""Questions and answers to read: some right, some wrong, spread over the task."""

from meap.evals.samples import choose_samples

NUMBERS = {"headline": "recall", "metrics": {"recall": {"higher_is_better": True}}}


def response(index, score, **more):
    return {
        "id": f"{index}", "control": False, "too_long": False, "recall": score, "loglikelihoods": [], "right": None,
        "asked": f"What is {index}?", "answers": ["it"], "text": f" it is {index}",
    } | more  # fmt: skip


def test_some_right_and_some_wrong_are_chosen_from_the_whole_task():
    responses = [response(index, float(index % 2)) for index in range(20)]
    found = choose_samples(NUMBERS, responses)
    assert [(each.is_right, each.title) for each in found] == [
        (True, "1: 100.0 %"), (True, "9: 100.0 %"), (True, "19: 100.0 %"),
        (False, "0: 0.0 %"), (False, "8: 0.0 %"), (False, "18: 0.0 %"),
    ]  # fmt: skip
    assert (found[0].asked, found[0].expected, found[0].answered) == ("What is 1?", "it", " it is 1")


def test_fewer_than_asked_are_all_there_and_controls_are_not():
    responses = [response(0, 0.5), response(1, 1.0, control=True), response(2, None), response(3, 0.0, too_long=True)]
    assert [(each.is_right, each.title) for each in choose_samples(NUMBERS, responses)] == [(False, "0: 50.0 %")]


def test_a_choice_is_shown_as_its_text():
    chosen = response(0, 0.0, choices=["red", "blue"], loglikelihoods=[-1.0, -3.0], right=1, answers=[], text="")
    (found,) = choose_samples(NUMBERS, [chosen])
    assert (found.expected, found.answered) == ("blue", "red")


def test_what_is_neither_right_nor_wrong_has_no_samples():
    numbers = {"headline": "recall", "metrics": {"recall": {"higher_is_better": False}}}
    assert choose_samples(numbers, [response(0, 1.0)]) == []


def test_long_prompts_are_cut_at_their_beginning():
    (found,) = choose_samples(NUMBERS, [response(0, 1.0, asked="x" * 5000 + "?", text="y" * 5000)])
    assert len(found.asked) < 700
    assert found.asked.endswith("?")
    assert len(found.answered) < 700

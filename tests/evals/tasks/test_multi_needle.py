"""Several needles: prompt, places, chains and scores."""

import json

import pytest

from meap.errors import BadInputError, ConfigError, DataError
from meap.evals.chains import read_chains
from meap.evals.runner import run_tasks
from meap.evals.tables import print_results
from meap.evals.task import Example, Output
from meap.evals.tasks.multi_needle import examples, keyword_score, places_of, score

ROW = {"question": "What is it? ", "answer": "the Old Bell", "derivations": ["A is B.", "B is the Old Bell."]}


def texts(inputs, tokenizer):
    return [(each, tokenizer.decode(each.prompt.tolist(), skip_special_tokens=True)) for each in examples(inputs)]


def test_the_prompt_is_that_of_needlebench(make_inputs, tokenizer):
    for each, text in texts(make_inputs(), tokenizer):
        assert text.startswith(
            "You are an intelligent AI assistant skilled in answering user questions.\n"
            "Please keep your answers concise and clear. Do not talk about irrelevant topics or repeat your answers.\n"
            "The document given to you by the user is "
        )
        assert text.endswith(
            f"\n\nNow, the question is: {each.facts['question']}Before answering, please consider what in the document "
            "is most relevant to this question.\n\n"
        )
        told = [f"\n{sentence}\n" in text for sentence in each.facts["derivations"]]
        assert told == [not each.control] * each.facts["needles"]
        assert (each.max_new_tokens, each.stop) == (40, "")


def test_needles_stand_where_they_are_said_to_be(make_inputs, tokenizer):
    inputs = make_inputs()
    before = len(inputs.encode(["You are an intelligent AI assistant skilled in answering user questions."])[0])
    for each in examples(inputs):
        if each.control:
            continue
        needles = [tokenizer.encode(f"\n{sentence}\n") for sentence in each.facts["derivations"]]
        ids = each.prompt.tolist()
        starts = [next(i for i in range(len(ids)) if ids[i : i + len(needle)] == needle) for needle in needles]
        frame = starts[0] - each.facts["places"][0]
        assert frame > before
        earlier = 0
        for start, place, needle in zip(starts, each.facts["places"], needles, strict=True):
            assert start == frame + place + earlier
            earlier += len(needle)


def needlebench_by_hand(num_tokens: int, depth: int, lengths: list[int]) -> list[int]:
    """The published procedure, step by step on a list: points are found first, then each insertion moves later ones."""
    points = [int(num_tokens * depth / 100)]
    for place in range(1, len(lengths)):
        point = int(points[-1] + lengths[place - 1] + num_tokens * 0.1)
        points.append(min(point, num_tokens + sum(lengths[:place])))
    text = ["hay"] * num_tokens
    for place, length in enumerate(lengths):
        text[points[place] : points[place]] = [f"needle {place}"] * length
        for later in range(place + 1, len(lengths)):
            points[later] += length
    return [sum(each == "hay" for each in text[: text.index(f"needle {place}")]) for place in range(len(lengths))]


@pytest.mark.parametrize("lengths", [[7], [3, 4], [30, 1, 12, 5, 8]])
@pytest.mark.parametrize("num_tokens", [1, 9, 100, 997])
@pytest.mark.parametrize("depth", [0, 10, 42, 73, 94, 100])
def test_places_are_those_of_the_published_procedure(num_tokens, depth, lengths):
    assert places_of(num_tokens, depth, lengths) == needlebench_by_hand(num_tokens, depth, lengths)


def test_needles_beyond_the_end_stand_side_by_side_in_their_order(make_inputs, tokenizer):
    assert places_of(1000, 94, [20, 20, 20]) == [940, 1000, 1000]
    found = {each.id: (each, text) for each, text in texts(make_inputs(), tokenizer)}
    each, text = found["3-1100-100-0"]
    assert each.facts["at_end"] == 3
    assert "".join(f"\n{sentence}\n" for sentence in each.facts["derivations"]) in text


def test_prompts_of_a_length_have_that_length(make_inputs):
    # This tokenizer takes three times the tokens that others do.
    for each in examples(make_inputs()):
        haystack = each.facts["length"] - 600
        assert haystack < each.positions <= each.facts["length"]


def test_every_trial_asks_something_else_and_other_grids_the_same(make_inputs):
    found = {each.id: each for each in examples(make_inputs("multi_needle.trials=3"))}
    assert len({each.facts["question"] + each.answers[0] for each in found.values()}) == len(found)
    fewer = examples(make_inputs("multi_needle.needles=[3]", "multi_needle.depths=[50]"))
    assert all(found[each.id].facts["derivations"] == each.facts["derivations"] for each in fewer)


@pytest.mark.parametrize(
    ("text", "keywords", "whole"),
    [
        # By hand: three words, each counted wherever it is.
        ("It is the Old Bell.", 1, 1),
        ("the old bell", 1, 1),
        ("Bells of old, there", 1, 0),
        ("the", 1 / 3, 0),
        ("an older gong", 1 / 3, 0),
        ("gong", 0, 0),
        ("", 0, 0),
    ],
)
def test_scores_by_hand(text, keywords, whole):
    found = score(Example("0", answers=("the Old Bell",)), Output(text))
    assert (found["keywords"], found["contains"]) == pytest.approx((keywords, whole))


def test_a_word_that_an_answer_has_twice_counts_twice():
    assert keyword_score("old", "Old old bell") == pytest.approx(2 / 3)


def test_the_published_file_is_read(make_inputs, tokenizer, tmp_path, blind, capsys):
    path = tmp_path / "needles.json"
    path.write_text(json.dumps([ROW | {"derivation_count": 2}]))
    overrides = (f"multi_needle.source={path}", "multi_needle.needles=[2]")
    for each, text in texts(make_inputs(*overrides), tokenizer):
        assert "Now, the question is: What is it? Before answering" in text
        assert each.answers == ("the Old Bell",)
        assert each.control or text.index("\nA is B.\n") < text.index("\nB is the Old Bell.\n")
    # The haystack says "the" for nothing, and the question says none of the three words.
    results = run_tasks(make_inputs(*overrides), blind, ["multi_needle"], tmp_path / "eval")
    floors = results["tasks"]["multi_needle"]["floors"]
    assert floors["echo of the question"] == {"keywords": 0.0, "contains": 0.0}
    assert 0 < floors["a piece of the haystack"]["keywords"] <= 2 / 3
    print_results(results)
    assert "floor, a piece of the haystack" in capsys.readouterr().out


def test_sources_without_such_chains_are_refused(make_inputs, tmp_path):
    path = tmp_path / "needles.json"
    path.write_text(json.dumps([ROW | {"derivation_count": 2}]))
    with pytest.raises(
        DataError, match=r"has no chains of 3 sentences, but of 2: change multi_needle.needles=\[2, 3\]"
    ):
        examples(make_inputs(f"multi_needle.source={path}"))
    path.write_text("[]")
    with pytest.raises(DataError, match="has no chains of 2, 3 sentences, but of none"):
        examples(make_inputs(f"multi_needle.source={path}"))
    path.write_text("[{}]")
    with pytest.raises(BadInputError, match="entry 1 lacks question"):
        examples(make_inputs(f"multi_needle.source={path}"))


def test_lengths_without_room_are_refused(make_inputs):
    with pytest.raises(ConfigError, match=r"multi_needle.lengths: 620 less multi_needle.buffer=600 leaves no haystack"):
        examples(make_inputs("multi_needle.lengths=[620]"))


def test_results_have_a_row_for_needles_and_length_a_grid_and_the_chains(make_inputs, oracle, tmp_path):
    inputs = make_inputs()
    asked = examples(inputs)
    numbers = run_tasks(inputs, oracle(asked), ["multi_needle"], tmp_path)["tasks"]["multi_needle"]
    assert [(row["by"]["needles"], row["by"]["length"], row["control"]) for row in numbers["rows"]] == [
        (needles, length, control) for control in (False, True) for needles in (2, 3) for length in (900, 1100)
    ]
    assert (tmp_path / "multi_needle.grid.csv").read_text() == "depth,900,1100\n0,1.0,1.0\n50,1.0,1.0\n100,1.0,1.0\n"
    chains = read_chains(tmp_path / "multi_needle.chains.json")
    told = {each.facts["question"]: each.answers[0] for each in asked if not each.control}
    assert {chain.question: chain.answer for some in chains.values() for chain in some} == told
    assert {number: len(some) for number, some in chains.items()} == {2: 6, 3: 6}
    # Generated names are said by nothing but the needles.
    assert all(value == 0 for floor in numbers["floors"].values() for value in floor.values())

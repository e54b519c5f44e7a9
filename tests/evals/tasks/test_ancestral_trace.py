"""The eldest of a family: prompt, family and score."""

import re

import pytest

from meap.evals.task import Example, Output
from meap.evals.tasks.ancestral_trace import RELATIONS, SENTENCES, TASK, examples, prompt, score

NAME = r"[A-Z][a-z]{6} [A-Z][a-z]{6}"
FORMS = [
    re.compile(
        re.escape(each)
        .replace(r"\{elder\}", f"(?P<elder>{NAME})", 1)
        .replace(r"\{younger\}", f"(?P<younger>{NAME})", 1)
        .replace(r"\{elder\}", "(?P=elder)")
        .replace(r"\{younger\}", "(?P=younger)")
        .replace(r"\{relation\}", f"(?:{'|'.join(RELATIONS)})")
    )
    for each in SENTENCES
]


def story_of(inputs, tokenizer):
    for each in examples(inputs):
        text = tokenizer.decode(each.prompt.tolist(), skip_special_tokens=True)
        found = re.search(r"provided below:\n(.*)\n\nGiven .* relative that '(.*)' can trace back", text)
        parents = {match["younger"]: match["elder"] for form in FORMS for match in form.finditer(found[1])}
        yield each, found[1], parents, found[2]


def test_the_prompt_is_that_of_needlebench():
    text = prompt(["First. ", "Second."], "Me")
    assert text.startswith(
        "Here is a test for multi-step reasoning ability called the Ancestral Trace Challenge. In this test, we will "
        "simulate different people's familial relationships, and your task is to continuously reason through them "
        "until you identify the eldest ancestor.\n\nFor example:\nExample 1: If James Hill's father is Jasmine Lane, "
        "and no further information about familial relationships is provided in the text, then the oldest relative "
        "James Hill can trace back to in the provided text is \\boxed{Jasmine Lane}.\nExample 2: "
    )
    assert (
        '\n3. At the end of your response, remember to put your final answer within \\boxed{}. For example: "So the '
        "oldest relative 'Me' can trace back to in the provided text is \\boxed{somebody (your answer here)}.\"\n\n"
        "Now, the scrambled family relationships are provided below:\nFirst. Second.\n\nGiven the scrambled family "
        "relationships described above, who is the eldest relative that 'Me' can trace back to in the context?\n\n"
        "So the oldest relative 'Me' can trace back to in the provided text is \\boxed{"
    ) in text
    assert text.endswith("\\boxed{")
    short = prompt(["First."], "Me", notes=False)
    assert short.startswith("Now, the scrambled family relationships are provided below:\nFirst.\n\nGiven")
    assert text.endswith(short.split("First.")[1])


def ancestors(parents: dict[str, str], person: str) -> list[str]:
    return [parents[person], *ancestors(parents, parents[person])] if person in parents else []


def test_the_answer_is_found_by_following_the_relations(make_inputs, tokenizer):
    for each, _, parents, person in story_of(make_inputs("ancestral_trace.relations=[2,7,40]"), tokenizer):
        found = ancestors(parents, person)
        assert len(parents) == len(found) == each.facts["relations"]
        assert found[-1] == each.answers[0]
        assert each.stop == "}"


def test_sentences_stand_in_no_order(make_inputs, tokenizer):
    for _, story, parents, person in story_of(make_inputs("ancestral_trace.relations=[40]"), tokenizer):
        places = [story.index(name) for name in ancestors(parents, person)]
        assert places != sorted(places)
        assert places != sorted(places, reverse=True)


@pytest.mark.parametrize(
    ("text", "named", "alone"),
    [
        ("Baranda Celinis", 1, 1),
        (" Baranda Celinis ", 1, 1),
        ("baranda celinis.", 1, 0),
        ("Baranda Celinis or Dorelek Falusya", 1, 0),
        ("Baranda", 0, 0),
        ("Baranda Celinisa", 0, 0),
        ("", 0, 0),
    ],
)
def test_scores_by_hand(text, named, alone):
    found = score(Example("0", answers=("Baranda Celinis",)), Output(text))
    assert (found["contains"], found["exact"]) == (named, alone)


def test_a_guess_among_the_others_is_at_chance(make_inputs, tokenizer):
    inputs = make_inputs()
    shares: list[float] = []
    for each, _, parents, asked in story_of(inputs, tokenizer):
        others = {*parents, *parents.values()} - {asked}
        right = [score(each, Output(name))["contains"] for name in others]
        shares.append(sum(right) / len(right))
    for metric in TASK.metrics:
        assert metric.chance(inputs.config) == pytest.approx(sum(shares) / len(shares)) == pytest.approx(0.35)

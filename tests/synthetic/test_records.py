"""Properties of generated records: every field is stated once, and can be told apart from every other."""

import re

import pytest

from meap.synthetic import FIELDS, NUM_CANDIDATES, generate_record, generate_record_example

STATEMENT = re.compile(r"The (\w+) is (\w+)\.")


def test_a_value_belongs_to_one_field():
    values = [value for each in FIELDS.values() for value in each]
    assert len(values) == len(set(values)) == 30 * len(FIELDS)
    assert all(re.fullmatch("[a-z]+", value) for value in values)


def test_a_draw_is_an_address():
    texts = [generate_record(seed, index) for seed in range(3) for index in range(30)]
    assert len(set(texts)) == len(texts)
    assert texts == [generate_record(seed, index) for seed in range(3) for index in range(30)]


def test_every_summary_repeats_what_the_passage_states():
    for index in range(200):
        passage, *summaries = generate_record(0, index).split("\n")
        stated = {field: value for field, value in STATEMENT.findall(passage) if field in FIELDS}
        assert 4 <= len(stated) <= len(FIELDS)
        assert len(summaries) == 6
        for summary in summaries:
            found = STATEMENT.findall(summary)
            assert len(found) == len(stated)
            assert dict(found) == stated
        assert all(value in FIELDS[field] for field, value in stated.items())


@pytest.mark.parametrize("num_sentences", [0, 3, 12])
def test_an_example_has_one_answer_and_it_stands_in_the_passage(num_sentences):
    depths = []
    for index in range(100):
        example = generate_record_example(0, index, num_sentences=num_sentences)
        passage, question = example.prompt.split("\n")
        asked = re.search(r"The (\w+) is$", question)
        assert asked is not None
        assert passage.count(f"The {asked[1]} is {example.answer}.") == 1
        assert len(set(example.candidates)) == NUM_CANDIDATES
        assert set(example.candidates) <= set(FIELDS[asked[1]])
        assert [each for each in example.candidates if f"The {asked[1]} is {each}." in passage] == [example.answer]
        depths.append(example.depth)
    assert min(depths) == 0
    assert max(depths) == 1


def test_records_and_examples_share_no_draws():
    assert generate_record(0, 0).split("\n")[0] != generate_record_example(0, 0, num_sentences=2).prompt.split("\n")[0]


def test_a_negative_number_of_sentences_is_refused():
    with pytest.raises(ValueError, match="num_sentences is -1"):
        generate_record_example(0, 0, num_sentences=-1)

"""Chains of relations, and their file."""

import json
import random
import re

import pytest

from meap.errors import BadInputError, DataError
from meap.evals.chains import Chain, draw_chain, read_chains, write_chains

ROW = {"question": "Who a?", "answer": " X Y ", "derivations": ["a is b.", "b is X Y."], "derivation_count": 2}
CHAIN = Chain("Who a?", "X Y", ("a is b.", "b is X Y."))


def follow(chain: Chain) -> str:
    """Answers the question by nothing but the sentences."""
    verbs = re.sub(r"^Who |the person who |\?$", "", chain.question)
    thing = verbs[verbs.index("the ") :]
    found = thing
    for verb in reversed(verbs.removesuffix(thing).split()):
        told = [
            match[1]
            for sentence in chain.derivations
            for match in [
                re.fullmatch(rf"{re.escape(found)} was {verb} by (.*)\.", sentence, re.IGNORECASE)
                or re.fullmatch(rf"(.*) {verb} {re.escape(found)}\.", sentence, re.IGNORECASE)
            ]
            if match
        ]
        (found,) = told
    return found


@pytest.mark.parametrize("num_relations", [1, 2, 3, 5, 9])
def test_a_chain_has_one_answer_and_needs_every_sentence(num_relations):
    for seed in range(30):
        chain = draw_chain(random.Random(seed), num_relations)
        assert len(chain.derivations) == num_relations
        assert follow(chain) == chain.answer
        assert sum(chain.answer in sentence for sentence in chain.derivations) == 1


def test_no_word_of_the_answer_is_in_its_question():
    for seed in range(50):
        chain = draw_chain(random.Random(seed), 4)
        assert not any(word.lower() in chain.question.lower() for word in chain.answer.split())


def test_what_is_written_is_read_again(tmp_path):
    chains = [draw_chain(random.Random(seed), 2 + seed % 3) for seed in range(9)]
    (tmp_path / "chains.json").write_text(write_chains(chains))
    assert set(json.loads((tmp_path / "chains.json").read_text())[0]) == {
        *("question", "answer", "derivations", "derivation_count"),
    }
    found = read_chains(tmp_path / "chains.json")
    assert found == {number: [each for each in chains if len(each.derivations) == number] for number in (2, 3, 4)}


@pytest.mark.parametrize("form", [json.dumps, lambda rows: "\n".join(map(json.dumps, rows))])
def test_arrays_and_lines_are_read_and_further_keys_let_be(tmp_path, form):
    (tmp_path / "a").write_text(form([ROW, ROW | {"id": 7, "derivation_count": 3}]))
    # Chains are counted as the file counts them.
    assert read_chains(tmp_path / "a") == {2: [CHAIN], 3: [CHAIN]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "Who?"},
            "entry 2 lacks question, answer, derivations and derivation_count .*KeyError",
        ),
        (ROW | {"answer": 3}, "entry 2 lacks question.*3 is not text.*download it again"),
        (ROW | {"answer": ""}, "'' is not text"),
        (ROW | {"derivations": []}, "derivations are empty"),
        (ROW | {"derivations": [" "]}, "' ' is not text"),
        (ROW | {"derivation_count": "two"}, "invalid literal"),
        ("no object", "entry 2 lacks question"),
    ],
)
def test_an_entry_of_another_kind_is_named(tmp_path, row, message):
    (tmp_path / "a.json").write_text(json.dumps([ROW, row]))
    with pytest.raises(BadInputError, match=message):
        read_chains(tmp_path / "a.json")


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="nothing.json cannot be read .*or leave the source unset"):
        read_chains(tmp_path / "nothing.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="a.json cannot be read"):
        read_chains(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[{]")
    with pytest.raises(BadInputError, match="a.json is neither a JSON array nor JSON lines"):
        read_chains(tmp_path / "a.json")

"""Properties of the synthetic prose and of the retrieval examples."""

import hashlib
import re
import subprocess
import sys

import pytest

from meap.synthetic import (
    NUM_STATEMENT_STYLES,
    Fact,
    SyntheticDocument,
    generate_document,
    generate_retrieval_example,
)
from meap.synthetic.words import COMMON, RECAP_LEADS, TOPICS, rules

NUM_DOCUMENTS = 1500


@pytest.fixture(scope="module")
def corpus() -> list[SyntheticDocument]:
    return [generate_document(0, index) for index in range(NUM_DOCUMENTS)]


def quantile(values, fraction):
    return sorted(values)[int(fraction * (len(values) - 1))]


# --- facts ---


def test_style_zero_is_the_stem_completed():
    fact = Fact("Marlow lighthouse", "access code", "48213")
    assert fact.question_stem() == "The access code of the Marlow lighthouse is"
    assert fact.statement(0) == "The access code of the Marlow lighthouse is 48213."


@pytest.mark.parametrize("style", range(NUM_STATEMENT_STYLES))
def test_every_statement_names_the_three_parts_once(style):
    sentence = Fact("Marlow lighthouse", "access code", "48213").statement(style)
    assert [sentence.count(part) for part in ("Marlow lighthouse", "access code", "48213")] == [1, 1, 1]
    assert sentence[0].isupper()
    assert sentence.endswith(".")


@pytest.mark.parametrize("style", [-1, NUM_STATEMENT_STYLES])
def test_unknown_style_is_refused(style):
    with pytest.raises(ValueError, match=rf"style is {style}, but must be in \[0, {NUM_STATEMENT_STYLES}\)"):
        Fact("a", "b", "c").statement(style)


# --- documents ---


def test_a_document_is_a_function_of_its_address(corpus):
    backwards = [generate_document(0, index) for index in reversed(range(50))]
    assert backwards[::-1] == corpus[:50]


def test_seeds_and_indices_give_different_documents(corpus):
    assert len({document.text for document in corpus}) == NUM_DOCUMENTS
    assert generate_document(1, 0) != generate_document(0, 0)


def test_a_document_does_not_depend_on_the_hash_seed():
    program = "from meap.synthetic import generate_document as g; import sys; sys.stdout.write(g(3, 7).text)"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == generate_document(3, 7).text


def test_the_first_document_is_the_one_it_always_was():
    # Guards the promise "the same on every platform and Python"; change it with the word lists.
    document = generate_document(0, 0)
    digest = hashlib.sha256(document.text.encode()).hexdigest()
    assert (len(document.facts), digest[:16]) == (1, "418b988f83dfe9ae")


def test_facts_are_in_the_text_and_distinct(corpus):
    for document in corpus:
        for fact in document.facts:
            assert any(fact.statement(style) in document.text for style in range(NUM_STATEMENT_STYLES))
        assert len({fact.subject for fact in document.facts}) == len(document.facts)
        assert len({fact.value for fact in document.facts}) == len(document.facts)


def test_facts_are_listed_in_the_order_in_which_they_are_stated(corpus):
    for document in corpus:
        places = [document.text.index(fact.subject) for fact in document.facts]
        assert places == sorted(places)


def test_longer_documents_hold_more_facts_and_most_are_repeated(corpus):
    short = [len(document.facts) for document in corpus if len(document.text) < 600]
    long = [len(document.facts) for document in corpus if len(document.text) > 3000]
    assert sum(short) / len(short) < 2 < 6 < sum(long) / len(long)
    facts = [(document, fact) for document in corpus for fact in document.facts]
    repeated = [fact for document, fact in facts if document.text.count(fact.question_stem() + " " + fact.value) > 0
                and document.text.count(fact.subject) > 1]  # fmt: skip
    assert len(repeated) > 0.5 * len(facts)


def test_values_are_mostly_five_digit_numbers_and_not_reused(corpus):
    values = [fact.value for document in corpus for fact in document.facts]
    five_digits = [value for value in values if re.fullmatch(r"\d{5}", value)]
    assert all(re.fullmatch(r"\d{4,5}|[a-z]+ [a-z]+", value) for value in values)
    assert len(five_digits) > 0.5 * len(values)
    assert len(set(five_digits)) > 0.9 * len(five_digits)


def test_lengths_are_spread_as_in_web_text(corpus):
    lengths = [len(document.text) for document in corpus]
    assert 150 <= min(lengths) <= max(lengths) <= 20_000
    assert quantile(lengths, 0.05) < 450
    assert 1200 <= quantile(lengths, 0.5) <= 1600
    assert quantile(lengths, 0.95) > 5000
    assert quantile(lengths, 0.99) > 10_000


def test_text_is_clean(corpus):
    for document in corpus:
        text = document.text
        assert text.isascii()
        assert text == text.strip()
        assert not re.search(r"[{}\t\r]|  | \n|\n |\n\n| [.,;:?!]|\b[Aa] [aeiouAEIOU]", text)
        assert all(line[-1] in '."?' for line in text.split("\n"))
        assert all(line.lstrip('"')[0].isupper() for line in text.split("\n"))


def test_vocabulary_is_that_of_a_real_corpus(corpus):
    found = {word for document in corpus for word in re.findall(r"[a-z]+", document.text.lower())}
    assert len(found) > 4000


# --- word lists ---


@pytest.mark.parametrize("topic", TOPICS)
def test_every_slot_has_a_list(topic):
    known = rules(topic)
    cast = {"person", "town"}
    used = {slot for options in known.values() for option in options for slot in re.findall(r"\{(\w+)\}", option)}
    assert used <= known.keys() | cast
    assert all(len(verb.split("/")) == 3 for verb in TOPICS[topic]["verb"])
    assert all(len(set(options)) > 4 for options in TOPICS[topic].values())


def test_there_are_several_topics():
    assert len(TOPICS) >= 8


def test_numbers_in_the_filler_stay_below_the_values():
    numbers = [int(number) for entry in COMMON.values() for option in entry for number in re.findall(r"\d+", option)]
    assert max(numbers) < 2100


# --- retrieval examples ---


@pytest.mark.parametrize("num_facts", [1, 4, 16])
@pytest.mark.parametrize("depth", [0, 0.25, 0.5, 1])
def test_a_retrieval_example_can_be_answered_from_its_passage_alone(num_facts, depth):
    for index in range(20):
        example = generate_retrieval_example(0, index, num_facts=num_facts, num_sentences=40, depth=depth)
        assert example.depth == depth
        assert len(set(example.candidates)) == num_facts
        assert [example.prompt.count(value) for value in example.candidates] == [1] * num_facts
        assert all(re.fullmatch(r"\d{4,5}", value) for value in example.candidates)
        assert len({len(value) for value in example.candidates}) == 1
        assert example.answer in example.candidates

        passage, _, question = example.prompt.rpartition("\n")
        lead = next(lead for lead in RECAP_LEADS if question.startswith(lead))
        attribute, subject = re.fullmatch(r"The (.+?) of the (.+) is", question.removeprefix(lead + " ")).groups()
        asked = Fact(subject, attribute, example.answer)
        statement = next(s for s in map(asked.statement, range(NUM_STATEMENT_STYLES)) if s in passage)
        assert example.prompt.endswith(asked.question_stem())
        place = passage.index(statement) / max(1, len(passage) - len(statement))
        assert place == pytest.approx(depth, abs=0.15 if 0 < depth < 1 else 1e-9)


def test_retrieval_examples_are_functions_of_their_addresses():
    def make(index):
        return generate_retrieval_example(5, index, num_facts=4, num_sentences=10, depth=0.5)

    assert [make(index) for index in reversed(range(20))][::-1] == [make(index) for index in range(20)]
    assert len({make(index).prompt for index in range(20)}) == 20


def test_retrieval_examples_share_nothing_with_the_documents(corpus):
    known = {fact for document in corpus for fact in document.facts}
    subjects = {fact.subject: fact.value for fact in known}
    for index in range(200):
        example = generate_retrieval_example(0, index, num_facts=4, num_sentences=4, depth=0.5)
        subject = example.prompt.rpartition(" of the ")[2].removesuffix(" is")
        assert subjects.get(subject) != example.answer
        assert example.prompt.split("\n")[0] not in corpus[index].text


def test_the_place_of_the_answer_among_the_candidates_tells_nothing():
    examples = [generate_retrieval_example(0, i, num_facts=4, num_sentences=0, depth=0.5) for i in range(400)]
    places = [example.candidates.index(example.answer) for example in examples]
    assert all(70 <= places.count(place) <= 130 for place in range(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_facts": 0}, r"num_facts is 0, but must be in \[1, 1000\]; change num_facts"),
        ({"num_facts": 1001}, r"num_facts is 1001, but must be in \[1, 1000\]"),
        ({"num_sentences": -1}, "num_sentences is -1, but must be at least 0; use 0 for facts alone"),
        ({"depth": 50}, r"depth is 50, but must be in \[0, 1\]; divide a percentage by 100"),
        ({"depth": float("nan")}, "depth is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        generate_retrieval_example(0, 0, **{"num_facts": 4, "num_sentences": 4, "depth": 0.5, **change})

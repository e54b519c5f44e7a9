"""Where the answer of a passage is, in text and in tokens."""

import dataclasses
import json
import re

import pytest

from meap.config import TokenizerConfig
from meap.errors import BadInputError, DataError
from meap.evals.passages import (
    PARTS,
    Passage,
    encode_passage,
    generate_passages,
    generate_record_passages,
    read_passages,
    write_passages,
)
from meap.tokenizer import load_tokenizer

WRITTEN = Passage("Anna went home.", " The code is 48213.", "\nBob stayed.", " What is the code?")


@pytest.fixture(scope="module")
def generated():
    return generate_passages(7, 60, num_facts=3, num_sentences=4)


def test_generated_passages_state_the_answer_once_in_a_sentence_of_its_own(generated):
    for passage in generated:
        sentence = passage.answer
        assert sentence[0] in " \n"
        assert sentence[1].isupper()
        assert sentence.endswith(".")
        assert sentence.count(".") == 1
        (value,) = [word.strip(".,") for word in sentence.split() if word.strip(".,").isdigit()]
        assert value not in passage.context_before + passage.context_after + passage.query
        assert passage.context_before.endswith((".", "!", "?", '"'))
        assert passage.context_after.strip()
        assert passage.query.startswith("\n")
        subject = passage.query.split(" of the ", 1)[1].removesuffix(" is")
        assert subject in sentence


def test_answers_stand_anywhere(generated):
    shares = [len(each.context_before) / len(each.text) for each in generated]
    assert min(shares) < 0.3
    assert max(shares) > 0.55
    assert len({each.text for each in generated}) == 60


def test_passages_are_a_function_of_their_seed(generated):
    assert generate_passages(7, 10, num_facts=3, num_sentences=4) == generated[:10]
    assert generate_passages(8, 10, num_facts=3, num_sentences=4) != generated[:10]
    assert len(generate_passages(0, 30, num_facts=1, num_sentences=2)) == 30


def assert_parts_are_found(passages, tokenizer):
    for passage in passages:
        ids, counts = encode_passage(passage, tokenizer)
        assert ids.tolist() == tokenizer.encode(passage.text)
        assert sum(counts) == len(ids)
        first = 0
        for part, count in zip(dataclasses.astuple(passage), counts, strict=True):
            text = "".join(tokenizer.decode(ids[first : first + count].tolist()).split())
            spelt = "".join(part.split())  # not every tokenizer decodes spaces
            # A token across a border takes a few characters along.
            assert text in spelt or spelt in text or spelt[2:-3] in text
            first += count


def test_parts_are_found_among_the_tokens_of_the_whole(generated, tokenizer):
    assert_parts_are_found([WRITTEN, *generated], tokenizer)
    assert encode_passage(WRITTEN, tokenizer)[1] == tuple(
        len(tokenizer.encode(part)) for part in dataclasses.astuple(WRITTEN)
    )


def test_parts_are_found_by_real_tokenizers(generated, shared_data):
    for name in ("llama2", "gpt2_style_2k"):
        tokenizer = load_tokenizer(TokenizerConfig(name=str(shared_data / "tokenizers" / name)))
        assert_parts_are_found([WRITTEN, *generated[:10]], tokenizer)


def spaced_letter(tokenizer):
    """A letter that makes one token with the space before it."""
    return next(each for each in "abcdefghijklmnopqrstuvwxyz" if len(tokenizer.encode(f" {each}")) == 1)


def test_a_token_across_a_border_belongs_where_it_begins(tokenizer):
    letter = spaced_letter(tokenizer)
    ids, counts = encode_passage(Passage("x ", f"{letter} y", " z", " w"), tokenizer)
    assert tokenizer.decode(ids[: counts[0]].tolist()) == f"x {letter}"
    assert tokenizer.decode(ids[counts[0] : sum(counts[:2])].tolist()) == " y"


def test_a_part_without_tokens_is_reported(tokenizer):
    letter = spaced_letter(tokenizer)
    with pytest.raises(BadInputError, match=rf"answer '{letter}' of a passage has no token of its own with"):
        encode_passage(Passage("x ", letter, " z", " w"), tokenizer)


def write(path, *lines):
    path.write_text("".join(f"{json.dumps(line) if isinstance(line, dict) else line}\n" for line in lines))
    return path


ROW = dict(zip(PARTS, ("Anna went home.", "The code is 48213.", "\nBob stayed.", "What is the code?"), strict=True))


def test_files_are_read_with_spaces_between_parts(tmp_path):
    (found, again) = read_passages(write(tmp_path / "four.jsonl", ROW, "", ROW), config_key="k")
    assert found == again == WRITTEN
    assert found.text == "Anna went home. The code is 48213.\nBob stayed. What is the code?"


@pytest.mark.parametrize(
    ("line", "error", "what"),
    [
        (
            "{",
            BadInputError,
            "four.jsonl, line 1 is not a JSON object with context_before, answer, context_after, query",
        ),
        ("[1]", BadInputError, "line 1 is not a JSON object"),
        ({"answer": "x"}, BadInputError, r"line 1 is not a JSON object .* \('context_before'\): give all four"),
        ({**ROW, "answer": " "}, BadInputError, "line 1: answer must be text that is not empty"),
        ({**ROW, "query": 3}, BadInputError, "line 1: query must be text that is not empty"),
        ("", DataError, "attention_segments.source: .*four.jsonl is empty; give a line for each passage"),
    ],
    ids=["torn", "list", "part missing", "part empty", "part no text", "file empty"],
)
def test_what_is_no_passage_is_reported(tmp_path, line, error, what):
    with pytest.raises(error, match=what):
        read_passages(write(tmp_path / "four.jsonl", line), config_key="attention_segments.source")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"attention_segments.source: there is no file .*none.jsonl; give one with"):
        read_passages(tmp_path / "none.jsonl", config_key="attention_segments.source")
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadInputError, match="latin.jsonl cannot be read .*: write it again, in UTF-8"):
        read_passages(tmp_path / "latin.jsonl", config_key="attention_segments.source")


def test_records_are_passages_and_come_back_from_a_file(tmp_path):
    passages = generate_record_passages(0, 20)
    assert len({passage.text for passage in passages}) == 20
    for passage in passages:
        stem = passage.query.rsplit(": ", 1)[1]
        assert re.fullmatch(rf" {stem} \w+\.", passage.answer)
        assert stem not in passage.context_before + passage.context_after
    write_passages(passages, tmp_path / "passages.jsonl")
    assert read_passages(tmp_path / "passages.jsonl", config_key="here") == passages

"""Long documents have the share that is asked for, exactly and in order; a bound on tokens is never passed."""

import json
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meap.config.prep import LongConfig, PrepStreamConfig
from meap.errors import BadInputError, ConfigError
from meap.prep.inputs import InputFiles
from meap.prep.progress import Tally
from meap.prep.selection import (
    BEYOND_MAX,
    LONG_TOKENS,
    SHORT_LEFT_OUT,
    SelectionRule,
    describe_selection,
)

ONE_FILE = InputFiles("in", ("a.jsonl",), (1,))
LENGTHS = st.lists(st.integers(2, 60), max_size=120)
SHARES = st.integers(1, 99).map(lambda percent: percent / 100)


def take(rule: SelectionRule, lengths: list[int], *, task: int = 0, tasks: int = 1) -> tuple[list[int], Counter]:
    tally = Tally(Path())
    selection = rule.of_task(task, tasks, tally)
    taken = []
    for number, length in enumerate(lengths):
        if selection.is_complete:
            break
        if selection.takes("train", "", "train", length, ("a.jsonl", number)):
            taken.append(number)
    return taken, tally.counts


@given(LENGTHS, SHARES, st.integers(3, 50))
def test_the_share_holds_at_every_moment_and_is_reached_to_one_short_document(lengths, share, min_tokens):
    rule = SelectionRule(ONE_FILE, LongConfig(share, min_tokens))
    taken, counts = take(rule, lengths)
    assert taken == sorted(taken)
    assert (taken, counts) == take(rule, lengths)
    assert {n for n, length in enumerate(lengths) if length >= min_tokens} <= set(taken)
    exact, long, short = Fraction(str(share)), 0, 0
    for number, length in enumerate(lengths):
        if number in taken:
            long, short = long + length * (length >= min_tokens), short + length * (length < min_tokens)
        elif length < min_tokens:
            # one more would have been too many
            assert short + length > (1 - exact) * (long + short + length)
        assert long >= exact * (long + short)
    left_out = [length for number, length in enumerate(lengths) if number not in taken]
    assert (counts["train", SHORT_LEFT_OUT], counts["train", LONG_TOKENS]) == (len(left_out), long)


@pytest.mark.slow
@given(LENGTHS, st.integers(30, 90).map(lambda percent: percent / 100))
def test_with_short_documents_enough_the_share_is_what_was_asked_for(lengths, share):
    """And no more: the short ones that come after fill it up to less than one of them."""
    taken, _ = take(SelectionRule(ONE_FILE, LongConfig(share, 40)), [*lengths, *[2] * 9_000])
    long = sum(length for length in lengths if length >= 40)
    total = sum([*lengths, *[2] * 9_000][number] for number in taken)
    assert long >= Fraction(str(share)) * total
    assert long < Fraction(str(share)) * (total + 2) or not long


@given(LENGTHS)
def test_it_is_off_by_default(lengths):
    rule = SelectionRule(ONE_FILE)
    assert not rule.is_on
    assert take(rule, lengths) == (list(range(len(lengths))), Counter())


@given(LENGTHS, st.integers(1, 3000), st.integers(1, 5))
def test_the_bound_is_divided_exactly_and_never_passed(lengths, max_tokens, tasks):
    rule = SelectionRule(ONE_FILE, max_tokens=max_tokens)
    total = 0
    for task in range(tasks):
        taken, counts = take(rule, lengths, task=task, tasks=tasks)
        assert taken == list(range(len(taken))), "a beginning of the documents, whole"
        tokens = sum(lengths[number] for number in taken)
        part = max_tokens * (task + 1) // tasks - max_tokens * task // tasks
        assert tokens <= part
        if len(taken) < len(lengths):
            assert tokens + lengths[len(taken)] > part
            assert counts["train", BEYOND_MAX] == (1 if part else 0)
        total += tokens
    assert total <= max_tokens


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(2, 40)), max_size=200), st.integers(30, 2000))
def test_each_stream_has_its_proportion_of_the_bound(documents, max_tokens):
    proportions = {"a": 0.5, "b": 1.5, "c": 0.0}
    streams = {name: PrepStreamConfig(proportion) for name, proportion in proportions.items()}
    rule = SelectionRule(ONE_FILE, max_tokens=max_tokens, streams=streams)
    selection = rule.of_task(0, 1, Tally(Path()))
    tokens: Counter = Counter()
    wanted = [each for each in documents if each[0] != "c"]
    full = set()
    for number, (stream, length) in enumerate(documents):
        assert selection.is_complete == (full == {"a", "b"})
        if selection.takes(f"{stream}/train", stream, "train", length, ("x", number)):
            assert stream not in full
            tokens[stream] += length
        elif stream != "c":
            full.add(stream)
        # held-out documents are not bounded
        assert selection.takes("a/validation", "a", "validation", 1000, ("x", number))
    assert tokens["c"] == 0
    assert tokens["a"] <= max_tokens * 0.25
    assert tokens["b"] <= max_tokens * 0.75
    for name, share in (("a", 0.25), ("b", 0.75)):
        if name not in full:
            assert tokens[name] == sum(length for stream, length in wanted if stream == name)
        else:
            assert tokens[name] > max_tokens * share - 41


def test_a_stream_without_a_proportion_is_one_error():
    rule = SelectionRule(ONE_FILE, max_tokens=9, streams={"web": PrepStreamConfig(1.0)})
    with pytest.raises(BadInputError, match=r"x.jsonl:3 is of the stream 'code', .*: add streams.code.proportion, "):
        rule.of_task(0, 1, Tally(Path())).takes("code/train", "code", "train", 5, ("x.jsonl", 3))


def test_validation_files_are_read_whatever_the_bound():
    inputs = InputFiles("", ("v.jsonl", "a.jsonl", "b.jsonl"), (1, 1, 1), num_validation=1)
    rule = SelectionRule(inputs, max_tokens=10)
    assert [[*inputs.of_task(task, 3)] for task in range(3)] == [[0], [1], [2]]
    assert not rule.of_task(0, 3, Tally(Path())).is_complete
    assert [rule.of_task(task, 3, Tally(Path()))._room for task in range(3)] == [None, {"": 5}, {"": 5}]
    assert rule.of_task(0, 1, Tally(Path()))._room == {"": 10}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("long.share=1.0",), r"long.share=1.0 is out of range: it must be in \[0, 1\). 0.7 is Fu et al."),
        (("long.min_tokens=2",), r"long.min_tokens=2 is too small"),
        (("max_tokens=0",), r"max_tokens=0 is too small: it must be at least 1"),
        (("streams.web.proportion=1",), r"streams divides max_tokens by stream_key, but stream_key is not set"),
        (("streams.web.proportion=1", "stream_key=x"), r"but max_tokens is not set: set both, or neither"),
        (("streams.web.proportion=-1",), r"proportion=-1.0 is too small"),
        (
            ("streams.web.proportion=0", "stream_key=x", "max_tokens=9"),
            r"streams \(web\) all have proportion 0: raise one",
        ),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(prepare, overrides, message):
    with pytest.raises(ConfigError, match=message):
        prepare(*overrides)


def _prepare_mixture(prepare, tmp_path, tokenizer_dir, make_texts, write_lines, *overrides: str) -> None:
    if not (tmp_path / "in").exists():
        for number in range(4):
            texts = [*make_texts(200, seed=number, words=20), *make_texts(20, seed=9 + number, words=300)]
            random.Random(number).shuffle(texts)
            lines = [json.dumps({"text": t, "set": "ab"[i % 3 == 0]}).encode() for i, t in enumerate(texts)]
            write_lines(tmp_path / "in" / f"{number}.jsonl", lines)
    prepare(
        "source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=127", "tasks=4", "heldout_ratio=0", "stream_key=set",
        *overrides,
    )  # fmt: skip


def _manifest(tmp_path, remote: str, stream: str) -> dict:
    return json.loads((tmp_path / remote / stream / "train" / "manifest.json").read_text())


def test_each_source_has_the_share_and_the_rest_is_reported(
    prepare, tmp_path, tokenizer_dir, make_texts, write_lines, capsys
):
    parts = (prepare, tmp_path, tokenizer_dir, make_texts, write_lines)
    _prepare_mixture(*parts, "remote=all")
    assert "long" not in capsys.readouterr().out
    _prepare_mixture(*parts, "remote=out", "long.share=0.7", "long.min_tokens=400")
    out = capsys.readouterr().out
    for stream in "ab":
        before, after = (_manifest(tmp_path, remote, stream) for remote in ("all", "out"))
        assert before["counts"] == {}
        assert 0.7 <= after["counts"][LONG_TOKENS] / after["tokens"] < 0.8, "the last document of a task may be long"
        assert after["documents"] + after["counts"][SHORT_LEFT_OUT] == before["documents"]
        assert after["tokens"] + after["counts"]["tokens_in_short_documents_left_out"] == before["tokens"]
        assert after["tokens"] == after["rows"] * 128 + after["dropped_tail_tokens"]
    assert "% of the tokens in long documents, " in out
    assert describe_selection({}, tokens=0, train_tokens=0, max_tokens=None) == ""


def test_a_source_without_long_documents_is_named(prepare, tmp_path, tokenizer_dir, make_texts, write_lines, capsys):
    lines = [json.dumps({"text": "word " * 900, "set": "books"}).encode()]
    lines += [json.dumps({"text": text, "set": "chat"}).encode() for text in make_texts(50)]
    write_lines(tmp_path / "in.jsonl", lines)
    prepare(
        "source=in.jsonl", "remote=out", f"tokenizer.name={tokenizer_dir}", "seq_len=127", "heldout_ratio=0",
        "stream_key=set", "long.share=0.5", "long.min_tokens=900",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert (
        "100.0% of the tokens in long documents, 50 short ones left out; too little for a row to train on: chat" in out
    )


def test_what_lies_beyond_the_bound_is_not_read(prepare, tmp_path, tokenizer_dir, make_texts, write_lines, capsys):
    parts = (prepare, tmp_path, tokenizer_dir, make_texts, write_lines)
    _prepare_mixture(*parts, "remote=all")
    for number in range(4):
        with (tmp_path / "in" / f"{number}.jsonl").open("ab") as file:
            file.write(
                b'{"set": "a", "text": "' + b"word " * 500_000 + b'"}\n'
            )  # so that the batch before is passed on
            file.write(b"bad\n")
    _prepare_mixture(
        *parts, "remote=out", "max_tokens=20_000", "streams.a.proportion=3", "streams.b.proportion=1", "max_bad_lines=0"
    )
    assert re.search(r"; 1\d,\d\d\d of max_tokens=20,000 for training; left out: 0 bad lines", capsys.readouterr().out)
    for stream, most in (("a", 15_000), ("b", 5_000)):
        cut, whole = (_manifest(tmp_path, remote, stream) for remote in ("out", "all"))
        longest = 4 * max(whole["tokens"] // whole["documents"] * 20, 1)
        assert most - longest < cut["tokens"] <= most < whole["tokens"]
        rates = [each["text_bytes"] / each["tokens"] for each in (cut, whole)]  # of what is kept, not of what was read
        assert rates[0] == pytest.approx(rates[1], rel=0.05)

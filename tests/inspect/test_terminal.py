"""Take the marks away and what is left is the decoded text; colours only where they can be seen."""

import os
import re
import sys

import pytest

from meap.inspect.pieces import Cutter
from meap.inspect.terminal import mark_with_brackets, mark_with_color, print_samples
from meap.show.text import escape_controls

ANSI = re.compile("\x1b\\[[0-9;]*m")
MASKED = re.compile("\x1b\\[7;35m(.*?)\x1b\\[0m")
BRACKETS = "⟦⟧⟪⟫⟨⟩"


def decoded(data, part) -> str:
    """The text, decoded from special token to special token by the tokenizer alone."""
    text, run = [], []
    for token in [*part.tokens.tolist(), None]:
        if token is not None and token not in {0, 1}:
            run.append(token)
            continue
        text += [data.tokenizer.decode(run), "" if token is None else data.tokenizer.full.id_to_token(token)]
        run = []
    return escape_controls("".join(text))


@pytest.fixture(params=["rows", "conversations"])
def parts(request, rows_remote, sft_remote, open_split):
    data = open_split(rows_remote if request.param == "rows" else sft_remote, "ratio=0.3")
    return data, [part for number in range(12) for part in data.sample(number).parts]


def test_without_brackets_it_is_the_text(parts):
    data, parts = parts
    for part in parts:
        marked = mark_with_brackets(Cutter(data.tokenizer).cut(part))
        plain = "".join(each for each in marked if each not in BRACKETS)
        assert plain == re.sub(f"[{BRACKETS}]", lambda found: f"\\u{ord(found[0]):04x}", decoded(data, part))
        for opening, closing in ("⟦⟧", "⟪⟫", "⟨⟩"):
            assert marked.count(opening) == marked.count(closing)
        assert marked.count("⟨") == int((part.tokens <= 1).sum())


def test_without_colours_it_is_the_text(parts):
    data, parts = parts
    for part in parts:
        marked = mark_with_color(Cutter(data.tokenizer).cut(part))
        assert ANSI.sub("", marked).replace("↵", "") == decoded(data, part)
        assert "\x1b" not in ANSI.sub("", marked)
        assert not re.search("\x1b\\[[0-9;]*[1-9]m[^\x1b]*\n", marked)  # no colour runs on over the end of a line


def test_as_many_marks_as_masked_tokens(parts):
    data, parts = parts
    for part in parts:
        pieces = Cutter(data.tokenizer).cut(part)
        assert sum(piece.num_masked for piece in pieces) == part.is_masked.sum()
        masked = [piece for piece in pieces if piece.num_masked]
        assert mark_with_brackets(pieces).count("⟦") == len(masked)
        visible = [line for piece in masked for line in piece.text.split("\n")[:1] if piece.text]
        assert len(MASKED.findall(mark_with_color(pieces))) >= len(visible)
        if (part.tokens < 128).all():
            assert len(masked) == part.is_masked.sum()


def test_answers_are_marked_where_they_are_scored(sft_remote, open_split):
    for loss in ("answer+masked", "masked"):
        data = open_split(sft_remote, f"loss={loss}")
        for part in (part for number in range(6) for part in data.sample(number).parts):
            marked = mark_with_brackets(Cutter(data.tokenizer).cut(part))
            assert ("⟪" in marked) == (part.is_scored & ~part.is_masked).any()
            assert ("⟦" in marked) == part.is_copy


@pytest.mark.parametrize(
    ("color", "environment", "expected"),
    [
        ("auto", {}, True),
        ("auto", {"NO_COLOR": "1"}, False),
        ("auto", {"NO_COLOR": ""}, True),
        ("auto", {"TERM": "dumb"}, False),
        ("never", {}, False),
        ("always", {"NO_COLOR": "1"}, True),
    ],
)
def test_colours_on_a_terminal_unless_turned_off(rows_remote, open_split, monkeypatch, color, environment, expected):
    data = open_split(rows_remote)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    master, slave = os.openpty()
    with os.fdopen(master, "rb", 0) as screen, os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        print_samples(data, [], color=color)
        terminal.flush()
        monkeypatch.undo()
        written = b""
        while b"special token" not in written:
            written += screen.read(4096)
    shown = written.decode()
    assert ("\x1b[" in shown) == expected
    assert ("⟦masked" in shown) != expected


def test_a_pipe_gets_brackets_and_every_sample_its_numbers(rows_remote, sft_remote, open_split, capsys):
    data = open_split(rows_remote, "ratio=0.25", "epoch=3")
    print_samples(data, [data.sample(4)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "ratio 0.25, single tokens, seed 17, epoch 3\n" in shown
    assert "── sample 4, epoch 3: 16 masked of 64 (25.0%) ──\n" in shown
    data = open_split(sft_remote, "layout=separate")
    sample = data.sample(1)
    print_samples(data, [sample])
    shown = capsys.readouterr().out
    assert "; layout separate, loss answer+masked\n" in shown
    assert shown.count("\n─ conversation ") == len(sample.parts)
    assert shown.count(", masked copy: ") == sum(part.is_copy for part in sample.parts) > 0

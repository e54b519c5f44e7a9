"""Progress: lines in a log, a bar on a terminal, which is given back whatever happens."""

import io
import re

import pytest

from meap.show import progress
from meap.show.progress import Display, Position, counting

AT = Position(1, 4, "a line", head="the task", left="0:00:30 left", details=(("a detail", "red"), ("", "dim")))


@pytest.fixture
def now(monkeypatch):
    time = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    screen.isatty = lambda: True
    return screen


def plain(screen: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


def test_in_a_log_there_is_a_line_now_and_then(now):
    log = io.StringIO()
    with Display(interval=5, file=log) as display:
        for now[0] in (1.0, 4.9, 5.0, 6.0, 10.0):
            display.show(Position(now[0], 10, f"at {now[0]:g}"))
        display.say("something")
        display.show(Position(10, 10, "the end"), now=True)
    assert log.getvalue().splitlines() == ["at 5", "at 10", "something", "the end"]


def test_counting_has_the_time_left_and_the_last_line(now, capsys):
    with counting("perplexity") as show:
        for now[0], done in ((2.0, 1), (10.0, 5), (12.0, 6), (20.0, 10)):
            show(done, 10)
    assert capsys.readouterr().out.splitlines() == [
        "perplexity               5/10 tokens | 0:00:10 so far, 0:00:10 left",
        "perplexity              10/10 tokens | 0:00:20 so far, 0:00:00 left",
    ]


def test_on_a_terminal_there_is_a_bar_and_what_is_said_stands_above(screen):
    with Display(title="a [bold]title[/bold]", file=screen) as display:
        display.show(AT, now=True)
        display.say("warning: [bold]not markup[/bold]")
    shown = plain(screen)
    for part in ("a [bold]title[/bold]", "the task", "25%", "0:00:30 left", "a detail", "━"):
        assert part in shown
    assert "a line" not in shown
    assert shown.rindex("warning: [bold]not markup[/bold]") < shown.rindex("the task")
    assert shown.count("warning: ") == 1


def test_a_bar_of_unknown_length_has_no_percentage(screen):
    with Display(file=screen) as display:
        display.show(Position(3, None, "", head="the task"), now=True)
    assert "the task" in plain(screen)
    assert "%" not in plain(screen)


def test_the_terminal_is_given_back_after_an_error(screen):
    with pytest.raises(ZeroDivisionError), counting("x", file=screen):
        raise ZeroDivisionError
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1


def test_a_dumb_terminal_has_lines(screen, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with Display(interval=0, file=screen) as display:
        display.show(AT)
    assert screen.getvalue() == "a line\n"
